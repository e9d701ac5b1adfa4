"""The command `trust`: how far any reward model can be trusted on judged answers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sawyer.cli.console import chip, say, stderr, stdout
from sawyer.cli.data_commands import column_names
from sawyer.cli.remote_code_option import TrustRemoteCode
from sawyer.cli.streams import as_json as json_of
from sawyer.cli.streams import print_line
from sawyer.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

    from sawyer.records import JudgedPrompt, Prompt
    from sawyer.trust import Figure, Side, Trust, Verdict

LOOKS = {"trust": "ok", "trust_above": "warn", "guarded": "warn", "refuse": "fail"}
SIDES = {"all": "all judged", "file": "the files'", "own": "SFT's own", "gold": "SFT's own, by gold"}


def trust(
    model: Annotated[str, typer.Argument(help="A run's folder, a reward model's folder or a hub id.", metavar="MODEL")],
    data: Annotated[list[str], typer.Option(help="A file of judged answers; may be given several times.")],
    columns: Annotated[list[str] | None, typer.Option(help="Their column's name and ours, such as query=prompt.")] = None,
    held_out: Annotated[
        float,
        typer.Option(help="Only prompts that a run with this reward.eval_fraction keeps back; 1: all.", min=0.001, max=1.0),
    ] = 1.0,
    max_bad_rows: Annotated[
        float, typer.Option(help="Share of a file's rows that may be left out, as in the config.", min=0, max=1)
    ] = 0.01,
    limit: Annotated[int | None, typer.Option(help="The most prompts taken, an even draw.", min=1)] = None,
    world: Annotated[bool, typer.Option("--world", help="The prompts are the built-in world's: the truth is known.")] = False,
    template: Annotated[str | None, typer.Option(help="In place of what a decoder's tokenizer brings.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Every figure as one line of JSON.")] = False,
    out: Annotated[str | None, typer.Option(help="Write the page: a .html file, or a folder for page and figures.")] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn at random.", min=0)] = 0,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Say how far a reward model can be trusted, and why: accuracy, calibration, length, damaged answers."""
    from statistics import fmean

    from sawyer.models import TextScorer, read_extra, remote_code, reward_folder
    from sawyer.trust import as_json as values_of
    from sawyer.trust import told
    from sawyer.trust import trust as examine

    console = stdout()
    records = _records(data, column_names(columns or []), max_bad_rows, held_out, limit, stderr())
    folder = Path(reward_folder(model))
    with remote_code(trust_remote_code):
        scorer = TextScorer(model, template=template).inner
    if scorer.note:
        say(stderr(), (f"{scorer.note}.", "yellow"))
    loss = read_extra(folder).get("loss") if os.path.isdir(folder) else None
    found = examine(
        scorer,
        records,
        loss=str(loss) if loss else None,
        unit=fmean(member.scale for member in scorer.members),  # an ensemble's as in training
        truth=_truth() if world else None,
        held_out=held_out < 1.0,
        seed=seed,
    )
    verdict = told(found)
    written = _write(Path(out), values_of(found, verdict), model) if out is not None else []
    if as_json:
        print_line(json_of(values_of(found, verdict)))
        return
    _show(console, found, verdict)
    _show_guards(console, verdict)
    for path in written:
        say(console, ("Wrote ", "dim"), str(path))


def _records(
    data: list[str],
    columns: Mapping[str, str],
    max_bad_rows: float,
    held_out: float,
    limit: int | None,
    console: Console,
) -> list[JudgedPrompt]:
    """The judged answers asked for; what was skipped is said."""
    from sawyer.records import JudgedPrompt, bucket, read, split

    found = read(data, want="comparisons", columns=columns, max_bad_rows=max_bad_rows)
    for words, style in ((found.warning, "yellow"), (found.remarks().removeprefix("; "), "dim")):
        if words:
            say(console, (words, style))
    records = [record for record in found.records if isinstance(record, JudgedPrompt)]
    _, chosen = split(records, held_out)
    if not chosen:
        raise DataError(
            f"--held-out {held_out:g} leaves none of the {len(records):,} prompts",
            expected="at least one judged prompt",
            todo="give the share that the run had, or leave it out to take all prompts",
        )
    if limit is not None and limit < len(chosen):
        say(console, (f"{limit:,} of {len(chosen):,} judged prompts are taken", "yellow"))
        return sorted(chosen, key=lambda record: bucket(record.prompt))[:limit]
    return list(chosen)


def _truth() -> Any:
    from sawyer.worlds import gold

    def score(prompt: Prompt, response: str) -> float:
        return gold(prompt.text, response).score

    return score


def _write(out: Path, values: Mapping[str, Any], title: str) -> list[Path]:
    """The page alone into a file that ends with .html; page and figures into a folder."""
    from sawyer.report import build_trust
    from sawyer.runs import Layout, write_json

    if out.suffix == ".html":
        return [build_trust(values, out, title)]
    layout = Layout(out)
    figures = out / layout.trust.name
    write_json(figures, dict(values))
    return [build_trust(values, layout.report, title), figures]


def _show(console: Console, found: Trust, verdict: Verdict) -> None:
    """The verdict, then the figures of each side, the probes, and the ceiling."""
    from rich.table import Table

    def table(*names: str) -> Table:
        drawn = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        for place, name in enumerate(names):
            drawn.add_column(name, justify="left" if not place else "right", overflow="fold")
        return drawn

    say(console, chip(LOOKS[verdict.kind]), "  ", (verdict.words, "bold"))
    console.print()
    sides = table("", *(SIDES[side.name] for side in found.sides))
    for name, of in FIGURES.items():
        sides.add_row(name, *(of(side) for side in found.sides))
    console.print(sides)
    first = found.everything
    if first.by_gap:
        console.print()
        gaps = table("judges' scores apart by", "accuracy", "interval", "pairs")
        for gap in first.by_gap:
            gaps.add_row(gap.name, *_in_parts(gap.accuracy))
        console.print(gaps)
    if found.damaged.cases:
        console.print()
        probes = table("damaged answers that win", "share", "interval", "tried")
        for probe in (p for p in found.probes if p.wins.cases):
            probes.add_row(probe.what, *_in_parts(probe.wins))
        probes.add_row("all", *_in_parts(found.damaged), style="bold")
        console.print(probes)
    if unseen := sum(probe.unseen for probe in found.probes):
        console.print()
        say(console, f"{unseen:,} more damaged answers got the same score as the whole ones, to rounding: they show nothing.")
    if found.ceiling is not None:
        console.print()
        top = found.ceiling.accuracy
        say(console, f"No model gets above {_share(top)} against these judges, assuming that {found.ceiling.assumption}.")


def _show_guards(console: Console, verdict: Verdict) -> None:
    """The guards that are asked for as lines of a config: RL sets them by itself only where it was the run that asked."""
    if not verdict.guards:
        return
    console.print()
    say(
        console, "RL sets these guards where a run's own reward stage asked for them. With any other reward model put them into"
    )
    say(console, "the config, where yours are not stricter:")
    for line in ("rl:", "  guards:", *(f"    {one.guard}: {{threshold: {one.threshold:g}}}" for one in verdict.guards)):
        say(console, line)


def _in_parts(figure: Figure) -> tuple[str, str, str]:
    return f"{figure.value:.0%}", f"{figure.low:.0%} to {figure.high:.0%}", f"{figure.cases:,}"


def _share(figure: Figure) -> str:
    return f"{figure.value:.0%} ({figure.low:.0%} to {figure.high:.0%})" if figure.cases else "–"


def _signed(figure: Figure | None) -> str:
    return f"{figure.value:+.2f} ({figure.low:+.2f} to {figure.high:+.2f})" if figure is not None and figure.cases else "–"


def _calibrated(side: Side) -> str:
    return f"{side.calibration[0].error.value:.0%}, {side.calibration[0].formula}" if side.calibration else "–"


FIGURES: Mapping[str, Any] = {
    "prompts, pairs": lambda side: f"{side.prompts:,}, {side.pairs:,}",
    "accuracy": lambda side: _share(side.accuracy),
    "best simple rule": lambda side: f"{side.best_rule}, {side.best_rule_value:.0%}" if side.pairs else "–",
    "  where better is longer": lambda side: _share(side.when_longer),
    "  where better is shorter": lambda side: _share(side.when_shorter),
    "calibration error": _calibrated,
    "reward with length": lambda side: _signed(side.length.all),
    "  within a prompt": lambda side: _signed(side.length.within),
    "  at equal scores": lambda side: _signed(side.length_controlled),
    "reward with judges' score": lambda side: _signed(side.score.within),
    "reward with true score": lambda side: _signed(side.truth.within if side.truth else None),
}
