"""`sawyer rate`: people judge answers in the browser."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sawyer.cli.console import say, stderr, stdout
from sawyer.errors import RatingError, RunError

if TYPE_CHECKING:
    from sawyer.ratings.store import RatingStore
    from sawyer.records import Problem
    from sawyer.runs import Layout
    from sawyer.web.core import RunningServer, ServerSettings
    from sawyer.web.rate.simulate import SimulatedPeople

EVERYWHERE = "0.0.0.0"


def rate(
    target: Annotated[
        str, typer.Argument(help="A run's folder, or a file of answers: scored, unscored or pairs.", metavar="RUN|FILE")
    ],
    method: Annotated[
        str | None,
        typer.Option("--as", help="How answers are judged: graded (a pair in seven grades; the default), pair, rank, score."),
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(help="Share of the items that two raters judge; 0.2 by default.", min=0, max=1)
    ] = None,
    rater: Annotated[list[str] | None, typer.Option(help="Make a person's own link and print it; may be repeated.")] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on; beyond 127.0.0.1 the owner needs a token.")
    ] = "127.0.0.1",
    lan: Annotated[bool, typer.Option("--lan", help="Open it to the local network: the same as --host 0.0.0.0.")] = False,
    port: Annotated[int, typer.Option(help="The port to listen on; 0: any free one.", min=0, max=65535)] = 8321,
    token: Annotated[str | None, typer.Option(help="The owner's token; one is made where it is needed.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the order of items; 0 by default.", min=0)] = None,
    export: Annotated[str | None, typer.Option(help="Write the judgements to a file, and end.", metavar="FILE")] = None,
    what: Annotated[str, typer.Option(help="What --export writes: answers, pairs, csv or demonstrations.")] = "answers",
    with_raters: Annotated[bool, typer.Option("--with-raters", help="Export who judged as well.")] = False,
    import_from: Annotated[
        str | None,
        typer.Option("--import", help="Take in an export of Argilla, Label Studio or feedloop, and end.", metavar="FILE"),
    ] = None,
    agreement: Annotated[bool, typer.Option("--agreement", help="Print how well the raters agree, and end.")] = False,
    simulate: Annotated[
        int | None,
        typer.Option(
            help="So many simulated people of the built-in world vote over the same server; ends when they are done.", min=1
        ),
    ] = None,
    simulate_raters: Annotated[
        str, typer.Option(help="Who they are, in turn: honest, length_lover, lazy, flipper.", metavar="NAMES")
    ] = "honest",
    votes: Annotated[int | None, typer.Option(help="The most votes of all simulated people together.", min=1)] = None,
) -> None:
    """Let people judge answers in the browser; the next `sawyer run` learns from what they say.

    Every vote is on the disk before the page hears that it was taken. Ctrl-C ends the server; the next one goes on from there.
    """
    path, source = rated_paths(target)
    if export or agreement:
        _answer_at_once(path, target, export, what, with_raters, agreement)
        return
    settings = _server_settings(host, lan, port, token)
    people = _simulated_people(simulate, simulate_raters, votes, seed, settings)
    changes = {"method": method, "overlap": overlap, "seed": seed}
    with _open_store(path, source, changes, needs_items=import_from is None, of_world=people is not None) as store:
        if import_from:
            _import(store, import_from)
            return
        _serve(store, settings, target, rater or [], people)


def rated_paths(target: str) -> tuple[Path, Layout | list[str]]:
    """(where the votes lie, where the answers come from): of a run in its folder, of a file beside it.

    Raises DataError where there is neither.
    """
    from sawyer.records.data_files import PACKED_SUFFIXES, ROW_SUFFIXES, expand
    from sawyer.runs import Layout

    layout = Layout(Path(target))
    if os.path.isdir(target) and (layout.manifest.exists() or layout.answers.exists() or layout.ratings.exists()):
        return layout.ratings, layout
    files = expand(target)
    path = Path(target)
    while path.suffix.lower() in (*PACKED_SUFFIXES, *ROW_SUFFIXES):
        path = path.with_suffix("")
    if len(files) > 1 and not os.path.isdir(target):
        raise RatingError(
            f"{target} is {len(files)} files",
            expected="one file of answers, or a run's folder",
            why="the votes lie beside the file",
            todo="join the files first",
        )
    return path.with_name(f"{path.name}.ratings.sqlite"), files


def _simulated_people(
    number: int | None, names: str, votes: int | None, seed: int | None, server: ServerSettings
) -> SimulatedPeople | None:
    """Those of --simulate; None without it."""
    if number is None:
        return None
    from sawyer.web.rate.simulate import SimulatedPeople, SimulationSettings

    styles = tuple(name.strip() for name in names.split(",") if name.strip())
    settings = SimulationSettings(people=number, styles=styles, votes=votes, seed=seed or 0)
    return SimulatedPeople(settings, token=server.token or "")


def _open_store(
    path: Path, source: Layout | list[str], changes: Mapping[str, Any], *, needs_items: bool, of_world: bool = False
) -> RatingStore:
    """The store with the source's items in it. `changes` are settings; what they do not name stays as it was.

    Raises RatingError where `of_world` and a prompt is not the built-in world's.
    """
    from sawyer.ratings.assignment import RatingSettings
    from sawyer.ratings.items import items_from
    from sawyer.ratings.store import RatingStore

    settings = RatingSettings(method="graded")
    if path.exists():
        with RatingStore.open(path) as earlier:
            settings = earlier.settings
    settings = replace(settings, **{name: value for name, value in changes.items() if value is not None})
    problems: list[Problem] = []
    items = items_from(source, settings.method, problems, settings.seed) if needs_items else []
    _show_problems(problems)
    if of_world:
        from sawyer.web.rate.simulate import check_world

        check_world(items)
    store = RatingStore.open(path, settings=settings)
    store.add_items(items)
    return store


def _show_problems(problems: Sequence[Problem]) -> None:
    """What cannot be judged, counted by kind."""
    first_of = {problem.kind: problem for problem in reversed(problems)}
    for kind, count in Counter(problem.kind for problem in problems).items():
        example = f"{first_of[kind].where}: {first_of[kind].message}"
        say(stderr(), (f"{count:,} {'row' if count == 1 else 'rows'}: {kind} ({example})", "yellow"))


def _server_settings(host: str, lan: bool, port: int, token: str | None) -> ServerSettings:
    """Where to listen. Beyond loopback a token is made if none is named. Raises RunError without the extra `web`."""
    from sawyer.web.core import ServerSettings, is_loopback, new_token

    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise RunError(
            f"{' and '.join(missing)} cannot be found",
            expected="the extra `web`",
            why="the page is served by starlette and uvicorn",
            todo="pip install 'sawyer[web]'",
        )
    host = EVERYWHERE if lan and is_loopback(host) else host
    return ServerSettings(host=host, port=port, token=token or (None if is_loopback(host) else new_token()))


def _serve(
    store: RatingStore, settings: ServerSettings, target: str, names: Sequence[str], people: SimulatedPeople | None
) -> None:
    """Serve the page until Ctrl-C, or until simulated people are done, then say how far the judging is."""
    from sawyer.web.core import create_app, serve
    from sawyer.web.rate import rating_page

    console = stdout()
    app = create_app([rating_page(store, settings)], settings)
    keys = [(rater.name, store.rater_key(rater)) for rater in map(store.rater, names)]
    before = sum(store.progress().votes.values())

    def show_addresses(server: RunningServer) -> None:
        for line in address_lines(settings, server.port, keys):
            say(console, line)
        if people is not None:
            people.start(settings.url(server.port), server.stop)

    serve(app, settings, show_addresses)
    if people is not None:
        say(console, people.finish().words)
        _show_agreement(store)
    progress = store.progress()
    votes = sum(progress.votes.values()) - before
    console.print()
    say(
        console,
        f"{votes:,} new votes; {progress.judged_items:,} of {progress.items:,} items are judged. They are in {store.path}",
    )
    if os.path.isdir(target):
        say(console, f"`sawyer run {target}` learns from them.")


def address_lines(settings: ServerSettings, port: int, keys: Sequence[tuple[str, str]]) -> list[str]:
    """What is printed once the server answers: who opens which address, and what is open to whom."""
    from sawyer.web.core import is_loopback
    from sawyer.web.rate import owner_link, rater_link

    lines = []
    if settings.token is None:
        lines += [
            f"Rate at {settings.url(port)}/ (Ctrl-C ends it)",
            f"Progress, conflicts, exports: {owner_link(settings, port)}",
        ]
    else:
        lines += [f"The owner's page, which makes a link for each person: {owner_link(settings, port)} (Ctrl-C ends it)"]
    lines += [f"{name} rates at {rater_link(settings, port, key)}" for name, key in keys]
    if not is_loopback(settings.host):
        lines += [
            f"Open to everyone who reaches port {port} of this machine: the empty pages. Items and votes need a person's link, "
            "all else the owner's. Whoever has a link is that person. Nothing is encrypted: use a network that you trust."
        ]
    return lines


def _answer_at_once(path: Path, target: str, export: str | None, what: str, with_raters: bool, agreement: bool) -> None:
    """--export and --agreement: of the votes there are."""
    from sawyer.ratings.exports import export_words
    from sawyer.ratings.store import RatingStore
    from sawyer.runs import write_text
    from sawyer.web.rate import export_file

    if not path.exists():
        raise RatingError(f"nothing was rated of {target} yet", expected=f"votes in {path}", todo=f"sawyer rate {target}")
    if export and any(os.path.realpath(export) == os.path.realpath(name) for name in (target, path)):
        raise RatingError(f"{export} is what is rated", expected="another file", why="it would be lost", todo="name another")
    with RatingStore.open(path) as store:
        if export:
            file = export_file(store, what, raters=with_raters)
            write_text(Path(export), file.text)
            words = export_words(what, store.rated_items(), store.stored_votes())
            say(stdout(), f"{what} written to {export}: {words}")
        if agreement:
            _show_agreement(store)


def _show_agreement(store: RatingStore) -> None:
    from sawyer.ratings import agreement_report

    for line in agreement_report(store.rated_items()).words:
        say(stdout(), line)


def _import(store: RatingStore, path: str) -> None:
    from sawyer.ratings.imports import import_ratings

    say(stdout(), import_ratings(store, Path(path)).words)
