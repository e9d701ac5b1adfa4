"""The page: whole from a whole run, there from half a run, safe whatever the models said."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_run import HOSTILE, make_run

from sawyer.errors import RunError
from sawyer.report import build
from sawyer.report.run_facts import gather
from sawyer.runs import Layout
from sawyer.runs.journal import Journal

VOID = {"meta", "br", "input", "img", "link", "hr"}


class Strict(HTMLParser):
    """Tags must nest; collects tags, attributes, ids and text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def parsed(path: Path) -> Strict:
    parser = Strict()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    assert parser.open == []
    return parser


def test_a_whole_run_has_every_part_in_order(whole_run: Path) -> None:
    path = build(whole_run)
    assert path == whole_run / "report.html"
    text = parsed(path).text
    parts = [
        "RL raises the mean gold of answers from 7.4 to 8.6 of 10",
        "Checks",
        "Outcome",
        "Win rate",
        "Supervised fine-tuning",
        "Reward model",
        "How far it can be trusted",
        "Reinforcement learning",
        "KL to the SFT model",
        "Answers side by side",
        "What is Google?",
        "The same prompts through RL",
        "Configuration, versions, time",
        "torch 2.13.0",
        "squared",
    ]
    place = 0
    for part in parts:
        place = text.index(part, place)
    assert "71 %" in text and "66 % to 76 %" in text


@pytest.mark.slow
def test_an_answer_s_length_and_kl_are_shown(whole_run: Path) -> None:
    assert "14 tokens" in parsed(build(whole_run)).text and "KL 2.5" not in parsed(build(whole_run)).text
    rows = [json.loads(line) for line in (whole_run / "compare.jsonl").read_text().splitlines()]
    (whole_run / "compare.jsonl").write_text("".join(json.dumps({**row, "kl": 2.5}) + "\n" for row in rows))
    assert "14 tokens, KL 2.5" in parsed(build(whole_run)).text


def test_training_pairs_are_not_called_held_out(whole_run: Path) -> None:
    change_reward(whole_run, {"eval_prompts": 0})
    text = parsed(build(whole_run)).text
    assert "all training pairs" in text


def change_reward(root: Path, more: dict[str, object]) -> None:
    manifest = json.loads((root / "run.json").read_text())
    manifest["stages"]["reward"]["figures"] |= more
    (root / "run.json").write_text(json.dumps(manifest))


def test_nothing_comes_from_outside_and_nothing_runs(whole_run: Path) -> None:
    page = parsed(build(whole_run))
    assert "script" not in page.tags and "link" not in page.tags and "img" not in page.tags
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href"):
            assert value.startswith("#"), (name, value)
        assert "url(" not in value or "url(#" in value


def test_every_reference_inside_has_its_target_and_no_id_comes_twice(whole_run: Path) -> None:
    page = parsed(build(whole_run))
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for name, value in page.attributes:
        if name in ("href", "for"):
            assert value.removeprefix("#") in ids
        for target in re.findall(r"url\(#([^)]+)\)", value):
            assert target in ids


def test_what_models_say_is_text_and_nothing_else(whole_run: Path) -> None:
    page = parsed(build(whole_run))
    assert "<script>alert" in page.text and "{{ 7 * 7 }}" in page.text and "<b>bold</b>" in page.text
    source = (whole_run / "report.html").read_text(encoding="utf-8")
    assert "<script" not in source and "\x00" not in source and "\x1b" not in source
    assert HOSTILE not in source


@pytest.mark.slow
def test_small_and_the_same_twice(whole_run: Path, drawn_anew: None) -> None:
    first = build(whole_run).read_bytes()
    assert len(first) < 1_500_000
    assert build(whole_run).read_bytes() == first


@pytest.mark.slow
def test_a_long_run_stays_small(tmp_path: Path) -> None:
    root = make_run(tmp_path / "long", prompts=400)
    with Layout(root).metrics.open("a") as file:
        for step in range(476, 20_000):
            file.write(json.dumps({"stage": "sft", "step": step, "loss": 1.0 + step % 7, "grad_norm": 1.0}) + "\n")
    rows = [json.loads(line) for line in Layout(root).compare.read_text().splitlines()]
    Layout(root).compare.write_text("".join(json.dumps(row | {"response": "word " * 4000}) + "\n" for row in rows))
    assert build(root).stat().st_size < 3_000_000


PARTS = (
    "reward/trust.json",
    "run.json",
    "metrics.jsonl",
    "events.jsonl",
    "samples.jsonl",
    "compare.jsonl",
    "summary.json",
    "config.yaml",
)


@pytest.mark.slow
@pytest.mark.parametrize("gone", PARTS)
def test_a_file_may_be_missing(whole_run: Path, gone: str) -> None:
    (whole_run / gone).unlink()
    assert "mine" in parsed(build(whole_run)).text


@pytest.mark.slow
@pytest.mark.parametrize("only", ["run.json", "metrics.jsonl", "events.jsonl", "config.yaml"])
def test_one_file_may_be_all_there_is(whole_run: Path, only: str) -> None:
    for name in PARTS:
        if name != only:
            (whole_run / name).unlink()
    assert "mine" in parsed(build(whole_run)).text


def test_a_run_that_broke_off_says_where(whole_run: Path) -> None:
    manifest = json.loads((whole_run / "run.json").read_text())
    manifest["stages"]["rl"] |= {"status": "interrupted", "reason": "rl was interrupted at step 31 of 60", "figures": {}}
    del manifest["stages"]["compare"]
    (whole_run / "run.json").write_text(json.dumps(manifest))
    for name in ("compare.jsonl", "summary.json"):
        (whole_run / name).unlink()
    text = parsed(build(whole_run)).text
    assert "The run is not finished: reinforcement learning was interrupted (rl was interrupted at step 31 of 60)." in text
    assert "Answers side by side" not in text


def test_gates_from_before_a_stage_began_anew_are_gone(whole_run: Path) -> None:
    before = {check.name: check.stage for check in gather(whole_run).checks}
    assert "reward" in before.values()
    Journal(Layout(whole_run)).event("reward", "restarted")
    assert {check.name: check.stage for check in gather(whole_run).checks} == {k: v for k, v in before.items() if v != "reward"}


def test_when_the_run_began(whole_run: Path) -> None:
    manifest = json.loads((whole_run / "run.json").read_text())
    for state in manifest["stages"].values():
        state["started"] = 1700000000
    (whole_run / "run.json").write_text(json.dumps(manifest))
    assert "14 November 2023, 22:13 UTC" in parsed(build(whole_run)).text


def test_a_journal_line_cut_by_a_crash_is_left_out(whole_run: Path) -> None:
    with (whole_run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "rl", "step": 61, "sco')
    parsed(build(whole_run))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", "{"),
        ("metrics.jsonl", "nonsense\n"),
        ("run.json", "[]"),
        ("config.yaml", "a: ["),
        ("reward/trust.json", "{"),
    ],
)
def test_a_damaged_file_is_named(whole_run: Path, name: str, content: str) -> None:
    (whole_run / name).write_text(content)
    with pytest.raises(RunError, match=name):
        build(whole_run)


def test_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run"):
        build(tmp_path)
    with pytest.raises(RunError, match="no run"):
        build(tmp_path / "nowhere")


def test_a_value_that_was_not_finite_is_shown_as_it_was(whole_run: Path) -> None:
    row = {
        "time": "2026-01-01",
        "stage": "rl",
        "kind": "gate",
        "name": "x",
        "verdict": "fail",
        "value": "nan",
        "threshold": 1.0,
    }
    with (whole_run / "events.jsonl").open("a") as file:
        file.write(json.dumps(row | {"message": "the KL is not a number", "advice": "lower the rate"}) + "\n")
    text = parsed(build(whole_run)).text
    assert "nan" in text and "Reinforcement learning fails: The KL is not a number. What to do: Lower the rate." in text
