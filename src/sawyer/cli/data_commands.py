"""Commands about data: init, check, world."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sawyer.cli.console import say, stdout
from sawyer.cli.remote_code_option import TrustRemoteCode
from sawyer.errors import ConfigError
from sawyer.records import MAX_BAD_ROWS

if TYPE_CHECKING:
    from rich.console import Console

    from sawyer.records import FileReport, Prompt

CONFIGS = (".yaml", ".yml")
MOST = 50  # problems shown of a file, unless more are asked for


def init(
    path: Annotated[str, typer.Argument(help="The file to write.")] = "sawyer.yaml",
    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="Where you start: base (a base model, all stages), instruct (a model that follows instructions), reward (a "
            "reward model alone), rl (functions or a reward model that is there), dpo (pairs).",
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
            f"{target} is there already",
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
    columns: Annotated[list[str] | None, typer.Option(help="Their column's name and ours, such as query=prompt.")] = None,
    model: Annotated[str | None, typer.Option(help="A model folder or id: prompts too long for it are named.")] = None,
    template: Annotated[str, typer.Option(help="With --model: the template of the run.")] = "auto",
    max_bad_rows: Annotated[
        float, typer.Option(help="Share of a file's rows that may be left out, as in the config.", min=0, max=1)
    ] = MAX_BAD_ROWS,
    most: Annotated[int, typer.Option(help="Problems shown of each file; 0 shows all.", min=0)] = MOST,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Read data as training would; list every problem as file:line:field. Of a run's file (.yaml) show the whole plan.
    Exit code 1 if training would refuse it."""
    if Path(files[0]).suffix.lower() in CONFIGS:
        check_run(files[0], files[1:])
        return
    from sawyer.records import check as check_files

    length, context, refused_rows = None, None, None
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

        context, refused_rows = prompt_encoder.context, partial(find_unrenderable, prompt_encoder)
    console = stdout()
    reports = check_files(
        files,
        held_out=held_out or [],
        columns=column_names(columns or []),
        length=length,
        context=context,
        find_unrenderable=refused_rows,
        max_bad_rows=max_bad_rows,
    )
    for report in reports:
        _show(console, report, most)
    refused = [report.file for report in reports if report.refused]
    console.print()
    if refused:
        say(console, ("Training would refuse ", "bold red"), ", ".join(refused))
        raise typer.Exit(1)
    count = len(reports)
    files_told = "the file" if count == 1 else f"all {count} files"
    prompts = all(report.want == "prompts" for report in reports)  # lines of text are no demonstrations
    say(console, ("Training would take ", "bold green"), files_told, " as prompts, not as answers to learn" * prompts)


def check_run(config: str, settings: Sequence[str]) -> None:
    """What the run would do and what it would be refused for. Nothing is trained or written. Exits 1 if it would be refused."""
    from sawyer.cli.plan_table import show_plan
    from sawyer.config import load
    from sawyer.pipeline import foreign_code, preflight

    console, asked = stdout(), load(config, settings)
    for stage in ("reward", "rl"):  # before anything is imported: a config may come from others, and functions are tried
        if code := foreign_code(asked, stage):
            say(console, (f"{stage} runs Python that the config names: ", "yellow"), code)
    problems = show_plan(console, preflight(asked))
    console.print()
    if problems:
        say(
            console,
            ("The run would be refused ", "bold red"),
            f"for {problems} problem{'s' * (problems > 1)}; nothing was trained",
        )
        raise typer.Exit(1)
    say(console, ("The run would begin ", "bold green"), f"with: sawyer run {' '.join([config, *settings])}")


def world(
    out: Annotated[str, typer.Option(help="The folder to write into.")],
    seed: Annotated[int, typer.Option(help="Of everything drawn at random.", min=0)] = 0,
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


def _show(console: Console, report: FileReport, most: int) -> None:
    """One file: what it is taken for, its problems, their counts."""
    from sawyer.records import unread_in_words

    verdict = ("✕", "red") if report.refused else ("!", "yellow") if report.problems else ("✓", "green")
    taken = f"{report.records:,} {'record' if report.records == 1 else 'records'}, taken as {report.format or report.want}"
    say(console, verdict, " ", (report.file, "bold"), f"  ({taken})")
    shown = report.problems if most == 0 else report.problems[:most]
    for problem in shown:
        say(console, "  ", (problem.where, "red" if problem.fatal else "yellow"), f": {problem.message}")
        if problem.todo:
            say(console, (f"      {problem.todo}", "dim"))
    if len(shown) < len(report.problems):
        say(console, (f"  and {len(report.problems) - len(shown):,} more (--most 0 shows all)", "dim"))
    if report.unread:
        say(console, (f"  {unread_in_words(report.unread, most=len(report.unread), prompts=report.want == 'prompts')}", "dim"))
    if report.problems:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in report.counts.items())
        say(console, ("  counts: ", "dim"), counts)


def column_names(pairs: Sequence[str]) -> dict[str, str]:
    """What `--columns` says: ["query=prompt"] -> {"query": "prompt"}"""
    found = {}
    for pair in pairs:
        theirs, equals, ours = pair.partition("=")
        if not (theirs and equals and ours):
            raise ConfigError(f"--columns {pair!r}", expected="THEIRS=OURS, such as query=prompt", todo="name both columns")
        if "," in ours:
            each = " ".join(f"--columns {one}" for one in pair.split(",") if one)
            raise ConfigError(f"--columns {pair!r}", expected="one column each time", todo=f"write {each}")
        found[theirs] = ours
    return found
