"""Whatever a user gives, the command says what was wrong and what to do, and exits 1; it never shows a traceback."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sawyer.runs import Layout, is_complete, journal, read_manifest, replace_folder

Ask = Callable[..., Any]


@pytest.fixture
def ask(tiny: Any, tmp_path: Path, command: Callable[..., Any]) -> Ask:
    """`ask("rl", {"rl.prompts": [...]})`: the command for one stage, on a run that is done up to it."""

    def asked(stage: str, changes: dict[str, Any] | None = None, *, out: Path | None = None, drop: str = "") -> Any:
        where = out or tmp_path / "run"
        if out is None:
            tiny.prefix(stage, where)
            if stage == "rl":  # some of its settings decide the reward's unit, and another one would be refused first
                tiny.as_begun(where, changes or {}, ["reward"])
        tree = tiny.tree(where, changes)
        tree.pop(drop, None)
        config = tmp_path / "sawyer.yaml"
        config.write_text(yaml.safe_dump(tree))
        return command(stage, config)

    return asked


def rows(path: Path, *found: dict[str, Any]) -> list[str]:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return [str(path)]


# Files.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("none.json", None, "no such file"),
        ("empty.json", b"", "the file is empty"),
        ("empty.jsonl", b"\n\n", "empty.jsonl"),
        ("binary.json", bytes(range(256)) * 20, "binary file"),
        ("binary.jsonl", b"\x89PNG\r\n\x1a\n\x00\x00", "binary file"),
        ("list.json", b"[]", "list.json"),
        ("word.json", b'"hello"', "word.json"),
        ("half.json", b'[{"instruction": "a", "output": "b"}, {"instr', "half.json:2"),
    ],
)
def test_files_that_are_no_data(ask: Ask, tmp_path: Path, name: str, content: bytes | None, told: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    ask("sft", {"sft.data": [str(path)]}).explains(name, told)


def test_broken_json_on_line_7_is_named(ask: Ask, tmp_path: Path) -> None:
    lines = [json.dumps({"instruction": f"q {i}", "output": "a"}) for i in range(12)]
    lines[6] = lines[6][:-2]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    asked = {"sft.data": [str(tmp_path / "data.jsonl")]}
    ask("sft", {**asked, "max_bad_rows": 0}).explains("data.jsonl:7:", "not JSON")
    shutil.rmtree(tmp_path / "run")
    assert "1 of 12 rows cannot be used and is left out: broken JSON (data.jsonl:7)" in ask("sft", asked).out


def test_data_of_another_kind(ask: Ask, tiny: Any) -> None:
    found = ask("sft", {"sft.data": [str(tiny.data / "comparisons.json")]})
    found.explains("comparisons.json:", "gives comparisons, not demonstrations", "40 of 40 rows")


def test_text_where_rows_are_wanted_and_the_other_way_round(ask: Ask, tiny: Any, tmp_path: Path) -> None:
    ask("sft", {"sft.data": [str(tiny.data / "statements.txt")]}).explains("statements.txt")
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "binary.txt").write_bytes(b"\0" * 100)
    ask("base", {"base.text": [str(tmp_path / "binary.txt")]}).explains("binary.txt", "binary file")


def test_prompts_longer_than_the_model(ask: Ask, tmp_path: Path) -> None:
    path = rows(tmp_path / "long.jsonl", *({"prompt": "word " * 400 + str(i)} for i in range(3)))
    for stage in ("collect", "rl"):
        ask(stage, {f"{stage}.prompts": path}).explains(
            f"{stage}.prompts: none of its 3 prompts leaves room for", "shorter prompts"
        )
        shutil.rmtree(tmp_path / "run")


def test_demonstrations_longer_than_the_model(ask: Ask, tmp_path: Path) -> None:
    path = rows(tmp_path / "long.jsonl", *({"instruction": "word " * 400 + str(i), "output": "a"} for i in range(3)))
    ask("sft", {"sft.data": path}).explains(
        "sft.data: none of its 3 prompts leaves room for 1 new token in the 96", "shorter prompts"
    )


def test_judgements_that_are_all_ties(ask: Ask, tmp_path: Path) -> None:
    tied = [{"response": "a", "score": 3}, {"response": "b", "score": 3}]
    path = rows(tmp_path / "ties.jsonl", *({"user_input": f"q {i}", "responses_and_scores": tied} for i in range(4)))
    ask("reward", {"reward.data": path, "collect": None}).explains("two answers with different scores")


# Settings.


def test_an_unknown_setting_names_the_nearest(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: gpt2\nsft: {data: [a.json], learning_rat: 1}\n")
    found = command("run", tmp_path / "a.yaml")
    assert found.code == 1 and "did you mean `sft.learning_rate`?" in found.err and "Traceback" not in found.err
    found = command("run", tmp_path / "none.yaml")
    assert found.code == 1 and "none.yaml" in found.err and "Traceback" not in found.err


def test_a_learning_rate_that_explodes(ask: Ask, tmp_path: Path) -> None:
    found = ask("sft", {"sft.learning_rate": 1e30})
    found.explains("sft: update 1 has loss", "lower the learning rate")
    state = read_manifest(Layout(tmp_path / "run").manifest)["stages"]["sft"]
    assert state["status"] == "failed" and "loss" in state["reason"]
    # Nothing was saved, so the advice can be followed in the same folder.
    assert ask("sft", out=tmp_path / "run").code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "once"),
    [
        ("base", {"base.tokens": 96, "base.batch_size": 1}),
        ("sft", {"sft.epochs": 0.001}),
        ("reward", {"reward.epochs": 0.001}),
    ],
)
def test_a_learning_rate_that_explodes_in_the_last_step(ask: Ask, stage: str, once: dict[str, Any]) -> None:
    ask(stage, {f"{stage}.learning_rate": 1e30, **once}).explains(f"{stage}: ", "lower", "learning")


def test_rl_keeps_the_best_model_where_its_last_step_ruins_the_policy(ask: Ask, tmp_path: Path) -> None:
    found = ask("rl", {"rl.learning_rate": 1e30, "rl.episodes": 8, "rl.num_minibatches": 1, "rl.epochs": 1})
    assert found.code == 0 and "the last model is of no use" in found.out and "after update 0 of 1" in found.out


@pytest.mark.slow
@pytest.mark.parametrize(
    "raised",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
    ids=["cuda", "windows", "linux"],
)
def test_memory_that_runs_out(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: RuntimeError) -> None:
    from sawyer.train import OptimizerStep

    def full(*_: Any, **__: Any) -> None:
        raise raised

    with monkeypatch.context() as patch:
        patch.setattr(OptimizerStep, "accumulate", full)
        ask("sft").explains("sft: memory ran out", "lower micro_batch_tokens", "allocate")
    assert ask("sft", {"micro_batch_tokens": 512}, out=tmp_path / "run").code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"sft.batch_size": 100_000, "sft.epochs": 0.001},
        {"sft.eval_fraction": 0.0, "sft.eval_prompts": 100_000, "sft.max_new_tokens": 1000},
        {"sft.warmup_fraction": 0.99, "sft.epochs": 0.01},
        {"micro_batch_tokens": 16},
    ],
    ids=str,
)
def test_silly_settings_of_sft_work(ask: Ask, changes: dict[str, Any]) -> None:
    found = ask("sft", changes)
    assert found.code == 0, found.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"rl.batch_size": 80, "rl.episodes": 80, "rl.num_minibatches": 1, "rl.epochs": 1},
        {"rl.temperature": 1e-3},
        {"rl.kl.budget": 1e-9},
        {"rl.episodes": 2, "rl.batch_size": 2, "rl.num_minibatches": 2, "rl.max_new_tokens": 1},
        {"rl.eval_fraction": 0.0, "rl.eval_every": 1000},
        {"rl.gamma": 1e-9, "rl.gae_lambda": 0.0, "rl.clip_range": 1e-9, "rl.value_clip_range": 1e9},
    ],
    ids=str,
)
def test_silly_settings_of_rl_work(ask: Ask, changes: dict[str, Any]) -> None:
    found = ask("rl", changes)
    assert found.code == 0, found.err


@pytest.mark.slow
def test_one_prompt(ask: Ask, tmp_path: Path) -> None:
    from sawyer.worlds import tasks

    path = rows(tmp_path / "one.jsonl", {"prompt": tasks("train", 1, 0)[0].prompt})
    for stage in ("collect", "rl", "compare"):
        found = ask(stage, {f"{stage}.prompts": path} | ({"rl.eval_fraction": 0.0} if stage == "rl" else {}))
        assert found.code == 0, found.err
        shutil.rmtree(tmp_path / "run")


def test_an_answer_longer_than_the_model(ask: Ask, tmp_path: Path) -> None:
    ask("rl", {"rl.max_new_tokens": 1000}).explains("rl.max_new_tokens")
    shutil.rmtree(tmp_path / "run")
    assert ask("collect", {"collect.max_new_tokens": 1000, "collect.limit": 4}).code == 0


def test_a_world_that_does_not_know_the_prompt(ask: Ask, tmp_path: Path) -> None:
    path = rows(tmp_path / "own.jsonl", {"prompt": "How do magnets smell?"}, {"prompt": "Why?"})
    ask("rl", {"rl.prompts": path}).explains("How do magnets smell?", "remove `world:`")


# Models.


def test_model_folders_that_cannot_serve(ask: Ask, tiny: Any, tmp_path: Path) -> None:
    whole = tiny.straight("base") / "base" / "model"
    found = ask("sft", {"model": str(tmp_path / "none")}, out=tmp_path / "a", drop="base")
    found.explains("there is no model folder")
    shutil.copytree(whole, tmp_path / "light", ignore=shutil.ignore_patterns("*.safetensors"))
    found = ask("sft", {"model": str(tmp_path / "light")}, out=tmp_path / "b", drop="base")
    found.explains("has no weights", "copy the whole folder")
    shutil.copytree(whole, tmp_path / "torn")
    weights = tmp_path / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    found = ask("sft", {"model": str(tmp_path / "torn")}, out=tmp_path / "c", drop="base")
    found.explains("torn does not load")
    (tmp_path / "bare").mkdir()
    found = ask("sft", {"model": str(tmp_path / "bare")}, out=tmp_path / "d", drop="base")
    found.explains("has no config.json")
    run = whole.parents[1]
    found = ask("sft", {"model": str(run)}, out=tmp_path / "e", drop="base")
    found.explains(f"{run} is a run's folder", f"name a model in it: {whole}")


# The run's folder.


@pytest.mark.parametrize("where", ["/dev/null/run", "/proc/nothing/run", "file/run", "file"])
def test_an_out_that_cannot_be(ask: Ask, tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("mine")
    ask("base", out=tmp_path / where).explains("cannot be", "name another path for it (`out:`, --out)")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_damaged_run_is_told(ask: Ask, tiny: Any, tmp_path: Path) -> None:
    out = tiny.prefix("sft", tmp_path / "run")
    layout = Layout(out)
    for path, damage in (
        (layout.manifest, b'{"stages": {"base": '),
        (layout.manifest, b"\0" * 300),
        (layout.metrics, b'{"stage": "base", "st\n{}\n'),
        (layout.events, b"\xff\xfe\n"),
    ):
        before = path.read_bytes()
        path.write_bytes(damage)
        ask("sft", out=out).explains(path.name, "cannot be read", "restore the file")
        path.write_bytes(before)
    layout.config.write_bytes(b"\xff: [")
    assert ask("sft", out=out).code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:500]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(os.urandom(2000)),
        lambda path: path.unlink(),
    ],
    ids=["half", "empty", "noise", "gone"],
)
def test_a_damaged_checkpoint_is_told_and_the_advice_works(
    ask: Ask, tiny: Any, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    out = tiny.prefix("sft", tmp_path / "run")
    checkpoint = cut_off(tiny, out, "sft", 3)
    damage(checkpoint / "state.pt")
    ask("sft", out=out).explains("state.pt cannot be read", f"delete {checkpoint.parent} to do this stage again")
    shutil.rmtree(checkpoint.parent)
    assert ask("sft", out=out).code == 0
    assert tiny.result(out) == tiny.result(tiny.straight("sft"))


@pytest.mark.slow
def test_a_checkpoint_of_something_else_is_told(ask: Ask, tiny: Any, tmp_path: Path) -> None:

    out = tiny.prefix("sft", tmp_path / "run")
    checkpoint = cut_off(tiny, out, "sft", 3)
    good = torch.load(checkpoint / "state.pt", weights_only=True)
    for wrong in ({}, {**good, "loop": {"model": {}}}, {**good, "journal": {}}, {**good, "step": None}, [1]):
        with replace_folder(checkpoint) as new:  # with a checksum of its own: it is whole, and no checkpoint of this stage
            torch.save(wrong, new / "state.pt")
        ask("sft", out=out).explains("checkpoint cannot be read", "to do sft again")


def cut_off(tiny: Any, out: Path, stage: str, step: int) -> Path:
    """A stage that was killed right after `step` steps were saved; returns its checkpoint."""

    def die(kind: str, row: dict[str, Any]) -> None:
        if kind == "event" and row["kind"] == "save" and row["step"] == step:
            raise SystemExit

    with pytest.raises(SystemExit):
        tiny.run(out, {"save_every_seconds": 0}, only=stage, listeners=[die])
    checkpoint = Layout(out).checkpoint(stage)
    assert is_complete(checkpoint)
    return checkpoint


# A full disk, told by every writer in its own words.


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["torch.save", "safetensors.torch.save_file"])
def test_a_disk_that_is_full_while_saving(
    ask: Ask, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    out = tiny.prefix("sft", tmp_path / "run")
    checkpoint = cut_off(tiny, out, "sft", 3)
    before = (checkpoint / "state.pt").read_bytes()
    with monkeypatch.context() as patched:
        if "safetensors" in what:
            patched.setattr("transformers.modeling_utils.safe_save_file", full)
        else:
            patched.setattr(what, full)
        ask("sft", out=out).explains("the disk is full", "free some space")
    if "safetensors" not in what:
        assert (checkpoint / "state.pt").read_bytes() == before, "the last good checkpoint survives"
    assert is_complete(checkpoint) and not Layout(out).model("sft").exists()
    assert ask("sft", out=out).code == 0
    assert tiny.result(out) == tiny.result(tiny.straight("sft"))


@pytest.mark.slow
def test_a_disk_that_is_full_of_journal(ask: Ask, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Half a row fits, as a disk does it; then not even the manifest can be written.
    out = tiny.prefix("sft", tmp_path / "run")
    cut_off(tiny, out, "sft", 3)
    real_open, real_file = journal.open_run_file, os.fdopen
    handles: set[int] = set()

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, content: bytes) -> None:
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            full()

    def opened(path: Path) -> int:
        handle = real_open(path)
        if path.name == "metrics.jsonl":
            handles.add(handle)
        return handle

    def filed(handle: int, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        file, metrics = real_file(handle, mode, *arguments, **named), handle in handles
        handles.discard(handle)  # a closed handle's number is given out again
        return Full(file) if mode == "ab" and metrics else file

    with monkeypatch.context() as patched:
        patched.setattr(journal, "open_run_file", opened)
        patched.setattr(os, "fdopen", filed)
        ask("sft", out=out).explains("the disk is full", "metrics.jsonl")
    assert ask("sft", out=out).code == 0
    assert tiny.result(out) == tiny.result(tiny.straight("sft"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "most", [*(pytest.param(n, marks=pytest.mark.slow) for n in (3_000, 20_000, 60_000, 150_000)), 300_000]
)
def test_files_that_may_not_grow(ask: Ask, tiny: Any, tmp_path: Path, most: int) -> None:
    # The system itself refuses, in the middle of whichever file outgrows the limit: torch's, safetensors', the tokenizer's.
    resource = pytest.importorskip("resource")
    out = tiny.prefix("sft", tmp_path / "run")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        found = ask("sft", out=out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found.explains("the disk is full", "free some space")
    assert not Layout(out).model("sft").exists()
    assert ask("sft", out=out).code == 0
    assert tiny.result(out) == tiny.result(tiny.straight("sft"))
