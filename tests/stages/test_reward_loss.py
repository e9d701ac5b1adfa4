"""The loss that is asked for, on real networks: what it counts, what a prompt costs, what cannot teach, and a user's own."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded import metric_rows

from sawyer.config import LOSSES
from sawyer.errors import ConfigError, DataError
from sawyer.maths import REWARD_LOSSES, ScoreNormalizer
from sawyer.models import Member, RewardScorer, load_reward, load_tokenizer, open_language_model, read_extra, sequence_logits
from sawyer.models.fast.packing import packs_exactly
from sawyer.stages.reward.loss_choice import checked_loss, open_loss
from sawyer.stages.reward.reward_data import RewardData, load_reward_data
from sawyer.stages.reward.reward_stage import RewardLoop, train
from sawyer.text import pad_right
from sawyer.train import EncodedPrompt, OptimizerStep, choose_device, judged_minibatches

Fixture = Any


def config_of(tiny: Fixture, out: Path, data: Path, **asked: Any) -> Any:
    return tiny.config(out, sft={"data": ["d"]}, reward={"data": [str(data)], "eval_fraction": 0, **asked})


def row(prompt: str, *scores: Any) -> dict[str, Any]:
    answers = [{"response": f"{prompt} " * (i + 1), "score": score} for i, score in enumerate(scores)]
    return {"user_input": prompt, "responses_and_scores": answers}


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def data_of(tiny: Fixture, out: Path, data: Path, **asked: Any) -> RewardData:
    with tiny.run(out / "run") as run:
        return load_reward_data(config_of(tiny, out, data, **asked), run, open_language_model(tiny.sft))


def work_of(tiny: Fixture, out: Path, found: RewardData, **asked: Any) -> RewardLoop:
    model = load_reward(tiny.reward, load_tokenizer(tiny.reward))
    config = config_of(tiny, out, tiny.comparisons, **asked)
    pad_id = open_language_model(tiny.sft).prompt_encoder.pad_id
    return RewardLoop(config, choose_device("cpu", "fp32", width=16), model, pad_id, found.train_prompts, found.normalizer)


def scores_of(tiny: Fixture, work: RewardLoop, group: EncodedPrompt) -> list[float]:
    scorer = RewardScorer(prompt_encoder=open_language_model(tiny.sft).prompt_encoder, members=[Member(model=work.model)])
    return [scorer([group.record.prompt], [response])[0] for response in group.record.responses]


# What a batch's loss is


def nlog(x: float) -> float:
    return math.log1p(math.exp(-x)) if x > 0 else -x + math.log1p(math.exp(x))


def ranking(rewards: Sequence[float], scores: Sequence[float]) -> float:
    """-log of the probability of the judges' ranking; equals are each drawn from all that are not above them."""
    terms = [math.log(sum(math.exp(r) for r, s in zip(rewards, scores, strict=True) if s <= mine)) for mine in scores]
    return sum(terms) - sum(rewards)


SEVEN = [row("one", 1, 7, 3, 9, 2, 5, 6), row("two", 4, 4, 1), row("three", 2, 8), row("four", 0, 3, 5, 6)]


@pytest.mark.parametrize("by", ["pair", "prompt"])
@pytest.mark.parametrize("loss", ["squared", "listwise", "regression"])
def test_a_batch_s_loss_by_hand(tiny: Fixture, tmp_path: Path, loss: str, by: str) -> None:
    asked = {"loss": loss, "normalize_by": by, "centering_coefficient": 0.02, "batch_size": 4}
    found = data_of(tiny, tmp_path, lines(tmp_path / "rows.jsonl", *SEVEN), **asked)
    given = [[answer["score"] for answer in one["responses_and_scores"]] for one in SEVEN]
    everything = [score for scores in given for score in scores]
    mean, deviation = statistics.fmean(everything), statistics.pstdev(everything)
    assert found.normalizer == ScoreNormalizer(mean=mean, scale=deviation)
    work = work_of(tiny, tmp_path, found, **asked)
    items: list[list[float]] = []
    for group, scores in zip(found.train_prompts, given, strict=True):
        rewards = scores_of(tiny, work, group)
        each = list(zip(rewards, scores, strict=True))
        if loss == "squared":
            mine = [nlog((r - q) * (s - t) ** 2) + 0.02 * (r + q) ** 2 for r, s in each for q, t in each if s > t]
        elif loss == "regression":
            mine = [(r - (s - mean) / deviation) ** 2 + 0.02 * (2 * r) ** 2 for r, s in each]
        else:
            mine = [ranking(rewards, scores) + 0.02 * (2 * statistics.fmean(rewards)) ** 2]
        items.append(mine)
    by_pair, by_prompt = statistics.fmean(x for one in items for x in one), statistics.fmean(map(statistics.fmean, items))
    expected = by_pair if by == "pair" else by_prompt
    if loss != "listwise":
        assert by_pair != pytest.approx(by_prompt, rel=1e-2), "or the other would pass too"
    told = work.step(0)
    assert told["loss"] == pytest.approx(expected, rel=1e-4)
    assert told["pairs"] == 21 + 2 + 1 + 6


# What a judgement weighs


@pytest.mark.parametrize("by", ["pair", "prompt"])
@pytest.mark.parametrize("loss", ["squared", "listwise", "regression"])
def test_a_judgement_of_weight_two_is_the_row_given_twice(tiny: Fixture, tmp_path: Path, loss: str, by: str) -> None:
    """In loss, accuracy and gradient, whatever the micro-batches; the raters' rows are no duplicates."""
    asked = {"loss": loss, "normalize_by": by, "centering_coefficient": 0.02, "batch_size": 5}
    first, rest = SEVEN[0] | {"rater": "r1"}, SEVEN[1:]
    steps = []
    for name, rows in (("twice", [first, first, *rest]), ("weighted", [first | {"judgement_weight": 2}, *rest])):
        found = data_of(tiny, tmp_path, lines(tmp_path / f"{name}.jsonl", *rows), **asked)
        for tokens in (100, 8192):
            work = work_of(tiny, tmp_path, found, **asked)
            work.config = work.config.model_copy(update={"micro_batch_tokens": tokens})
            steps.append(work.step(0))
    assert steps[0]["pairs"] == 51 and steps[2]["pairs"] == 30  # a count, whatever their weights
    for step in steps[1:]:
        for figure in ("loss", "accuracy", "grad_norm"):
            assert step[figure] == pytest.approx(steps[0][figure], rel=1e-4), figure
    plain = work_of(tiny, tmp_path, data_of(tiny, tmp_path, lines(tmp_path / "plain.jsonl", *SEVEN), **asked), **asked)
    assert plain.step(0)["loss"] != pytest.approx(steps[0]["loss"], rel=1e-3), "or a weight could be ignored"


# What a prompt costs


@pytest.mark.fast_path
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("by", ["pair", "prompt"])
def test_seven_answers_are_seven_rows_whatever_the_loss(tiny: Fixture, tmp_path: Path, loss: str, by: str) -> None:
    found = data_of(tiny, tmp_path, lines(tmp_path / "rows.jsonl", SEVEN[0]), loss=loss)
    work = work_of(tiny, tmp_path, found, loss=loss, normalize_by=by, batch_size=1)
    seen: list[int] = []
    assert packs_exactly(work.model.base_model)  # found out by three rows of its own
    work.model.base_model.register_forward_pre_hook(
        lambda _, __, n: seen.append(sum(len(group.suffixes) for group in n["layout"].groups)), with_kwargs=True
    )
    assert work.step(0)["pairs"] == 21
    assert sum(seen) == 7, "not the 42 of two passes a pair"


def two_passes(tiny: Fixture, work: RewardLoop, pad_id: int) -> float:
    """The same step as written down at first: both answers of each pair through the network, 42 rows for 7 answers."""
    from torch.nn.functional import logsigmoid

    (group,) = work.prompts
    better, worse = (pad_right([group.rows[p[side]] for p in group.pairs], pad_id) for side in (0, 1))
    differences = torch.tensor([d for _, _, d in group.pairs])
    gaps = sequence_logits(work.model, better)[:, 0] - sequence_logits(work.model, worse)[:, 0]
    loss = -logsigmoid(gaps * differences**2).mean()
    loss.backward()
    return float(loss.detach())


@pytest.mark.slow
def test_seven_rows_are_a_fraction_of_the_tokens_of_two_passes_a_pair(tiny: Fixture, tmp_path: Path) -> None:
    long = row("words " * 10, 1, 7, 3, 9, 2, 5, 6)
    found = data_of(tiny, tmp_path, lines(tmp_path / "rows.jsonl", long))
    work = work_of(tiny, tmp_path, found, batch_size=1, learning_rate=1e-9)
    pad_id = open_language_model(tiny.sft).prompt_encoder.pad_id
    assert two_passes(tiny, work, pad_id) == pytest.approx(work.step(0)["loss"], rel=1e-4)

    def tokens_of(step: Callable[[], Any]) -> int:
        sizes: list[int] = []
        hook = work.model.base_model.register_forward_pre_hook(
            lambda _, positional, keywords: sizes.append((*positional, keywords.get("input_ids"))[0].numel()), with_kwargs=True
        )
        step()
        hook.remove()
        return sum(sizes)

    once, twice = tokens_of(lambda: work.step(0)), tokens_of(lambda: two_passes(tiny, work, pad_id))
    assert 0 < once < 0.2 * twice, f"{once} tokens against {twice}"


# Splitting a batch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "by"),
    [("squared", "pair"), ("squared", "prompt"), ("listwise", "prompt"), ("regression", "pair"), ("regression", "prompt")],
)
def test_one_three_or_seven_parts(tiny: Fixture, capture: Fixture, tmp_path: Path, loss: str, by: str) -> None:
    """The gradient is the same, and the mean of the parts' own means is not."""
    prompts = [row(f"prompt {i} " * (i % 4 + 1), *((i * k * 7 + k) % 10 for k in range(2 + i % 5))) for i in range(14)]
    asked = {"loss": loss, "normalize_by": by, "centering_coefficient": 0.01, "batch_size": 14}
    found = data_of(tiny, tmp_path, lines(tmp_path / "rows.jsonl", *prompts), **asked)
    groups, aim = found.train_prompts, work_of(tiny, tmp_path, found, **asked).objective

    def captured(count: int, size: Any = None) -> Any:
        work = work_of(tiny, tmp_path, found, **asked)
        kept = capture(work.optimizer_step, size)
        at = [round(i * len(groups) / count) for i in range(count + 1)]
        cuts = [groups[a:b] for a, b in pairwise(at)]
        parts = [part for cut in cuts for part in judged_minibatches(cut, work.pad_id, 10**6, found.normalizer)]
        assert len(parts) == count
        work.optimizer_step.update(
            parts, lambda part: work.loss(part, []), sum(work.objective.count(part.judgements) for part in parts)
        )
        return kept

    whole = captured(1)
    for count in (3, 7):
        split = captured(count)
        assert split.counts == whole.counts
        torch.testing.assert_close(split.gradients[0], whole.gradients[0], rtol=1e-4, atol=2e-6)
        if len(groups) % count:  # parts of one size have the same mean of means where each prompt counts once
            wrong = captured(count, lambda part: aim.count(part.judgements))
            away = (wrong.gradients[0] - whole.gradients[0]).abs().max() / whole.gradients[0].abs().max()
            assert float(away) > 1e-3


# What cannot teach


def test_what_cannot_teach_is_counted_and_named(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    rows = [row("ties", 3, 3), row("good", 1, 2), row("alone", 5), row("words", "good", 4), row("none", None, "n/a")]
    rows += [row(f"more ties {i}", 6, 6, 6) for i in range(3)]
    path = lines(tmp_path / "rows.jsonl", *rows, row("also good", 1, 2, 2))
    with tiny.run(tmp_path / "run") as run:
        found = load_reward_data(config_of(tiny, tmp_path, path), run, open_language_model(tiny.sft))
        (read,) = [event["message"] for event in events(run, "warning")]
    assert [group.record.prompt.text for group in found.train_prompts] == ["good", "also good"]
    # As they were read, the first few of each kind by line and field.
    assert "2 rows: score (rows.jsonl:4:responses_and_scores[0].score, rows.jsonl:5:responses_and_scores[1].score)" in read
    assert "tied" not in read
    # And as they are left out of training, which is as it is in any large file: in the plan.
    assert set(found.remarks.removeprefix("; ").split("; ")) == {
        "4 prompts are left out: all scores are equal",
        "2 prompts are left out: a single scored answer has nothing to compare with",
        "1 prompt is left out: no answer has a score",
        "1 tied pair is left out",
    }


def test_regression_learns_from_every_score(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    path = lines(tmp_path / "rows.jsonl", row("ties", 3, 3), row("good", 1, 2), row("alone", 5), row("none", None, None))
    with tiny.run(tmp_path / "run") as run:
        found = load_reward_data(config_of(tiny, tmp_path, path, loss="regression"), run, open_language_model(tiny.sft))
        assert not events(run, "warning")
    assert [group.record.scores for group in found.train_prompts] == [(3, 3), (1, 2), (5,)]
    assert found.remarks == "; 1 prompt is left out: no answer has a score"
    assert found.normalizer == ScoreNormalizer(mean=2.8, scale=pytest.approx(statistics.pstdev([3, 3, 1, 2, 5])))
    assert [group.record.prompt.text for group in found.examined_prompts] == ["good"], (
        "ranking is examined where there is a pair"
    )
    # A batch without a pair has a loss and no accuracy.
    work = work_of(
        tiny, tmp_path, RewardData(train_prompts=found.train_prompts[:1], eval_prompts=(), format=""), loss="regression"
    )
    told = work.step(0)
    assert told["pairs"] == 0 and "accuracy" not in told and math.isfinite(told["loss"])


def test_held_out_prompts_that_examine_nothing_are_told(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    rows = [row(f"ties {i}", 3, 3) for i in range(20)] + [row(f"good {i}", 1, 2) for i in range(20)]
    path = lines(tmp_path / "rows.jsonl", *rows)
    with tiny.run(tmp_path / "run") as run:
        config = config_of(tiny, tmp_path, path, loss="regression", eval_fraction=0.4)
        found = load_reward_data(config, run, open_language_model(tiny.sft))
    left = 40 - len(found.train_prompts) - len(found.eval_prompts)
    assert left > 1 and all(group.pairs for group in found.eval_prompts)
    assert found.remarks == f"; {left} prompts are left out: no answer is better than another"


def test_ready_made_pairs_have_no_score_for_regression(tiny: Fixture, tmp_path: Path, events: Any) -> None:
    pairs = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(3)]
    path = lines(tmp_path / "pairs.jsonl", *pairs)
    with tiny.run(tmp_path / "run") as run:
        with pytest.raises(DataError, match="two answers with different scores"):
            load_reward_data(config_of(tiny, tmp_path, path, loss="regression"), run, open_language_model(tiny.sft))
        told = events(run, "warning")[-1]["message"]
        places = ", ".join(f"{path.name}:{line}" for line in (1, 2, 3))
        assert told == f"3 prompts are left out: a pair has no score to learn ({places})"
        ranked = load_reward_data(config_of(tiny, tmp_path, path, loss="listwise"), run, open_language_model(tiny.sft))
    assert [group.record.scores for group in ranked.train_prompts] == [(1.0, 0.0)] * 3


# The whole stage


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["listwise", "regression"])
def test_the_whole_stage(tiny: Fixture, tmp_path: Path, loss: str) -> None:
    asked = {"loss": loss, "normalize_by": "prompt", "eval_fraction": 0.25, "epochs": 3, "batch_size": 8, "learning_rate": 3e-3}
    config = config_of(tiny, tmp_path / "run", tiny.comparisons, calibration_prompts=8, **asked)
    with tiny.run(tmp_path / "run", "sft") as run:
        figures = train(config, run)
        again = load_reward_data(config, run, open_language_model(tiny.sft))
        model = run.layout.model("reward")
    assert figures["loss_last"] < figures["loss_first"]
    extra = read_extra(model)
    assert (extra["loss"], extra["score_mean"], extra["score_scale"]) == (loss, again.normalizer.mean, again.normalizer.scale)
    given = [score for group in again.train_prompts for score in group.record.scores]
    assert extra["score_mean"] == pytest.approx(statistics.fmean(given)) and extra["score_scale"] == pytest.approx(
        statistics.pstdev(given)
    )
    # The held-out loss is the training loss on other prompts, by the standard of the training scores.
    trained = RewardScorer.load(model)
    scorer = RewardScorer(prompt_encoder=trained.prompt_encoder, members=[Member(model=trained.model)])
    losses = []
    for group in again.eval_prompts:
        rewards = scorer([group.record.prompt] * len(group.record.responses), group.record.responses)
        targets = [(score - extra["score_mean"]) / extra["score_scale"] for score in group.record.scores]
        squares = [(r - t) ** 2 for r, t in zip(rewards, targets, strict=True)]
        losses.append(statistics.fmean(squares) if loss == "regression" else ranking(rewards, group.record.scores))
    assert figures["eval_loss"] == pytest.approx(statistics.fmean(losses), rel=1e-4)


# A user's own


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """`module(text)`: a module of that text in the working directory; returns its name."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)

    def write(text: str, name: str = "my_own_losses") -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    for name in set(sys.modules) - before:
        if "own_losses" in name:
            del sys.modules[name]


SQUARED = """
from torch.nn.functional import logsigmoid

def squared(r_j, r_k, d):
    return -logsigmoid((r_j - r_k) * d**2)

def rises(r_j, r_k, d):
    return -logsigmoid((r_k - r_j) * d**2)
"""


@pytest.mark.slow
def test_a_user_s_own_loss_trains_as_ours_does(tiny: Fixture, tmp_path: Path, module: Callable[..., str]) -> None:
    module(SQUARED)
    found = []
    for loss in ("squared", "my_own_losses:squared"):
        out = tmp_path / loss.replace(":", "-")
        config = config_of(tiny, out, tiny.comparisons, loss=loss, normalize_by="prompt", batch_size=20, calibration_prompts=4)
        with tiny.run(out, "sft") as run:
            figures = train(config, run)
            found.append((figures["eval_loss"], metric_rows(run.layout.metrics)))
            assert read_extra(run.layout.model("reward"))["loss"] == loss
    assert found[0] == found[1]


def test_an_unfit_one_is_refused_before_anything_is_trained(
    tiny: Fixture, tmp_path: Path, module: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module(SQUARED)
    monkeypatch.setattr(OptimizerStep, "update", lambda *_: pytest.fail("it was trained"))
    config = config_of(tiny, tmp_path / "run", tiny.comparisons, loss="my_own_losses:rises")
    with tiny.run(tmp_path / "run", "sft") as run, pytest.raises(ConfigError) as refused:
        train(config, run)
    said = str(refused.value)
    assert "my_own_losses:rises is refused: falling: it must not rise with the preferred answer's reward" in said
    assert "(at r_j = -8, r_k = -1.3, d = 0.25)" in said
    assert "`sawyer check-loss my_own_losses:rises`" in said


def test_it_is_read_again_when_its_file_has_changed(module: Callable[..., str]) -> None:
    ones = torch.ones(2)
    module("def f(j, k, d):\n    return j - k\n")
    assert open_loss("my_own_losses:f").function(ones, ones, ones).tolist() == [0, 0]  # type: ignore[attr-defined]
    module("def f(j, k, d):\n    return j - k + 100\n")
    assert open_loss("my_own_losses:f").function(ones, ones, ones).tolist() == [100, 100]  # type: ignore[attr-defined]


def test_a_package_s_module_will_do(module: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "own_losses_package").mkdir()
    (tmp_path / "own_losses_package" / "__init__.py").write_text("")
    (tmp_path / "own_losses_package" / "pairs.py").write_text(SQUARED)
    assert checked_loss("own_losses_package.pairs:squared").counts == "pairs"


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        (SQUARED, "my_own_losses:square", "has no function square\n  expected: one of its functions: squared, rises"),
        ("def f(:\n", "my_own_losses:f", "my_own_losses.py:1: SyntaxError"),
        ("x = 1\ny = 1 / 0\n", "my_own_losses:f", "my_own_losses.py:2: ZeroDivisionError: division by zero"),
        ("import not_there_at_all\n", "my_own_losses:f", "my_own_losses.py:1: ModuleNotFoundError"),
        ("f = 3\n", "my_own_losses:f", "has no function f"),
        ("", "not_my_own_losses:f", "there is no module not_my_own_losses"),
        ("", "plain", "there is no loss 'plain'; did you mean `bradley_terry`?"),
        ("", "bradley_tery", "there is no loss 'bradley_tery'; did you mean `bradley_terry`?"),
    ],
)
def test_what_cannot_be_found_is_told(module: Callable[..., str], text: str, name: str, words: str) -> None:
    module(text)
    with pytest.raises(ConfigError) as told:
        open_loss(name)
    assert words in str(told.value)
    assert str(Path.cwd()) not in sys.path


def test_a_module_s_name_that_is_taken_is_told(module: Callable[..., str]) -> None:
    module(SQUARED, "json")
    with pytest.raises(ConfigError, match=r"json.py: another module is called json") as told:
        open_loss("json:squared")
    assert "my_json.py" in told.value.todo


def test_the_config_s_names_are_those_of_the_losses() -> None:
    assert tuple(REWARD_LOSSES) == LOSSES
