"""The over-optimisation study's arithmetic and its page, on points that are made up; what is run is tested where runs are."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from sawyer.config import Config, parse_config
from sawyer.errors import ConfigError, RunError
from sawyer.models.pretrained import remote_code_kwargs
from sawyer.report import build_overoptimisation
from sawyer.runs import Layout
from sawyer.runs.journal import Journal
from sawyer.studies.best_of_n_samples import Samples, sample_answers
from sawyer.studies.overoptimisation import (
    GoldPoint,
    Overoptimisation,
    curve_of,
    fit_curves,
    study_overoptimisation,
    table_points,
    without_kl,
)

DISTANCES = [0.0, 0.2, 0.5, 0.9, 1.4, 2.0, 3.0]


def point(d: float, gold: float, at: int, proxy: float = 0.0) -> GoldPoint:
    return GoldPoint(kl=d * d, distance=d, proxy=proxy, gold=gold, at=at)


def config(tmp_path: Path, **changes: Any) -> Config:
    rl = {"prompts": ["a"], "episodes": 64, "batch_size": 8, "num_minibatches": 2, "kl": {"target": 3.0}}
    tree: dict[str, Any] = {"model": "m", "out": str(tmp_path), "world": {}, "sft": {"data": ["a"]}, "reward": {"data": ["a"]}}
    return parse_config({**tree, "rl": rl, **changes})


def test_a_curve_s_turn_is_that_of_the_numbers_it_was_made_from() -> None:
    # d (3 - 1 log d) is highest at exp(3 - 1), beyond what was measured; d (3 - 2 log d) at exp(1.5 - 1) = 1.65.
    found = curve_of("rl", [point(d, 4 + d * (3 - 2 * math.log(d)) if d else 4.0, i) for i, d in enumerate(DISTANCES)])
    assert (found.a, found.b, found.r_squared) == tuple(map(pytest.approx, (3.0, 2.0, 1.0)))
    assert found.turn == pytest.approx(math.exp(0.5))
    assert (found.top.at, found.last.at) == (4, 6)  # 1.4 is nearest to the turn
    at_one = min(found.line, key=lambda pair: abs(pair[0] - 1.0))
    assert at_one[1] == pytest.approx(4 + 3, abs=0.02)
    beyond = curve_of("rl", [point(d, d * (3 - math.log(d)) if d else 0.0, i) for i, d in enumerate(DISTANCES)])
    assert beyond.turn is None and beyond.top == beyond.last
    best = curve_of("best_of_n", [point(d, 4 + d * (3 - 1.5 * d), i) for i, d in enumerate(DISTANCES)])
    assert best.turn == pytest.approx(1.0)


def test_too_few_distances_have_no_curve() -> None:
    found = curve_of("rl", [point(0.0, 4.0, 0), point(1.0, 5.0, 10)])
    assert found.a is None and found.line == () and found.top.at == 10


def test_best_of_n_s_numbers() -> None:
    draws = Samples(prompts=("p", "q"), proxy=((0.0, 1.0, 2.0), (2.0, 0.0, 1.0)), gold=((5.0, 7.0, 0.0), (3.0, 9.0, 6.0)))
    assert draws.numbers == [1, 2, 3] and draws.answers == 3
    assert draws.best(1, "gold") == pytest.approx([4.0, 6.0])
    assert draws.best(3, "gold") == [0.0, 3.0]  # where the proxy is highest
    # Of two: {0,1} 7, {0,2} 0, {1,2} 0; and {2,0} 3, {2,1} 3, {0,1} 6.
    assert draws.best(2, "gold") == pytest.approx([7 / 3, 12 / 3])
    assert draws.deviation("proxy") == pytest.approx(float(torch.tensor([0.0, 1, 2, 2, 0, 1]).std(correction=0)))


def test_nothing_ties_rl_to_the_sft_model(tmp_path: Path) -> None:
    own = without_kl(config(tmp_path), tmp_path / "over", None)
    assert own.rl is not None
    assert (own.rl.episodes, own.rl.kl.coefficient, own.rl.kl.target) == (256, 0.0, None)
    assert own.rl.kl.budget >= 1e9 and own.rl.eval_every == 1 and own.out == str(tmp_path / "over" / "rl")
    assert without_kl(config(tmp_path), tmp_path, 8 * 400).rl.eval_every == 5  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="60 episodes"):
        without_kl(config(tmp_path), tmp_path, 60)


@pytest.mark.parametrize(
    ("changes", "most", "told"),
    [({"world": None}, 8, "no `world`"), ({"rl": None}, 8, "no section `rl`"), ({}, 3, "best of 3")],
)
def test_what_cannot_be_studied_is_said_before(tmp_path: Path, changes: dict[str, Any], most: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        study_overoptimisation(config(tmp_path, **changes), limit=most)


def study(tmp_path: Path, *, turns: bool = True) -> Overoptimisation:
    """A journal and draws as a run leaves them."""
    layout = Layout(tmp_path / "rl")
    journal = Journal(layout)
    for step, d in enumerate(DISTANCES):
        gold = 4 + d * (3 - 2 * math.log(d)) if d and turns else 4.0 + d
        values = {"eval_kl": d * d if step != 1 else -0.01, "eval_score": d, "eval_gold": gold}
        journal.metrics("rl", step, values)
        said = {"prompt": "What is <b>2</b> plus 3?", "response": "5" * (1 + 300 * step), "reward": d, "gold": gold}
        journal.samples("rl", step, [said])
    journal.metrics("rl", 99, {"loss": 1.0})
    rows = torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(0))
    proxy = tuple(tuple(row.tolist()) for row in rows[0])
    gold = tuple(tuple((5 + row - row**2).tolist()) for row in rows[0])
    return fit_curves(layout, Samples(prompts=tuple("abcdefghijkl"), proxy=proxy, gold=gold), str(tmp_path))


@pytest.mark.parametrize("trusted", [False, True])
def test_code_beside_a_model_runs_where_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool) -> None:
    """Answers are drawn outside the run's own stages, with what the run's config allows."""

    def opened(*_: Any) -> None:
        assert remote_code_kwargs("some/model")["trust_remote_code"] is trusted
        raise RunError("seen")

    monkeypatch.setattr("sawyer.studies.best_of_n_samples._score_answers", opened)
    monkeypatch.setattr("sawyer.studies.best_of_n_samples.fingerprint", lambda *_: "as it was")  # of files that are not there
    own = config(tmp_path).model_copy(update={"out": str(tmp_path / "run"), "trust_remote_code": trusted})
    with pytest.raises(RunError, match="seen"):
        sample_answers(own, 4, [])


def test_the_points_are_those_of_the_journal(tmp_path: Path) -> None:
    found = study(tmp_path)
    assert [p.at for p in found.rl.points] == list(range(7))
    assert [p.distance for p in found.rl.points] == pytest.approx([0.0, 0.0, *DISTANCES[2:]])  # a KL below 0 is no distance
    assert [p.at for p in found.best_of_n.points] == [1, 2, 4, 8, 16]
    assert [p.kl for p in found.best_of_n.points] == pytest.approx([math.log(n) - (n - 1) / n for n in (1, 2, 4, 8, 16)])
    assert all(p.gold_low is not None and p.gold_low <= p.gold <= p.gold_high for p in found.best_of_n.points)  # type: ignore[operator]
    assert [sample.at for sample in found.samples] == [0, 4, 6]
    words = " ".join(found.notes)
    assert "RL without KL: gold rises from 4.00 to" in words and "while the proxy goes from +1.40 to +3.00" in words
    assert "has not turned" in " ".join(study(tmp_path / "on", turns=False).notes)


def test_the_markdown_has_the_first_the_top_and_the_last(tmp_path: Path) -> None:
    found = study(tmp_path)
    text = found.text
    assert "| update |" in text and "| n " in text and all(f"- {note}" in text for note in found.notes)
    many = curve_of("rl", [point(0.01 * i, 5 - abs(0.01 * i - 1.234), i) for i in range(200)])
    some = table_points(many)
    assert len(some) <= 13 and {0, many.top.at, 199} <= {p.at for p in some}


def test_the_page_stands_alone_and_shows_what_was_found(tmp_path: Path) -> None:
    found = study(tmp_path)
    text = build_overoptimisation(asdict(found), tmp_path / "page.html").read_text()
    assert text.count("<svg") == 4 and "the curve turns" in text and "d (a − b log d)" in text
    assert not re.search(r'(?:src|href)="(?!#)', text) and "<script" not in text
    assert "&lt;b&gt;2&lt;/b&gt;" in text and "<b>2</b>" not in text  # no word of a model is markup
    assert "at the highest gold, update 4" in text and "more characters" in text
    few = curve_of("rl", [point(0.0, 4.0, 0), point(1.0, 5.0, 10)])
    plain = build_overoptimisation({**asdict(found), "rl": asdict(few)}, tmp_path / "few.html").read_text()
    assert plain.count("<svg") == 4  # without a curve too
