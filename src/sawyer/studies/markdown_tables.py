"""Tables as Markdown that is also read well on a terminal, and the words for figures in them."""

from __future__ import annotations

from collections.abc import Sequence

from sawyer.stats import Interval

NOTHING = "–"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns padded to one width; the first to the left, the others to the right."""
    lines = [[cell.replace("|", "/").replace("\n", " ") for cell in line] for line in (header, *rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(header))]

    def drawn(line: Sequence[str]) -> str:
        first, *rest = zip(line, widths, strict=True)
        return f"| {' | '.join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([drawn(lines[0]), f"|{rule}|", *map(drawn, lines[1:])])


def figure(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """A number with so many decimals; a dash where it is not known."""
    return NOTHING if value is None else f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def with_interval(found: Interval | None, digits: int = 2, *, sign: bool = False) -> str:
    """7.73 (7.51 to 7.95)."""
    if found is None:
        return NOTHING
    value, low, high = (figure(each, digits, sign=sign) for each in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"


def in_all(count: int, whole: int) -> str:
    """10 of 10."""
    return f"{count} of {whole}"
