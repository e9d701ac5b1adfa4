"""`sawyer trust`: the verdict and the figures on the terminal, as JSON, as a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from sawyer.config import parse_config
from sawyer.records import Prompt, bucket, json_lines, scored_row
from sawyer.trust import NeededGuard, decide_verdict, trust
from sawyer.worlds import comparisons, gold

RECORDS = comparisons(60, 3, split="held_out")


class Gold:
    """A loaded reward model that knows the world's truth, standardised."""

    members, cut, note = (SimpleNamespace(scale=2.0),), 1, "the model is read by `question`"

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        return [gold(p.text, r).score / 2 for p, r in zip(prompts, responses, strict=True)]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sawyer.models.TextScorer", lambda _, template: SimpleNamespace(inner=Gold()))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"sawyer": {"loss": "squared"}}))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "judged.jsonl"
    path.write_text(json_lines(scored_row(record) for record in RECORDS))
    return path


def test_the_verdict_comes_first_and_every_table_after_it(sawyer: Callable[..., Any], model: Path, data: Path) -> None:
    done = sawyer("trust", model, "--data", data)
    assert done.code == 0 and "the model is read by `question`" in done.err
    first = done.out.split("\n")[0]
    expected = trust(Gold(), RECORDS, loss="squared", unit=2.0)
    assert first.startswith("! warn") and decide_verdict(expected).words in first
    for words in (
        "60 prompts say little", "accuracy", f"{100 * expected.everything.accuracy.value:.0f} %", "judges' scores apart by",
        "4 or more", "sigmoid(D * d^2)", "the answer said twice", "damaged answers that win",
    ):  # fmt: skip
        assert words in done.out, words


@pytest.mark.parametrize("asked", [{}, {"score_length_correlation": 0.4, "kl_budget": 10.0}])
def test_guards_come_as_lines_of_a_config(
    sawyer: Callable[..., Any], model: Path, data: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, float]
) -> None:
    guards = tuple(NeededGuard(guard=name, threshold=value, reason="damage_twice") for name, value in asked.items())
    monkeypatch.setattr("sawyer.trust.decide_verdict", lambda found: replace(decide_verdict(found), guards=guards))
    out = sawyer("trust", model, "--data", data).out
    assert ("any other reward model" in out) == bool(asked)
    if asked:
        tree = yaml.safe_load(out[out.index("\nrl:\n") :])
        rl = {"prompts": ["p"], "rewards": [{"name": "theirs", "model": "some/model"}], **tree["rl"]}
        config = parse_config({"model": "m", "rl": rl}).rl
        assert config is not None and {name: guard.threshold for name, guard in config.guards.items()} == asked


def test_what_a_refusal_for_bad_rows_advises_is_an_option(sawyer: Callable[..., Any], model: Path, data: Path) -> None:
    with data.open("a") as file:
        file.write('{"user_input": "x", "responses_and_scores": 3}\n' * 3)
    refused = sawyer("trust", model, "--data", data)
    assert refused.code == 1 and "--max-bad-rows 0.05" in refused.err
    assert sawyer("trust", model, "--data", data, "--max-bad-rows", "0.05").code == 0


def test_json_is_one_line_with_every_figure(sawyer: Callable[..., Any], model: Path, data: Path) -> None:
    done = sawyer("trust", model, "--data", data, "--json", "--world")
    (line,) = done.out.strip().split("\n")
    found = json.loads(line)
    assert found["verdict"]["kind"] in ("trust", "trust_above") and found["loss"] == "squared" and found["cut"] == 1
    assert found["sides"][0]["truth"]["all"]["value"] == pytest.approx(1.0)
    assert not found["held_out"] and found["sides"][0]["prompts"] == 60


def test_the_prompts_that_a_run_kept_back(sawyer: Callable[..., Any], model: Path, data: Path) -> None:
    found = json.loads(sawyer("trust", model, "--data", data, "--json", "--eval-fraction", "0.3").out)
    kept = [record for record in RECORDS if bucket(record.prompt) < 0.3]
    assert found["held_out"] and found["sides"][0]["prompts"] == len(kept) < 60
    none = sawyer("trust", model, "--data", data, "--eval-fraction", "0.001")
    assert none.code == 1 and "leaves none of the 60 prompts" in none.err
    some = sawyer("trust", model, "--data", data, "--json", "--limit", "12")
    assert json.loads(some.out)["sides"][0]["prompts"] == 12 and "12 of 60 judged prompts are used" in some.err


def test_out_writes_a_page_or_page_and_figures(sawyer: Callable[..., Any], model: Path, data: Path, tmp_path: Path) -> None:
    page = tmp_path / "deep" / "page.html"
    assert f"Wrote {page}" in sawyer("trust", model, "--data", data, "--out", page).out
    assert "Trust it" in page.read_text(encoding="utf-8")
    assert sawyer("trust", model, "--data", data, "--out", tmp_path / "folder").code == 0
    figures = json.loads((tmp_path / "folder" / "trust.json").read_text())
    assert figures["verdict"]["words"] in (tmp_path / "folder" / "report.html").read_text(encoding="utf-8").replace(
        "&#39;", "'"
    )


def test_lazy_judges_leave_nothing_to_learn(sawyer: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    path = tmp_path / "lazy.jsonl"
    path.write_text(json_lines(scored_row(record) for record in comparisons(20, 0, rater="lazy")))
    done = sawyer("trust", model, "--data", path)
    assert done.code == 0 and "✕ fail" in done.out and "there is nothing to learn" in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "nowhere.json"), "nowhere.json"),
        (("--data", "{data}", "--columns", "x"), "expected: THEIRS=OURS"),
        (("--data", "{strange}", "--world"), "Why?"),
    ],
)
def test_mistakes_are_explained(
    sawyer: Callable[..., Any], model: Path, data: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    strange = tmp_path / "strange.jsonl"
    row = {"user_input": "Why?", "responses_and_scores": [{"response": "a", "score": 1}, {"response": "b", "score": 2}]}
    strange.write_text(json.dumps(row) + "\n")
    done = sawyer("trust", model, *[argument.format(data=data, strange=strange) for argument in arguments])
    assert done.code == 1 and words in done.err and "Traceback" not in done.err


def test_a_model_that_is_not_there_is_named(sawyer: Callable[..., Any], data: Path) -> None:
    done = sawyer("trust", "./no/such/model", "--data", data)
    assert done.code == 1 and "no/such/model" in done.err
