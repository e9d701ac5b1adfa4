"""What a study finds: its cells' figures, a table of them, as JSON and as Markdown that is also read well on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from sawyer.runs import Layout, write_json, write_text
from sawyer.stats import Interval

NOTHING = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """What a finished cell came to."""

    row: str
    seed: int
    out: str
    figures: Mapping[str, Any]
    failure: str = ""  # why it did not come to its end


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A figure over the seeds."""

    value: float  # the mean
    low: float  # the lowest seed's
    high: float
    deviation: float | None  # sample standard deviation; None with one seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """By how much one row of the table is better than another in a measure."""

    measure: str
    better: str
    worse: str
    by: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """A study's table, the cells that it is made from, and what may be concluded."""

    study: str
    out: str
    measure: str  # what the rows are judged by
    seeds: tuple[int, ...]
    rows: tuple[Mapping[str, Any], ...]  # `name`, then figures by name: intervals, spreads, numbers, words
    cells: tuple[CellResult, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    text: str  # title, table and notes in Markdown


def spread_of(values: Sequence[float]) -> Spread:
    """Mean, extremes and deviation of at least one value."""
    deviation = stdev(values) if len(values) > 1 else None
    return Spread(value=fmean(values), low=min(values), high=max(values), deviation=deviation)


def write_result(result: Any) -> None:
    """The study's figures as JSON and its text as Markdown, into its folder."""
    layout = Layout(Path(result.out))
    figures = asdict(result)
    write_text(layout.table_text(result.study), figures.pop("text"))
    write_json(layout.table(result.study), figures)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns padded to one width; the first to the left, the others to the right."""
    lines = [[cell.replace("|", "/").replace("\n", " ") for cell in line] for line in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def pad_line(line: Sequence[str]) -> str:
        first, *rest = zip(line, widths, strict=True)
        return f"| {' | '.join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([pad_line(lines[0]), f"|{rule}|", *map(pad_line, lines[1:])])


def page(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], notes: Iterable[str]) -> str:
    """A title, a table and notes as Markdown."""
    return "\n".join([title, "", table(header, rows), "", *(f"- {note}" for note in notes), ""])


def figure(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """A number with so many decimals; a dash where it is not known."""
    return NOTHING if value is None else f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def with_interval(interval: Interval | Spread | None, digits: int = 2, *, sign: bool = False, scale: float = 1.0) -> str:
    """7.73 (7.51 to 7.95)."""
    if interval is None:
        return NOTHING
    bounds = (interval.value, interval.low, interval.high)
    value, low, high = (figure(scale * each, digits, sign=sign) for each in bounds)
    return f"{value} ({low} to {high})"
