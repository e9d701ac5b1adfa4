"""`max_tokens` in every stage that trains on text, what becomes of pairs that are equal once they are cut, and encoding that
can be watched and stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sawyer import pipeline
from sawyer.config import parse_config
from sawyer.errors import ConfigError, DataError, Interrupted
from sawyer.models import open_language_model
from sawyer.records import Demonstration, prompt_of
from sawyer.runs import read_rows
from sawyer.stages.reward.reward_data import load_reward_data
from sawyer.stages.rl.dpo_pairs import load_pairs
from sawyer.stages.rl.reward_sources import zero_scorer
from sawyer.stages.rl.rl_prompts import load_prompts
from sawyer.stages.sft import train
from sawyer.text import Row, limit_tokens
from sawyer.train import encode_all, encode_rows

Fixture = Any


def messages(run: Any, kind: str) -> list[str]:
    return [row["message"] for row in read_rows(run.layout.events) if row["kind"] == kind]


LONG = "word " * 60
PAIRS = [
    {"prompt": "First?", "chosen": LONG + "yes", "rejected": LONG + "no"},  # they differ beyond the limit alone
    {"prompt": "Second?", "chosen": LONG, "rejected": "no"},
    {"prompt": "Third?", "chosen": "yes", "rejected": "no"},
]


def test_sft_cuts_and_the_plan_says_what(tiny: Fixture, tmp_path: Path, write_rows: Any) -> None:
    rows = [{"prompt": f"Say {i}.", "completion": "yes"} for i in range(8)]
    rows += [{"prompt": "Tell all.", "completion": LONG}, {"prompt": LONG, "completion": "yes"}]
    path = str(write_rows(rows))
    asked = {"data": [path], "eval_fraction": 0, "max_new_tokens": 4, "max_tokens": 40}
    with tiny.run(tmp_path / "run") as run:
        train(tiny.config(tmp_path / "run", sft=asked), run)
        (plan,) = messages(run, "plan")
        assert messages(run, "warning") == []
    assert "9 rows" in plan and "(the longest row has 40)" in plan
    assert (
        "; sft.max_tokens: 1 of 10 rows are longer than 40 tokens and lose the end of their response; 1 have a prompt" in plan
    )


def test_many_cut_rows_are_a_warning_and_the_gate_names_the_setting(tiny: Fixture, tmp_path: Path, write_rows: Any) -> None:
    path = str(write_rows([{"prompt": f"Tell {i}.", "completion": LONG} for i in range(8)]))
    asked = {"data": [path], "eval_fraction": 0, "max_new_tokens": 4, "max_tokens": 40}
    with tiny.run(tmp_path / "run") as run:
        train(tiny.config(tmp_path / "run", sft=asked), run)
        (plan,), (warning,) = messages(run, "plan"), messages(run, "warning")
        (gate,) = [row for row in read_rows(run.layout.events) if row.get("name") == "sft_stops"]
    assert (
        warning.startswith("sft.max_tokens: 8 of 8 rows are longer than 40 tokens and lose the end")
        and "max_tokens" not in plan
    )
    assert gate["advice"].startswith("8 of 8 rows were cut and have no end to learn from: raise sft.max_tokens; ")


def test_a_limited_codec_cuts_where_the_whole_row_goes_on(tiny: Fixture) -> None:
    prompt_encoder = open_language_model(tiny.sft).prompt_encoder
    record = Demonstration(prompt=prompt_of("First?"), response=LONG)
    whole, cut = prompt_encoder.demonstration(record), limit_tokens(prompt_encoder, 20).demonstration(record)
    assert cut.cut and cut.ids == whole.ids[:20] and cut.loss_mask == whole.loss_mask[:20]
    assert (
        limit_tokens(prompt_encoder, None) is prompt_encoder
        and limit_tokens(prompt_encoder, 10**9).context == prompt_encoder.context
    )


def test_reward_cuts_and_leaves_out_pairs_that_are_equal_then(tiny: Fixture, tmp_path: Path, write_rows: Any) -> None:
    path = str(write_rows(PAIRS))
    with tiny.run(tmp_path / "run") as run:
        for most, pairs in ((None, 3), (40, 2)):
            reward = {"data": [path], "eval_fraction": 0, "max_tokens": most}
            config = tiny.config(tmp_path / "run", sft={"data": ["d"]}, reward=reward)
            found = load_reward_data(config, run, open_language_model(tiny.sft))
            assert sum(len(group.pairs) for group in found.train_prompts) == pairs
            assert max(len(row.ids) for group in found.train_prompts for row in group.rows) == (40 if most else 74)
        assert "reward.max_tokens: 1 answer is cut to 40 tokens" in found.remarks
        assert "; 1 prompt is left out: its answers are the same tokens as they are read" in found.remarks
        assert messages(run, "warning") == []


def test_dpo_cuts_and_leaves_out_pairs_that_are_equal_then(tiny: Fixture, tmp_path: Path, write_rows: Any) -> None:
    path = str(write_rows(PAIRS))
    prompt_encoder = open_language_model(tiny.sft).prompt_encoder
    with tiny.run(tmp_path / "run", "sft") as run:
        for most, count in ((None, 3), (40, 2)):
            reward = {"data": [path], "eval_fraction": 0}
            rl = {"prompts": [str(tiny.prompts)], "algorithm": "dpo", "max_tokens": most}
            config = tiny.config(tmp_path / "run", sft={"data": ["d"]}, reward=reward, rl=rl)
            groups = load_pairs(config, run, prompt_encoder, [])
            assert len(groups) == count
        assert max(len(row.ids) for group in groups for row in group.rows) == 40
        told = messages(run, "data")
    assert "pairs: left out 1 pairs of the same tokens, as they are read" in told
    assert "rl.max_tokens: 3 answers are cut to 40 tokens" in told


def test_rl_leaves_out_longer_prompts(tiny: Fixture, tmp_path: Path, write_rows: Any) -> None:
    path = str(write_rows([{"prompt": "word " * count} for count in range(1, 31)]))
    speaker = open_language_model(tiny.sft)
    with tiny.run(tmp_path / "run", "sft", "reward") as run:
        config = tiny.rl_config(tmp_path / "run", prompts=[path], max_prompt_tokens=30, eval_fraction=0)
        prompts, _ = load_prompts(config, run, speaker, zero_scorer)
        (told,) = messages(run, "data")
    short = [count for count in range(1, 31) if len(speaker.prompt_encoder.prompt(prompts[0])) + count - 1 <= 30]
    assert 0 < len(prompts) < 30 and len(prompts) == len(short)
    assert told == f"rl.max_prompt_tokens: {30 - len(prompts)} of 30 prompts are longer than 30 tokens and are left out"


@pytest.mark.parametrize(("section", "name"), [("sft", "max_tokens"), ("reward", "max_tokens"), ("rl", "max_prompt_tokens")])
def test_a_limit_of_nothing_is_refused(section: str, name: str) -> None:
    sections: dict[str, Any] = {"sft": {"data": ["d"]}, "reward": {"data": ["d"]}, "rl": {"prompts": ["p"]}}
    sections[section][name] = 0
    with pytest.raises(ConfigError, match=name):
        parse_config({"model": "m", **sections})


def test_a_bad_row_is_left_out_of_training_and_too_many_stop_it(tiny: Fixture, tmp_path: Path, write_rows: Any) -> None:
    rows = [{"prompt": f"Say {i}.", "completion": "yes"} for i in range(8)]
    path = str(write_rows([*rows, {"prompt": "x", "completion": None}]))
    asked = {"data": [path], "eval_fraction": 0, "max_new_tokens": 4}
    with tiny.run(tmp_path / "run") as run:
        train(tiny.config(tmp_path / "run", sft=asked), run)
        (warned,) = messages(run, "warning")
        assert warned.startswith("1 of 9 rows cannot be used and is left out: missing (rows.json:9:completion)")
        assert "8 rows" in messages(run, "plan")[0]
    with tiny.run(tmp_path / "strict") as run, pytest.raises(DataError, match="max_bad_rows"):
        train(tiny.config(tmp_path / "strict", sft=asked, max_bad_rows=0.0), run)


def test_what_is_not_read_stands_in_the_plan_with_counts(tiny: Fixture, tmp_path: Path, write_rows: Any) -> None:
    path = str(write_rows([{"prompt": f"Say {i}.", "completion": "yes", "origin": "me"} for i in range(8)]))
    with tiny.run(tmp_path / "run") as run:
        train(tiny.config(tmp_path / "run", sft={"data": [path], "eval_fraction": 0, "max_new_tokens": 4}), run)
        (plan,) = [row for row in read_rows(run.layout.events) if row["kind"] == "plan"]
    assert "not read: origin" in plan["message"] and plan["unread"] == {"origin": 8}


def test_encoding_shows_how_far_it_is_and_hears_a_wish_to_stop(tiny: Fixture, tmp_path: Path) -> None:
    with tiny.run(tmp_path / "run") as run:
        seen: list[tuple[int, int]] = []
        run.journal.listeners.append(lambda kind, row: seen.append((row["done"], row["total"])) if kind == "progress" else None)
        assert encode_all(run, "sft", range(1100), lambda number: number + 1) == list(range(1, 1101))
        assert seen == [(512, 1100), (1024, 1100)]
        encoded: list[int] = []

        def encode(number: int) -> None:
            encoded.append(number)
            if number == 600:
                run.stop.set("Ctrl-C")

        with pytest.raises(Interrupted, match="while its data was encoded"):
            encode_all(run, "sft", range(5000), encode)
        assert len(encoded) == 1024, "it stops at the next look, not at the end"


def test_rows_are_encoded_once_where_there_are_many(
    tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_rows: Any
) -> None:
    """A stage that goes on reads back what it has encoded, to the token; with other settings nothing is taken over."""
    monkeypatch.setattr("sawyer.train.stage_data.KEPT_FROM", 4)
    prompt_encoder = limit_tokens(open_language_model(tiny.sft).prompt_encoder, 30)
    prompts = ["First?", "Second?", "word " * 40, "Third?"]
    records = [Demonstration(prompt=prompt_of(text), response=LONG if text == "First?" else "yes") for text in prompts]
    calls: list[str] = []

    def row_of(record: Demonstration) -> Row | None:
        calls.append(record.prompt.text)
        return prompt_encoder.demonstration(record) if prompt_encoder.fits(record.prompt) else None

    with tiny.run(tmp_path / "run") as run:
        run.manifest.update("sft", fingerprint="one", parents={"base": "x"})
        rows = encode_rows(run, "sft", records, row_of)
        assert rows == [row_of(record) for record in records] and rows[2] is None and rows[0] is not None and rows[0].cut
        calls.clear()
        assert encode_rows(run, "sft", records, row_of) == rows and calls == []
        run.manifest.update("sft", fingerprint="two", parents={"base": "x"})
        assert encode_rows(run, "sft", records, row_of) == rows and calls == prompts


def test_a_finished_stage_keeps_no_rows(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sawyer.train.stage_data.KEPT_FROM", 4)
    asked = {"data": [str(tiny.instructions)], "eval_fraction": 0.2, "batch_size": 64, "max_new_tokens": 4, "eval_prompts": 2}
    out = tmp_path / "run"
    with monkeypatch.context() as stopped:
        stopped.setattr(
            "sawyer.train.stage_loop._resume", lambda *a: (_ for _ in ()).throw(Interrupted("stopped", todo="go on"))
        )
        with pytest.raises(Interrupted):
            pipeline.run(tiny.config(out, sft=asked))
    assert (out / "sft" / "encoded").is_dir()
    pipeline.run(tiny.config(out, sft=asked))
    assert not (out / "sft" / "encoded").exists() and (out / "sft" / "model").is_dir()
