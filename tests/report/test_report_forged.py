"""A run's folder that is damaged or forged: the page names what cannot be drawn and shows the rest; never a traceback."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_run import make_run

from sawyer.errors import RunError
from sawyer.report import build, overoptimisation_page, page, trust_section
from sawyer.runs import Layout, open_run
from sawyer.runs.journal import Journal

ODD: list[Any] = [None, "x", -1e308, 10**400, float("nan"), float("inf"), [], {}, [1, "x"], {"a": [1]}, True, "\x1b[31m<b>", -5]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("forged") / "run", prompts=6)


@pytest.fixture
def plots_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn, and what would be is looked at as a plot looks at it."""

    def draw(panel: Any, ident: str, size: Any = None) -> str:
        for line in panel.lines:
            list(map(float, [*line.xs, *line.ys, *line.lows, *line.highs]))
        return "<svg></svg>"

    for room in (overoptimisation_page, page, trust_section):
        monkeypatch.setattr(room, "draw", draw)


def put(tree: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The tree with one value replaced."""
    if not path:
        return new
    tree = copy.copy(tree)
    tree[path[0]] = put(tree[path[0]], path[1:], new)
    return tree


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree[:2]) if isinstance(tree, list) else ()
    for key, value in inside:
        yield from places(value, (*path, key))


FORGED = [
    ("summary", ("gold", "sft", "t07"), {"a": 1}, ["Gold", "The outcome in a sentence"]),
    ("summary", ("reward_mean", "rl"), {"t07": [1]}, ["Outcome"]),
    ("summary", ("compare", "win_rate_rl_vs_sft", "low"), "x", ["Win rate", "The outcome in a sentence"]),
    ("summary", ("seconds",), "x", ["How long it took"]),
    ("trust", ("sides", 0, "name"), "another", ["How far the reward model can be trusted"]),
    ("trust", ("sides", 0, "by_source", 0, "accuracy", "low"), 10**400, ["How far the reward model can be trusted"]),
    ("manifest", ("stages", "reward", "figures", "accuracy"), 10**400, ["The picture of the stages"]),
    ("manifest", ("stages", "sft", "seconds"), 10**400, ["Versions and time"]),
    ("manifest", ("stages", "sft", "started"), -1e300, ["When it began"]),
    ("metrics", (0, "loss"), 10**400, ["Supervised fine-tuning: its curves"]),
    ("metrics", (0, "step"), 10**400, ["Supervised fine-tuning: Loss"]),
    ("samples", (0, "step"), "x", ["The same prompts through RL"]),
    ("compare", (0, "reward"), "x", ["Answers side by side"]),
]


@pytest.mark.usefixtures("plots_left_out")
@pytest.mark.parametrize(("name", "path", "new", "parts"), FORGED)
def test_what_cannot_be_drawn_is_named_and_the_rest_is_drawn(
    small_run: Path, name: str, path: tuple[Any, ...], new: Any, parts: list[str]
) -> None:
    file = getattr(Layout(small_run), name)
    before = file.read_text(encoding="utf-8")
    rows = file.suffix == ".jsonl"
    tree = [json.loads(line) for line in before.splitlines()] if rows else json.loads(before)
    forged = put(tree, path, new)
    try:
        file.write_text("".join(json.dumps(row) + "\n" for row in forged) if rows else json.dumps(forged), encoding="utf-8")
        text = build(small_run).read_text(encoding="utf-8")
    finally:
        file.write_text(before, encoding="utf-8")
    notice = text[text.index("Some of this run") : text.index("<main>")]
    for part in parts:
        assert f"<li>{part} <span" in notice, notice[:2000]
    assert text.rstrip().endswith("</html>") and 'id="checks"' in text and "The whole configuration" in text


@pytest.mark.usefixtures("plots_left_out")
def test_of_a_good_folder_nothing_is_left_out(small_run: Path) -> None:
    assert "cannot be shown: a file" not in build(small_run).read_text(encoding="utf-8")


@pytest.mark.usefixtures("plots_left_out")
def test_a_journal_file_that_somebody_moved_away_is_named(small_run: Path) -> None:
    """Its failed gates would be in no figure; and once the run was opened again the new file hides that the old one is gone."""
    layout = Layout(small_run)
    kept = {path: path.read_bytes() for path in small_run.iterdir() if path.is_file()}
    Journal(layout).sync()
    layout.metrics.unlink()
    try:
        before = build(small_run).read_text(encoding="utf-8")
        with open_run(small_run) as run:
            run.journal.sync()
        after = build(small_run).read_text(encoding="utf-8")
    finally:
        for path in small_run.iterdir():
            if path.is_file() and path not in kept:
                path.unlink()
        for path, content in kept.items():
            path.write_bytes(content)
    for text in (before, after):
        notice = text[text.index("Some of this run") : text.index("<main>")]
        assert notice.count("<li>metrics.jsonl <span") == 1 and "failed checks included" in notice


@pytest.mark.slow
def test_a_plot_of_numbers_that_no_picture_has_is_left_out(small_run: Path, drawn_anew: None) -> None:
    file = Layout(small_run).metrics
    before = file.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in before.splitlines()]
    wild = {"sft": 1e308, "reward": float("nan"), "rl": -1e308}
    seen: set[str] = set()
    for row in rows:
        if row["stage"] not in seen:
            seen.add(row["stage"])
            row.update({key: wild[row["stage"]] for key in row if key not in ("stage", "step")})
    try:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        text = build(small_run).read_text(encoding="utf-8")
    finally:
        file.write_text(before, encoding="utf-8")
    assert text.count("<figure>") > 10


@pytest.mark.slow
@pytest.mark.usefixtures("plots_left_out")
def test_any_value_of_any_file_may_be_any_other(small_run: Path) -> None:
    """Drawn by lot from all values of all files and all odd ones in their place."""
    rng, layout = random.Random(5), Layout(small_run)
    files = [layout.manifest, layout.summary, layout.trust, layout.metrics, layout.events, layout.samples, layout.compare]
    refused = 0
    for number in range(48):
        file = [*files, layout.config][number % 8]
        before = file.read_text(encoding="utf-8")
        if file.suffix == ".jsonl":
            rows = [json.loads(line) for line in before.splitlines()]
            path = rng.choice(list(places(rows[at := rng.randrange(len(rows))])))
            text = "".join(json.dumps(row) + "\n" for row in put(rows, (at, *path), rng.choice(ODD)))
        else:
            tree = yaml.safe_load(before) if file.suffix == ".yaml" else json.loads(before)
            forged = put(tree, rng.choice(list(places(tree))), rng.choice(ODD))
            text = yaml.safe_dump(forged) if file.suffix == ".yaml" else json.dumps(forged)
        try:
            file.write_text(text, encoding="utf-8")
            build(small_run)
        except RunError as error:
            refused += 1
            assert "cannot be read" in str(error)
        finally:
            file.write_text(before, encoding="utf-8")
    assert refused < 20, "most of it is drawn"


def test_a_file_that_is_no_json_or_yaml_at_all_is_refused_in_words(small_run: Path) -> None:
    layout = Layout(small_run)
    for file, content in (
        (layout.summary, "[" * 100_000),
        (layout.summary, "9" * 5000),
        (layout.trust, '{"a": NaN'),
        (layout.config, f"seed: {'1' * 5000}"),
        (layout.config, "a: " + "[" * 5000),
        (layout.manifest, '{"stages": []}'),
    ):
        before = file.read_text(encoding="utf-8")
        file.write_text(content, encoding="utf-8")
        try:
            with pytest.raises(RunError, match=rf"{file.name} cannot be read"):
                build(small_run)
        finally:
            file.write_text(before, encoding="utf-8")
