"""Commands that look at what there is: report, chat, runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sawyer.cli.console import say, stderr, stdout
from sawyer.cli.remote_code_option import TrustRemoteCode
from sawyer.cli.streams import as_json as json_of
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
# What reading a value of another kind than the program wrote raises.
ODD = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
RESET = "/reset"  # the line that begins a new conversation
BAR = 10  # characters of a reward's bar to either side of zero
FULL = 3.0  # the reward that fills it, in the SFT answers' deviations


def report(run: Annotated[str, typer.Argument(help="A run's folder.", metavar="RUN")]) -> None:
    """Write report.html, one self-contained page, from whatever of the run is there."""
    from sawyer.report import build

    say(stdout(), str(build(Path(run))))


def chat(
    run: Annotated[str, typer.Argument(help="A run's folder.", metavar="RUN")],
    prompt: Annotated[str | None, typer.Option(help="One question; without it they are read from you.")] = None,
    system: Annotated[str, typer.Option(help="The system prompt, for models that know one.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON a question.")] = False,
    temperature: Annotated[float, typer.Option(help="Of sampling.", min=0.01)] = 0.7,
    greedy: Annotated[bool, typer.Option("--greedy", help="The likeliest token, always.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 128,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.", min=0)] = 0,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Ask the stages of a run side by side; rewards shown. Lines are turns of one conversation; /reset begins another."""
    from sawyer.chat import Chat
    from sawyer.models import remote_code

    console = stdout()
    with remote_code(trust_remote_code):
        talk = Chat(run)
    for model, reason in talk.missing.items():
        say(stderr(), (f"The {model} model is left out: ", "yellow"), reason)
    questions = iter([prompt]) if prompt is not None else _questions(console, talk, quiet=as_json)
    answer = talk.say if talk.cache_kwargs else talk.ask
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
            print_line(json_of(_row(question, replies)))
        else:
            _show(console, replies)


def runs(folder: Annotated[str, typer.Argument(help="A folder of runs.", metavar="[FOLDER]")] = "runs") -> None:
    """What is in the runs folder: stage, state, key figures."""
    from rich.table import Table

    from sawyer.runs import Layout

    root = Path(folder)
    if not os.path.isdir(root):
        raise RunError(f"there is no folder {folder}", expected="a folder of runs", todo="start with `sawyer demo`")
    inside = [path for path in (root, *sorted(root.iterdir())) if path.is_dir()]
    found = [Layout(path) for path in inside if Layout(path).manifest.exists()]
    console = stdout()
    if not found:
        say(console, f"No run in {folder} yet; `sawyer demo` makes one.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for column in ("run", "stages", "gates", "figures", "time"):
        table.add_column(column, overflow="fold")
    for layout in found:
        table.add_row(*_run_row(layout))
    console.print(table)


def _questions(console: Console, talk: Chat, *, quiet: bool) -> Iterator[str]:
    """Lines from whoever types, or from a pipe; an empty line or the end of input ends."""
    from rich.text import Text

    if sys.stdin.isatty() and not quiet:
        how = f"The conversation goes on until {RESET}" if talk.cache_kwargs else "Each question stands alone"
        say(console, f"{', '.join(NAMES[m] for m in talk.models)} listen. {how}; an empty line ends.")
    while True:
        if sys.stdin.isatty() and not quiet:
            console.print(Text("\n> ", style="bold"), end="")
        try:
            line = sys.stdin.readline()
        except (OSError, ValueError):  # a terminal that was closed: nobody asks any more
            return
        if not line.strip():
            if line and not sys.stdin.isatty():
                continue
            return
        if line.strip() == RESET:
            talk.reset()
            continue
        yield line.strip()


def _show(console: Console, replies: list[Reply]) -> None:
    """The answers beside each other, each with its reward as a bar around zero."""
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
    size = min(BAR, round(BAR * abs(reward) / FULL))
    left = ("━" * size if reward < 0 else "").rjust(BAR)
    right = ("━" * size if reward >= 0 else "").ljust(BAR)
    return Text.assemble((left, "red"), ("│", "dim"), (right, "green"), f" {reward:+.2f}")


def _row(question: str, replies: list[Reply]) -> dict[str, Any]:
    answers = []
    for reply in replies:
        row: dict[str, Any] = {"model": reply.model, "response": reply.response, "reward": reply.reward}
        row |= {"gold": reply.gold} if reply.gold is not None else {}
        answers.append(row | {"length": reply.length, "ended": reply.ended})
    return {"prompt": question, "answers": answers}


def _run_row(layout: Any) -> tuple[Text | str, ...]:
    from rich.text import Text

    from sawyer.cli.summary_tables import counted
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
        return name, states, counted(summary.get("gates") or {}), _key_figures(summary), took
    except (OSError, *ODD):  # one odd summary.json must not cost the other runs' rows
        return name, states, "", unread, ""


def _key_figures(summary: Mapping[str, Any]) -> str:
    said = []
    for key in ("gold", "reward_mean"):
        table = summary.get(key) or {}
        known = [(m, table[m]["t07"]) for m in NAMES if isinstance(table.get(m), Mapping) and "t07" in table[m]]
        if known:
            name = "gold" if key == "gold" else "reward"
            said.append(f"{name} " + " / ".join(f"{value:.2f}" for _, value in known))
            break
    compared = summary.get("compare") or {}
    rate = compared.get("win_rate_rl_vs_sft") or compared.get("win_rate_rl_vs_base")
    said += [f"RL wins {rate['value']:.0%}"] if rate else []
    accuracy = (summary.get("reward") or {}).get("accuracy")
    said += [f"reward model {accuracy:.0%}"] if accuracy is not None else []
    found = (summary.get("classify") or {}).get("accuracy")
    said += [f"classifier {found:.0%}"] if found is not None else []
    return ", ".join(said)
