"""Commands that read finished runs: report, chat, runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sawyer.cli.console import say, stderr, stdout
from sawyer.cli.options import RemoteCode
from sawyer.cli.streams import as_json as json_line
from sawyer.cli.streams import print_line, visible
from sawyer.errors import RunError, SawyerError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from sawyer.chat import Chat, Reply

MARKS = {
    "done": ("✓", "green"),
    "running": ("…", "blue"),
    "waiting": ("?", "yellow"),
    "failed": ("✕", "red"),
    "interrupted": ("‖", "yellow"),
    "pending": ("·", "dim"),
}
NAMES = {"base": "base", "sft": "SFT", "rl": "RL"}
# Raised by a summary.json that another program wrote or changed.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
RESET = "/reset"  # the line that begins a new conversation
BAR_WIDTH = 10  # characters of a reward's bar on each side of zero
BAR_RANGE = 3.0  # the reward that fills it, in standard deviations of the SFT answers


def report(run: Annotated[str, typer.Argument(help="A run's folder.", metavar="RUN")]) -> None:
    """Write report.html, one self-contained page, from whatever the run has so far."""
    from sawyer.report import build

    say(stdout(), str(build(Path(run))))


def chat(
    run: Annotated[str, typer.Argument(help="A run's folder.", metavar="RUN")],
    prompt: Annotated[
        str | None, typer.Option(help="One question; without it, questions are read from standard input.")
    ] = None,
    system: Annotated[str, typer.Option(help="The system prompt, for models that have one.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON per question.")] = False,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.", min=0.01)] = 0.7,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the most likely token.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens of an answer.", min=1)] = 128,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.", min=0)] = 0,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Ask a run's models side by side; rewards shown. Lines are turns of one conversation; /reset begins a new one."""
    from sawyer.chat import Chat
    from sawyer.models import remote_code

    console = stdout()
    with remote_code(trust_remote_code):
        talk = Chat(run)
    for model, reason in talk.missing.items():
        say(stderr(), (f"The {model} model is left out: ", "yellow"), reason)
    questions = iter([prompt]) if prompt is not None else _questions(console, talk, quiet=as_json)
    answer = talk.say if talk.is_conversational else talk.ask
    for number, question in enumerate(questions):
        try:
            replies = answer(
                question,
                system=system,
                temperature=temperature,
                greedy=greedy,
                max_new_tokens=max_new_tokens,
                seed=seed + number,
            )
        except SawyerError as error:
            if prompt is not None or as_json:
                raise
            say(stderr(), (str(error), "yellow"))
            continue
        if as_json:
            print_line(json_line(_reply_row(question, replies)))
        else:
            _print_replies(console, replies)


def runs(folder: Annotated[str, typer.Argument(help="A folder of runs.", metavar="[FOLDER]")] = "runs") -> None:
    """List the runs of a folder: stages, gates, key figures."""
    from rich.table import Table

    from sawyer.runs import Layout

    root = Path(folder)
    if not os.path.isdir(root):
        raise RunError(f"there is no folder {folder}", expected="a folder of runs", todo="start with `sawyer demo`")
    folders = [Layout(path) for path in (root, *sorted(root.iterdir())) if path.is_dir()]
    layouts = [layout for layout in folders if layout.manifest.exists()]
    console = stdout()
    if not layouts:
        say(console, f"No run in {folder} yet; `sawyer demo` makes one.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for column in ("run", "stages", "gates", "figures", "time"):
        table.add_column(column, overflow="fold")
    for layout in layouts:
        table.add_row(*_run_row(layout))
    console.print(table)


def _questions(console: Console, talk: Chat, *, quiet: bool) -> Iterator[str]:
    """Lines typed or piped in. An empty line typed, or the end of input, ends."""
    from rich.text import Text

    if sys.stdin.isatty() and not quiet:
        scope = f"One conversation until {RESET}" if talk.is_conversational else "Each question stands alone"
        say(console, f"{', '.join(NAMES[m] for m in talk.models)} answer. {scope}; an empty line ends.")
    while True:
        if sys.stdin.isatty() and not quiet:
            console.print(Text("\n> ", style="bold"), end="")
        try:
            line = sys.stdin.readline()
        except (OSError, ValueError):  # the terminal was closed
            return
        if not line.strip():
            if line and not sys.stdin.isatty():
                continue
            return
        if line.strip() == RESET:
            talk.reset()
            continue
        yield line.strip()


def _print_replies(console: Console, replies: list[Reply]) -> None:
    """The answers side by side, each with its reward as a bar around zero."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 4, 0, 0), header_style="bold", expand=False)
    for reply in replies:
        table.add_column(NAMES.get(reply.model, reply.model), ratio=1, overflow="fold")
    table.add_row(*(Text(r.response or "(nothing)") + Text("" if r.ended else " …", style="dim") for r in replies))
    if any(reply.reward is not None for reply in replies):
        table.add_row(*(_bar(reply.reward) for reply in replies))
    if any(reply.gold is not None for reply in replies):
        table.add_row(*(Text("" if r.gold is None else f"gold {r.gold:.1f}", style="dim") for r in replies))
    console.print()
    console.print(table)


def _bar(reward: float | None) -> Text:
    from rich.text import Text

    if reward is None:
        return Text("–", style="dim")
    size = min(BAR_WIDTH, round(BAR_WIDTH * abs(reward) / BAR_RANGE))
    left = ("━" * size if reward < 0 else "").rjust(BAR_WIDTH)
    right = ("━" * size if reward >= 0 else "").ljust(BAR_WIDTH)
    return Text.assemble((left, "red"), ("│", "dim"), (right, "green"), f" {reward:+.2f}")


def _reply_row(question: str, replies: list[Reply]) -> dict[str, Any]:
    answers = []
    for reply in replies:
        row: dict[str, Any] = {"model": reply.model, "response": reply.response, "reward": reply.reward}
        row |= {"gold": reply.gold} if reply.gold is not None else {}
        answers.append(row | {"length": reply.length, "ended": reply.ended})
    return {"prompt": question, "answers": answers}


def _run_row(layout: Any) -> tuple[Text | str, ...]:
    from rich.text import Text

    from sawyer.cli.summary_tables import gate_counts
    from sawyer.runs import STAGES, clock, read_manifest

    name, unread = Text(visible(layout.root.name), style="bold"), Text("cannot be read", style="red")
    try:
        stages: Mapping[str, Any] = read_manifest(layout.manifest).get("stages", {})
    except SawyerError:
        return name, unread, "", "", ""
    states = Text()
    for stage in STAGES:
        if stage in stages:
            mark, style = MARKS.get(stages[stage].get("status", "pending"), ("?", ""))
            states.append(" " if states else "").append(f"{stage} ").append(mark, style)
    try:
        took = clock(sum(float(state.get("seconds") or 0.0) for state in stages.values()))
        summary = json.loads(layout.summary.read_text(encoding="utf-8")) if layout.summary.exists() else {}
        return name, states, gate_counts(summary.get("gates") or {}), _key_figures(summary), took
    except (OSError, *UNREADABLE):  # a damaged summary.json must not cost the other runs' rows
        return name, states, "", unread, ""


def _key_figures(summary: Mapping[str, Any]) -> str:
    figures = []
    for key, name in (("gold", "gold"), ("reward_mean", "reward")):
        table = summary.get(key) or {}
        if values := [table[m]["t07"] for m in NAMES if isinstance(table.get(m), Mapping) and "t07" in table[m]]:
            figures.append(f"{name} " + " / ".join(f"{value:.2f}" for value in values))
            break
    win_rates = summary.get("compare") or {}
    if rate := win_rates.get("win_rate_rl_vs_sft") or win_rates.get("win_rate_rl_vs_base"):
        figures.append(f"RL wins {rate['value']:.0%}")
    for stage, name in (("reward", "reward model"), ("classify", "classifier")):
        accuracy = (summary.get(stage) or {}).get("accuracy")
        figures += [f"{name} {accuracy:.0%}"] if accuracy is not None else []
    return ", ".join(figures)
