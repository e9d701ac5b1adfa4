"""`sawyer trust`: how far a reward model can be trusted, examined on judged answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sawyer.cli.console import chip, say, stderr, stdout
from sawyer.cli.judge_examination import cache_beside, examine_judge, parse_judge
from sawyer.cli.options import Columns, MaxBadRows, RemoteCode, Template, parse_columns
from sawyer.cli.streams import as_json as json_line
from sawyer.cli.streams import print_line
from sawyer.errors import ConfigError, DataError
from sawyer.records import MAX_BAD_ROWS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sawyer.records import JudgedPrompt, Prompt
    from sawyer.trust import Figure, Trust, Verdict

CHIP_OF = {"trust": "ok", "trust_above": "warn", "guarded": "warn", "refuse": "fail"}


def trust(
    data: Annotated[list[str], typer.Option(help="A file of judged answers; may be repeated.")],
    model: Annotated[
        str | None, typer.Argument(help="A run's folder, a reward model's folder or a hub id; or --judge.", metavar="[MODEL]")
    ] = None,
    columns: Columns = None,
    eval_fraction: Annotated[
        float,
        typer.Option(help="Only the prompts that a run with this reward.eval_fraction holds out; 1: all.", min=0.001, max=1.0),
    ] = 1.0,
    max_bad_rows: MaxBadRows = MAX_BAD_ROWS,
    limit: Annotated[int | None, typer.Option(help="The most prompts to use, an even sample.", min=1)] = None,
    world: Annotated[
        bool, typer.Option("--world", help="The prompts are the built-in world's: gold scores are known.")
    ] = False,
    template: Template = None,
    judge: Annotated[
        str | None, typer.Option(help="In place of MODEL: the url of an OpenAI-compatible endpoint that judges.", metavar="URL")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's model there.")] = None,
    rubric: Annotated[str | None, typer.Option(help="What the judge looks at: a text file, or the text.")] = None,
    judge_setting: Annotated[
        list[str] | None,
        typer.Option(help="A setting of collect.judge, such as timeout=300; may be repeated.", metavar="NAME=VALUE"),
    ] = None,
    judge_cache: Annotated[
        str | None, typer.Option(help="Where the judge's replies are kept; default: beside the first file.", metavar="FILE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every figure as one line of JSON.")] = False,
    out: Annotated[str | None, typer.Option(help="Write the page: a .html file, or a folder for page and figures.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap and the sample.", min=0)] = 0,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Say how far a reward model or a judge can be trusted, and why: accuracy, length, damaged answers."""
    from sawyer.trust import as_json as values_of
    from sawyer.trust import decide_verdict

    if (model is None) == (judge is None):
        raise ConfigError(
            "trust needs a reward model or a judge, and one of them only",
            expected="MODEL, or --judge URL --judge-model NAME",
            todo="name the one to examine",
        )
    records = _read_records(data, parse_columns(columns or []), max_bad_rows, eval_fraction, limit, stderr())
    truth, held_out = _gold_score if world else None, eval_fraction < 1.0
    if judge is not None:
        settings = parse_judge(judge, judge_model, rubric, judge_setting or [])
        cache = Path(judge_cache) if judge_cache is not None else cache_beside(data[0])
        report = examine_judge(settings, records, cache, truth=truth, held_out=held_out, seed=seed)
    else:
        _refuse_judge_options(judge_model, rubric, judge_setting, judge_cache)
        assert model is not None
        report = _examine_model(model, records, template, trust_remote_code, truth=truth, held_out=held_out, seed=seed)
    verdict = decide_verdict(report)
    title = model if report.judge is None else f"judge {report.judge.model}"
    paths = _write_page(Path(out), values_of(report, verdict), str(title)) if out is not None else []
    if as_json:
        print_line(json_line(values_of(report, verdict)))
        return
    console = stdout()
    _print_report(console, report, verdict)
    _print_guards(console, verdict)
    for path in paths:
        say(console, ("Wrote ", "dim"), str(path))


def _refuse_judge_options(*options: object) -> None:
    """Of a reward model they would do nothing."""
    if any(options):
        raise ConfigError(
            "options of a judge are given, and no judge",
            expected="--judge URL with --judge-model, --rubric, --judge-setting and --judge-cache",
            todo="add --judge, or leave them out",
        )


def _examine_model(
    model: str,
    records: Sequence[JudgedPrompt],
    template: str | None,
    trust_remote_code: bool,
    *,
    truth: Callable[[Prompt, str], float] | None,
    held_out: bool,
    seed: int,
) -> Trust:
    from statistics import fmean

    from sawyer.models import TextScorer, read_extra, remote_code, reward_folder
    from sawyer.trust import trust as examine

    folder = Path(reward_folder(model))
    with remote_code(trust_remote_code):
        scorer = TextScorer(model, template=template).inner
    if scorer.note:
        say(stderr(), (f"{scorer.note}.", "yellow"))
    loss = read_extra(folder).get("loss") if os.path.isdir(folder) else None
    return examine(
        scorer,
        records,
        loss=str(loss) if loss else None,
        unit=fmean(member.scale for member in scorer.members),  # the ensemble's unit, as in training
        truth=truth,
        held_out=held_out,
        seed=seed,
    )


def _read_records(
    data: list[str],
    columns: Mapping[str, str],
    max_bad_rows: float,
    eval_fraction: float,
    limit: int | None,
    console: Console,
) -> list[JudgedPrompt]:
    """The selected judged answers. What is skipped is printed."""
    from sawyer.records import JudgedPrompt, bucket, read, split

    source = read(data, want="comparisons", columns=columns, max_bad_rows=max_bad_rows)
    for words, style in ((source.warning, "yellow"), (source.remarks().removeprefix("; "), "dim")):
        if words:
            say(console, (words, style))
    records = [record for record in source.records if isinstance(record, JudgedPrompt)]
    _, held_out = split(records, eval_fraction)
    if not held_out:
        raise DataError(
            f"--eval-fraction {eval_fraction:g} leaves none of the {len(records):,} prompts",
            expected="at least one judged prompt",
            todo="give the run's reward.eval_fraction, or leave the option out to use all prompts",
        )
    if limit is not None and limit < len(held_out):
        say(console, (f"{limit:,} of {len(held_out):,} judged prompts are used", "yellow"))
        return sorted(held_out, key=lambda record: bucket(record.prompt))[:limit]
    return list(held_out)


def _gold_score(prompt: Prompt, response: str) -> float:
    from sawyer.worlds import gold

    return gold(prompt.text, response).score


def _write_page(out: Path, values: Mapping[str, Any], title: str) -> list[Path]:
    """The page alone into a file that ends with .html; page and figures into a folder."""
    from sawyer.report import build_trust
    from sawyer.runs import Layout, write_json

    if out.suffix == ".html":
        return [build_trust(values, out, title)]
    layout = Layout(out)
    figures = out / layout.trust.name
    write_json(figures, dict(values))
    return [build_trust(values, layout.report, title), figures]


def _print_report(console: Console, report: Trust, verdict: Verdict) -> None:
    """The verdict, then the figures of each side as on the page, the probes, and the ceiling."""
    from sawyer.report.trust_section import SIDES, judge_note, trust_rows
    from sawyer.trust import as_json as values_of

    say(console, chip(CHIP_OF[verdict.kind]), "  ", (verdict.words, "bold"))
    sides = _figure_table("", *(SIDES[side.name] for side in report.sides))
    for row in trust_rows(values_of(report, verdict)["sides"]):
        cells = (cell or ("–", "") for cell in row.cells)
        sides.add_row(row.name, *(f"{value} ({interval})" if interval else value for value, interval in cells))
    tables = [sides]
    if report.everything.by_gap:
        gaps = _figure_table("judges' scores apart by", "accuracy", "interval", "pairs")
        for gap in report.everything.by_gap:
            gaps.add_row(gap.name, *_cells(gap.accuracy))
        tables.append(gaps)
    if report.corrupted_win_rate.cases:
        probes = _figure_table("damaged answers that win", "share", "interval", "tried")
        for probe in report.probes:
            if probe.wins.cases:
                probes.add_row(probe.what, *_cells(probe.wins))
        probes.add_row("all", *_cells(report.corrupted_win_rate), style="bold")
        tables.append(probes)
    tables += _judge_tables(report)
    for table in tables:
        console.print()
        console.print(table)
    for calibration in report.everything.calibration[:1]:
        say(console, ("Calibrated probability: ", "dim"), f"{calibration.formula}: {calibration.why}")
    if unseen := sum(probe.unseen for probe in report.probes):
        console.print()
        say(console, f"{unseen:,} more damaged answers got the same score as the whole ones, to rounding: they show nothing.")
    if note := judge_note(values_of(report, verdict)["judge"]):
        console.print()
        say(console, note)
    if report.ceiling is not None:
        console.print()
        share, interval, _ = _cells(report.ceiling.accuracy)
        words = f"No model gets above {share} ({interval}) against these judges"
        say(console, f"{words}, assuming that {report.ceiling.assumption}.")


def _judge_tables(report: Trust) -> list[Table]:
    """Of a judge: text that addresses it, and pairs in both orders."""
    judge = report.judge
    if judge is None:
        return []
    tables = []
    if judge.obedience.cases:
        injections = _figure_table("text in answers that raises the judge's score", "share", "interval", "tried")
        for probe in judge.injections:
            injections.add_row(probe.what, *_cells(probe.wins))
        injections.add_row("all", *_cells(judge.obedience), style="bold")
        tables.append(injections)
    if judge.consistency.cases:
        order = _figure_table("pairs in both orders", "share", "interval", "cases")
        order.add_row("judged alike in both", *_cells(judge.consistency))
        order.add_row("verdicts for the answer shown first", *_cells(judge.first_wins))
        order.add_row("judged as the file's judges did, ties half", *_cells(judge.agreement))
        tables.append(order)
    return tables


def _print_guards(console: Console, verdict: Verdict) -> None:
    """The guards that the verdict needs, as lines of a config. RL sets them itself only for a run's own reward model."""
    if not verdict.guards:
        return
    console.print()
    say(console, "RL sets these guards by itself for a reward model of its own run. For any other reward model put them into")
    say(console, "the config, where yours are not stricter:")
    for line in ("rl:", "  guards:", *(f"    {one.guard}: {{threshold: {one.threshold:g}}}" for one in verdict.guards)):
        say(console, line)


def _figure_table(first: str, *others: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _cells(figure: Figure) -> tuple[str, str, str]:
    from sawyer.stats import percent

    return percent(figure.value), f"{percent(figure.low)} to {percent(figure.high)}", f"{figure.cases:,}"
