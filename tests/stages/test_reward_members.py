"""The reward stage with other networks, frozen layers and ensembles: what is trained, saved, loaded, and gone on with."""

from __future__ import annotations

import json
import random
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from encoders import write
from recorded import metric_rows

from sawyer.cli.score_command import with_rewards
from sawyer.errors import ConfigError, Interrupted
from sawyer.models import (
    RewardScorer,
    TextScorer,
    member_folder,
    new_reward_model,
    open_language_model,
    read_extra,
    sequence_logits,
)
from sawyer.records import prompt_of, read_answers
from sawyer.runs import read_rows
from sawyer.runs.atomic_files import hash_folder
from sawyer.stages.reward.loss_choice import objective
from sawyer.stages.reward.reward_data import load_reward_data
from sawyer.stages.reward.reward_stage import RewardLoop, sample_answers, train
from sawyer.train import choose_device, judged_minibatches, load_checkpoint

pytestmark = pytest.mark.slow

Fixture = Any
PROMPTS = [prompt_of("What is the opposite of up?"), prompt_of("Say something.")]
ANSWERS = ["Down.", "The opposite of it is something else."]
SMALL = {"eval_fraction": 0.2, "batch_size": 16, "calibration_prompts": 12, "learning_rate": 3e-3, "epochs": 1}


def config_of(tiny: Fixture, out: Path, **asked: Any) -> Any:
    return tiny.config(out, sft={"data": ["d"]}, reward={"data": [str(tiny.comparisons)], **SMALL, **asked})


def trained(tiny: Fixture, out: Path, **asked: Any) -> dict[str, Any]:
    with tiny.run(out, "sft") as run:
        return train(config_of(tiny, out, **asked), run)


def plans(out: Path) -> list[str]:
    return [row["message"] for row in read_rows(out / "events.jsonl") if row["kind"] == "plan"]


@pytest.fixture(scope="module")
def alone(tiny: Fixture, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("alone") / "run"
    return out, trained(tiny, out)


@pytest.fixture(scope="module")
def seeds(tiny: Fixture, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("seeds") / "run"
    return out, trained(tiny, out, ensemble={"members": 3, "reward": "mean_minus_variance", "penalty": 0.5})


def plain(folder: Path) -> Any:
    return hf.AutoModelForSequenceClassification.from_pretrained(folder).eval()


def raw_of(folder: Path, scorer: RewardScorer, head: int = 0) -> list[float]:
    """Each answer alone through the model that plain transformers loads."""
    model = plain(folder)
    rows = [scorer.prompt_encoder.answer(prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    with torch.no_grad():
        return [float(model(torch.tensor([row.ids])).logits[0, head]) for row in rows]


# Ensembles


def test_the_first_member_is_the_model_alone(alone: Any, seeds: Any) -> None:
    one, first = plain(alone[0] / "reward" / "model"), plain(seeds[0] / "reward" / "model")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), first.parameters(), strict=True))
    other = plain(member_folder(seeds[0] / "reward" / "model", 1))
    assert not torch.equal(first.score.weight, other.score.weight)
    assert not torch.equal(first.base_model.wpe.weight, other.base_model.wpe.weight)


def test_members_are_standardised_then_combined(tiny: Fixture, seeds: Any) -> None:
    folder = seeds[0] / "reward" / "model"
    scorer = RewardScorer.load(folder)
    assert len(scorer.members) == 3
    units = [(read_extra(f)["reward_shift"], read_extra(f)["reward_scale"]) for f in folders(folder)]
    assert [(member.shift, member.scale) for member in scorer.members] == units
    found = scorer.score_details(PROMPTS, ANSWERS)
    for i, one in enumerate(found):
        z = [(raw_of(f, scorer)[i] - shift) / scale for f, (shift, scale) in zip(folders(folder), units, strict=True)]
        assert one.members == pytest.approx(z, abs=1e-3)
        assert one.reward == pytest.approx(statistics.fmean(z) - 0.5 * statistics.pvariance(z), abs=1e-3)
        assert one.disagreement == pytest.approx(statistics.pstdev(z), abs=1e-3)
    assert [one.reward for one in found] == scorer(PROMPTS, ANSWERS)


def folders(folder: Path) -> list[Path]:
    return [folder, member_folder(folder, 1), member_folder(folder, 2)]


def test_every_member_has_mean_0_and_deviation_1_on_the_sft_model_s_answers(tiny: Fixture, seeds: Any) -> None:
    out, figures = seeds
    scorer = RewardScorer.load(out / "reward" / "model")
    config, speaker = config_of(tiny, out), open_language_model(tiny.sft)
    with tiny.run(out.parent / "again") as run:
        groups = load_reward_data(config, run, speaker).train_prompts
    own = sample_answers(config, choose_device("cpu", "fp32", width=16), speaker, [g.record.prompt for g in groups][:12])
    found = scorer.score_details(*own)
    for member in range(3):
        values = [one.members[member] for one in found]
        assert statistics.fmean(values) == pytest.approx(0, abs=1e-6)
        assert statistics.pstdev(values) == pytest.approx(1, abs=1e-6)
    apart = statistics.fmean(one.disagreement for one in found if one.disagreement is not None)
    assert figures["own_disagreement"] == scorer.ensemble.own_disagreement == pytest.approx(apart)
    assert 0 < apart < 1


def test_scoring_a_file_tells_the_disagreement(seeds: Any) -> None:
    out, _ = seeds
    (out / "config.yaml").write_text("model: x\n")
    judge, scorer = TextScorer(out), RewardScorer.load(out / "reward" / "model")
    rows: list[dict[str, Any]] = [
        {"prompt": PROMPTS[0].text, "response": ANSWERS[0], "more": 1},
        {"prompt": PROMPTS[1].text, "chosen": ANSWERS[1], "rejected": ANSWERS[0]},
    ]
    (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, pair = with_rewards(judge, list(read_answers(str(out / "rows.jsonl"), [])))
    expected = scorer.score_details(PROMPTS, ANSWERS)
    assert one == {**rows[0], "reward": expected[0].reward, "disagreement": expected[0].disagreement}
    assert pair["reward"]["chosen"] == pytest.approx(expected[1].reward) and set(pair["disagreement"]) == {"chosen", "rejected"}


def test_the_journal_tells_the_members_apart(seeds: Any, alone: Any) -> None:
    rows = [row for row in metric_rows(seeds[0] / "metrics.jsonl") if "loss" in row]
    single = [row for row in metric_rows(alone[0] / "metrics.jsonl") if "loss" in row]
    each = len(single)
    assert [row["member"] for row in rows] == [0] * each + [1] * each + [2] * each
    assert [{k: v for k, v in row.items() if k != "member"} for row in rows[:each]] == single
    assert rows[each]["loss"] != rows[0]["loss"]
    assert "an ensemble of 3 models" in plans(seeds[0])[0]


def test_an_interruption_in_the_second_member_changes_nothing(tiny: Fixture, seeds: Any, tmp_path: Path) -> None:
    asked = {"ensemble": {"members": 3, "reward": "mean_minus_variance", "penalty": 0.5}}
    with tiny.run(tmp_path / "run", "sft") as run:
        seen: list[int] = []

        def stop(kind: str, row: dict[str, Any]) -> None:
            if kind == "metric" and row.get("member") == 1:
                seen.append(row["step"])
                if len(seen) == 2:
                    run.stop.set("a test")

        run.journal.listeners.append(stop)
        with pytest.raises(Interrupted):
            train(config_of(tiny, tmp_path / "run", **asked), run)
        # The first member is put by once; what is saved again and again holds the one in training alone.
        first = load_checkpoint(run.layout.members("reward") / "0")
        saved = load_checkpoint(run.layout.checkpoint("reward"))
    assert first is not None and saved is not None and not (tmp_path / "run" / "reward" / "members" / "1").exists()
    assert torch.equal(first["weights"]["score.weight"], plain(seeds[0] / "reward" / "model").score.weight)
    assert set(saved["loop"]) == {"number", "loop"} and saved["loop"]["number"] == 1
    assert not (tmp_path / "run" / "reward" / "model").exists()
    figures = trained(tiny, tmp_path / "run", **asked)
    assert figures == seeds[1]
    assert metric_rows(tmp_path / "run" / "metrics.jsonl") == metric_rows(seeds[0] / "metrics.jsonl")
    assert hash_folder(tmp_path / "run" / "reward" / "model") == hash_folder(seeds[0] / "reward" / "model")


def test_heads_of_one_trunk(tiny: Fixture, tmp_path: Path) -> None:
    figures = trained(tiny, tmp_path / "run", ensemble={"members": 4, "by": "heads", "reward": "min"})
    folder = tmp_path / "run" / "reward" / "model"
    model = plain(folder)
    assert model.config.num_labels == 4 and not member_folder(folder, 1).exists()
    scorer = RewardScorer.load(folder)
    found = scorer.score_details(PROMPTS, ANSWERS)
    units = [(member.shift, member.scale) for member in scorer.members]
    for i, one in enumerate(found):
        z = [(raw_of(folder, scorer, head)[i] - shift) / scale for head, (shift, scale) in enumerate(units)]
        assert one.members == pytest.approx(z, abs=1e-3) and one.reward == pytest.approx(min(z), abs=1e-3)
    assert len({round(float(w), 6) for w in model.score.weight.detach()[:, 0]}) == 4
    assert figures["own_disagreement"] > 0


def test_the_loss_of_heads_is_their_mean(tiny: Fixture, tmp_path: Path) -> None:
    config = config_of(tiny, tmp_path, centering_coefficient=0.1)
    reader = new_reward_model(tiny.sft, seed=4, heads=3)
    aim = objective(config.reward)
    with tiny.run(tmp_path / "run") as run:
        found = load_reward_data(config, run, reader)
    place = choose_device("cpu", "fp32", width=16)
    work = RewardLoop(config, place, reader.model, reader.prompt_encoder.pad_id, found.train_prompts, found.normalizer)
    (part,) = judged_minibatches(found.train_prompts[:6], reader.prompt_encoder.pad_id, 10**6, found.normalizer)
    scores = sequence_logits(reader.model, part.batch)
    each = [float(aim.total(scores[:, head], part.judgements).detach()) for head in range(3)]
    assert float(work.loss(part, []).detach()) == pytest.approx(statistics.fmean(each), rel=1e-5)
    assert max(each) - min(each) > 1e-3


# Freezing


@pytest.mark.parametrize(
    ("what", "told"), [("all_but_head", "1 of 1 layers frozen, 16 of"), (1, "1 of 1 layers frozen, 48 of")]
)
def test_frozen_weights_stay_bit_for_bit(tiny: Fixture, tmp_path: Path, what: Any, told: str) -> None:
    figures = trained(tiny, tmp_path / "run", freeze=what)
    before = open_language_model(tiny.sft).model.base_model.state_dict()  # type: ignore[union-attr, operator]
    after = plain(tmp_path / "run" / "reward" / "model")
    moved = {name for name, weight in after.base_model.state_dict().items() if not torch.equal(weight, before[name])}
    # The last norm is no layer: it reads the last one's states.
    assert moved == (set() if what == "all_but_head" else {"ln_f.weight", "ln_f.bias"})
    head = new_reward_model(tiny.sft, seed=0).model.score.weight  # type: ignore[union-attr]
    assert not torch.equal(after.score.weight, head)  # type: ignore[arg-type]
    assert told in plans(tmp_path / "run")[0]
    assert figures["loss_last"] != figures["loss_first"]


def test_more_layers_than_there_are(tiny: Fixture, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reward\.freeze: 2 layers, but the model has 1"):
        trained(tiny, tmp_path / "run", freeze=2)


def test_sft_freezes_too(tiny: Fixture, tmp_path: Path) -> None:
    from sawyer.stages.sft import train as fine_tune

    asked = {"data": [str(tiny.instructions)], "batch_size": 64, "learning_rate": 1e-2, "max_new_tokens": 4, "freeze": 1}
    with tiny.run(tmp_path / "run") as run:
        fine_tune(tiny.config(tmp_path / "run", sft=asked), run)
    before, after = (open_language_model(path).model.state_dict() for path in (tiny.base, tmp_path / "run" / "sft" / "model"))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "transformer.ln_f.weight",
        "transformer.ln_f.bias",
    }
    assert "1 of 1 layers frozen, 32 of" in plans(tmp_path / "run")[0]


# Other networks


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta"])
def test_an_encoder_as_the_reward_model(tiny: Fixture, tmp_path: Path, name: str) -> None:
    write(tmp_path / "source", name)
    trained(tiny, tmp_path / "run", model=str(tmp_path / "source"), freeze=1)
    folder = tmp_path / "run" / "reward" / "model"
    scorer = RewardScorer.load(folder)
    model, tokenizer = plain(folder), hf.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer([prompt.text for prompt in PROMPTS], ANSWERS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        raw = model(**inputs).logits[:, 0].tolist()
    found = scorer(PROMPTS, ANSWERS)
    assert [x * scorer.scale + scorer.shift for x in found] == pytest.approx(raw, abs=1e-4)
    (plan,) = plans(tmp_path / "run")
    assert "reads text pairs" in plan and "1 of 2 layers frozen" in plan


def test_another_decoder_reads_with_its_own_tokenizer(tiny: Fixture, tmp_path: Path) -> None:
    shutil.copytree(tiny.base, tmp_path / "other")
    (tmp_path / "other" / "chat_template.jinja").unlink()
    trained(tiny, tmp_path / "run", model=str(tmp_path / "other"))
    (plan,) = plans(tmp_path / "run")
    assert "reads the template `question` (its tokenizer brings none)" in plan
    scorer = RewardScorer.load(tmp_path / "run" / "reward" / "model")  # its template is saved with it
    assert scorer.note == "" and len(scorer(PROMPTS, ANSWERS)) == 2


# The shapes in which people publish comparisons, from a decoder and from an encoder with a tokenizer of its own


def published(path: Path, shape: str, prompts: int) -> Path:
    """Scored answers by several models (the mean of several reviews), or pairs with a context beside the instruction."""
    rng = random.Random(shape)
    rows: list[dict[str, Any]] = []
    for i in range(prompts):
        ask, good, bad = f"What is {i} and one?", f"It is {i + 1}.", f"No word of {i}."
        if shape == "scored":
            answers = [(good, "a", 9.0), (bad, "b", 2.5), (f"{good} {good}", "c", 7.75), (bad[3:], "a", 2.5)]
            rows.append(
                {
                    "user_input": ask,
                    "responses_and_scores": [
                        {"response": text, "source": source, "score": score + rng.choice((0, 0.5))}
                        for text, source, score in answers
                    ],
                }
            )
        else:
            rows.append({"instruction": ask, "input": f"Text {i}", "output": good, "chosen": good, "rejected": bad})
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("shape", ["scored", "pairs"])
@pytest.mark.parametrize("network", ["decoder", "bert"])
def test_published_comparisons_from_either_network(tiny: Fixture, tmp_path: Path, shape: str, network: str) -> None:
    """A few prompts teach something and say little: the report's intervals and words admit it."""
    data = published(tmp_path / "rows.json", shape, 40)
    asked = {"data": [str(data)], "eval_fraction": 0.3}
    if network == "bert":
        asked["model"] = str(write(tmp_path / "source", "bert"))
    figures = trained(tiny, tmp_path / "run", **asked)
    found = json.loads((tmp_path / "run" / "reward" / "trust.json").read_text())
    side = found["sides"][0]
    accuracy = side["accuracy"]
    held_out = figures["eval_prompts"]
    assert 5 < held_out < 20 and side["prompts"] == accuracy["prompts"] == held_out
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"] and accuracy["high"] - accuracy["low"] > 0.1
    assert found["verdict"]["kind"] == "refuse" and "too_few" in [reason["name"] for reason in found["verdict"]["reasons"]]
    assert f"{held_out} prompts are too few to say" in found["verdict"]["words"]
    told = [row["message"] for row in read_rows(tmp_path / "run" / "events.jsonl") if row["kind"] == "verdict"]
    assert told == [found["verdict"]["words"]], "and it is said on the screen"
    if shape == "scored":
        assert {source["name"] for source in side["by_source"]} == {"a", "b", "c"}
