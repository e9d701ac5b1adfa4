"""Commands about data: init, check, world."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sawyer.cli.console import say, stdout
from sawyer.cli.options import Columns, MaxBadRows, RemoteCode, parse_columns
from sawyer.errors import ConfigError
from sawyer.records import MAX_BAD_ROWS

if TYPE_CHECKING:
    from rich.console import Console

    from sawyer.pipeline import StagePlan
    from sawyer.records import FileReport, Prompt

CONFIG_SUFFIXES = (".yaml", ".yml")
PROBLEM_LIMIT = 50  # problems listed for a file
LABEL_WIDTH = 12  # of the plan's first column
STATE_NOTES = {"done": "done, not checked again", "waiting": "waits for scores"} | dict.fromkeys(
    ("interrupted", "running", "failed"), "resumes where it stopped"
)


def init(
    path: Annotated[str, typer.Argument(help="The file to write.")] = "sawyer.yaml",
    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="Where you start: base (a base model, all stages), instruct (a model that follows instructions), reward (a "
            "reward model alone), rl (an existing reward model or your own functions), dpo (preference pairs).",
        ),
    ] = "base",
) -> None:
    """Write a commented sawyer.yaml to start from."""
    from sawyer.config import template_file
    from sawyer.runs import write_text

    target = Path(path)
    if os.path.isdir(target):
        target = target / "sawyer.yaml"
    if os.path.exists(target):
        raise ConfigError(
            f"{target} exists already",
            why="your settings in it would be lost",
            todo="name another file: sawyer init OTHER.yaml",
        )
    if not os.path.isdir(target.parent):
        raise ConfigError(f"there is no folder {target.parent}", todo="make it first")
    write_text(target, template_file(start))
    console = stdout()
    say(console, f"Wrote {target}. Put your model and files in, then:")
    say(console, (f"  sawyer check {target}", "bold"), ("    the plan, and whether it would be refused", "dim"))
    say(console, (f"  sawyer run {target}", "bold"))


def check(
    files: Annotated[
        list[str],
        typer.Argument(help="Files or patterns; or a run's file, and settings that replace its own.", metavar="FILE..."),
    ],
    held_out: Annotated[list[str] | None, typer.Option(help="A file that must share no prompt with the others.")] = None,
    columns: Columns = None,
    model: Annotated[str | None, typer.Option(help="A model folder or id; prompts too long for it are reported.")] = None,
    template: Annotated[str, typer.Option(help="With --model: the run's chat template.")] = "auto",
    max_bad_rows: MaxBadRows = MAX_BAD_ROWS,
    limit: Annotated[int, typer.Option(help="Problems listed for each file; 0 lists all.", min=0)] = PROBLEM_LIMIT,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Read data as training would and list every problem as file:line:field. For a run's file (.yaml), print the whole plan.
    Exit code 1 if training would refuse it."""
    if Path(files[0]).suffix.lower() in CONFIG_SUFFIXES:
        check_run(files[0], files[1:])
        return
    from sawyer.records import check as check_files

    length, context, unrenderable = None, None, None
    if model is not None:
        from sawyer.models import open_language_model, remote_code
        from sawyer.text import find_unrenderable

        with remote_code(trust_remote_code):
            prompt_encoder = open_language_model(model, template).prompt_encoder

        def length(prompt: Prompt, answer: str | None) -> int:
            if answer is None:
                return len(prompt_encoder.prompt(prompt))
            row = prompt_encoder.answer(prompt, answer)
            return len(row.ids) + row.cut

        context, unrenderable = prompt_encoder.context, partial(find_unrenderable, prompt_encoder)
    console = stdout()
    reports = check_files(
        files,
        held_out=held_out or [],
        columns=parse_columns(columns or []),
        length=length,
        context=context,
        find_unrenderable=unrenderable,
        max_bad_rows=max_bad_rows,
    )
    for report in reports:
        _print_report(console, report, limit)
    console.print()
    if names := [report.file for report in reports if report.is_refused]:
        say(console, ("Training would refuse ", "bold red"), ", ".join(names))
        raise typer.Exit(1)
    subject = "the file" if len(reports) == 1 else f"all {len(reports)} files"
    # Lines of text have no answers to learn from.
    prompts_alone = all(report.want == "prompts" for report in reports)
    say(console, ("Training would take ", "bold green"), subject, " as prompts, not as answers to learn" * prompts_alone)


def check_run(config: str, overrides: Sequence[str]) -> None:
    """Print what the run would do and why it would be refused. Trains and writes nothing. Exits 1 if it would be refused."""
    from sawyer.config import load_config
    from sawyer.pipeline import foreign_code, preflight

    console, run_config = stdout(), load_config(config, overrides)
    # Before anything is imported: the config may come from somebody else, and the plan tries its functions.
    for stage in ("reward", "rl"):
        if code := foreign_code(run_config, stage):
            say(console, (f"{stage} runs Python that the config names: ", "yellow"), code)
    problems = _print_plan(console, preflight(run_config))
    console.print()
    if problems:
        plural = "s" * (problems > 1)
        say(console, ("The run would be refused ", "bold red"), f"for {problems} problem{plural}; nothing was trained")
        raise typer.Exit(1)
    say(console, ("The run would begin ", "bold green"), f"with: sawyer run {' '.join([config, *overrides])}")


def world(
    out: Annotated[str, typer.Option(help="The folder to write into.")],
    seed: Annotated[int, typer.Option(help="Seed of everything drawn at random.", min=0)] = 0,
    rater: Annotated[str, typer.Option(help="Who scores the comparisons: honest, length_lover, lazy or flipper.")] = "honest",
) -> None:
    """Write the built-in world as files in public formats: instructions, comparisons, prompts, held-out prompts, statements."""
    from sawyer.runs import disk_errors
    from sawyer.worlds import RATERS, write_world

    if rater not in RATERS:
        raise ConfigError(f"there is no rater {rater!r}", expected=f"one of: {', '.join(RATERS)}", todo="name one of them")
    with disk_errors(Path(out)):
        paths = write_world(Path(out), seed=seed, rater=rater)
    console = stdout()
    for name, path in paths.items():
        say(console, f"  {name:<14}", (str(path), "bold"))


def _print_report(console: Console, report: FileReport, limit: int) -> None:
    """One file: the format it was read as, its problems, their counts."""
    from sawyer.records import unread_in_words

    verdict = ("✕", "red") if report.is_refused else ("!", "yellow") if report.problems else ("✓", "green")
    summary = f"{report.records:,} {'record' if report.records == 1 else 'records'}, read as {report.format or report.want}"
    say(console, verdict, " ", (report.file, "bold"), f"  ({summary})")
    problems = report.problems if limit == 0 else report.problems[:limit]
    for problem in problems:
        say(console, "  ", (problem.where, "red" if problem.fatal else "yellow"), f": {problem.message}")
        if problem.todo:
            say(console, (f"      {problem.todo}", "dim"))
    if len(problems) < len(report.problems):
        say(console, (f"  and {len(report.problems) - len(problems):,} more (--limit 0 lists all)", "dim"))
    if report.unread:
        say(console, (f"  {unread_in_words(report.unread, most=len(report.unread), prompts=report.want == 'prompts')}", "dim"))
    if report.problems:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in report.counts.items())
        say(console, ("  counts: ", "dim"), counts)


def _print_plan(console: Console, plans: Sequence[StagePlan]) -> int:
    """Each stage with what it would do and its problems; returns the number of problems."""
    from sawyer.runs import STAGES

    for plan in plans:
        verdict = ("✕", "red") if plan.problems else ("✓", "green")
        state = "" if plan.status == "pending" else f"  ({STATE_NOTES.get(plan.status, plan.status)})"
        say(console, verdict, " ", (STAGES[plan.stage], "bold"), (state, "dim"))
        for name, words in plan.facts:
            say(console, (f"  {name:<{LABEL_WIDTH}} ", "yellow" if name == "warning" else "dim"), words)
        for problem in plan.problems:
            first, *rest = str(problem).split("\n")
            say(console, (f"  {'refused':<{LABEL_WIDTH}} ", "bold red"), first)
            for line in rest:
                say(console, (f"  {'':<{LABEL_WIDTH}} {line.strip()}", "dim"))
    return sum(len(plan.problems) for plan in plans)
