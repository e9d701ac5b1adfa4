"""Prompts of the reward model's data that ask nearly the same: the first stays, word-for-word repetitions all stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sawyer.engine import choose_place
from sawyer.models import open_speaker
from sawyer.runs import read_rows
from sawyer.stages.reward import train
from sawyer.stages.reward.data import load
from sawyer.stages.reward.thin import thinned

Fixture = Any
PLACE = choose_place("cpu", "fp32", width=16)


def rows() -> list[dict[str, Any]]:
    """Prompts 0 to 7; of each a near twin (a full stop more); prompt 0 is judged three times."""
    words = "river stone bread winter paper engine garden music".split()
    asked = [f"Tell me about the {word} of {other}" for word, other in zip(words, reversed(words), strict=True)]
    pairs = [{"prompt": text, "chosen": "Yes.", "rejected": "No."} for text in asked]
    pairs += [{"prompt": f"{text}.", "chosen": "Yes.", "rejected": "Never."} for text in asked]
    return [*pairs, *({"prompt": asked[0], "chosen": f"Yes {i}.", "rejected": "No."} for i in range(2))]


def config_of(tiny: Fixture, out: Path, data: Path, **asked: Any) -> Any:
    section = {"data": [str(data)], "held_out": 0, **asked}
    return tiny.config(out, sft={"data": [str(tiny.instructions)]}, reward=section)


def test_near_twins_go_and_repetitions_stay(tiny: Fixture, tmp_path: Path, write_rows: Any, events: Any) -> None:
    data = write_rows(rows())
    speaker = open_speaker(tiny.sft)
    with tiny.run(tmp_path / "run", "sft") as run:
        whole = load(config_of(tiny, tmp_path / "run", data), run, speaker)
        assert len(whole.train) == 18
        assert thinned(config_of(tiny, tmp_path / "run", data), run, speaker, PLACE, whole) is whole
        assert events(run, "thinned") == []
        few = thinned(config_of(tiny, tmp_path / "run", data, thin=0.9999), run, speaker, PLACE, whole)
        assert few == whole, "nothing is as alike as that"
        found = thinned(config_of(tiny, tmp_path / "run", data, thin=0.97), run, speaker, PLACE, whole)
        told = events(run, "thinned")[-1]["message"]
    asked = [group.prompt.text for group in found.train]
    assert asked.count("Tell me about the river of music") == 3, "the same prompt's judgements are no duplicates"
    assert 3 <= len(asked) < 18 - 4
    assert asked == [group.prompt.text for group in whole.train if group.prompt.text in set(asked)], "in their order"
    assert told.startswith(f"prompts: thin: 0.97 leaves out {16 - len(set(asked))} of 16 as near-duplicates")
    assert found.held_out == whole.held_out


def test_the_stage_trains_on_what_is_left(tiny: Fixture, tmp_path: Path, write_rows: Any) -> None:
    data = write_rows(rows())
    plans = []
    for name, asked in (("whole", {}), ("thin", {"thin": 0.97})):
        with tiny.run(tmp_path / name, "sft") as run:
            train(config_of(tiny, tmp_path / name, data, calibration_prompts=2, **asked), run)
            plans.append(next(row["message"] for row in read_rows(run.layout.events) if row["kind"] == "plan"))
    assert plans[0].startswith("18 prompts with 36 answers") and not plans[1].startswith("18 prompts")
