"""`sawyer score` and `sawyer.Scorer`: rows come back as they were with a reward, the same that the scorer gives."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from encoders import write
from safetensors.torch import load_file, save_file

import sawyer as package
from sawyer.errors import DataError, ModelError, RunError
from sawyer.models import RewardScorer, load_reader, load_tokenizer, new_policy, new_reward, save_model, train_tokenizer
from sawyer.records import Message, Prompt, prompt_of
from sawyer.runs import Layout, replace_folder
from sawyer.text import set_template

ROWS: list[Any] = [
    {"prompt": "what is up ?", "response": "down .", "kept": [1, None]},
    {"instruction": "where ?", "input": "up", "output": "yes", "score": 3},
    {"user_input": "is it ?", "responses_and_scores": [{"response": "yes", "score": 1}, {"response": "no", "score": None}]},
    {"prompt": "where ?", "chosen": "up", "rejected": "down"},
    {"messages": [{"role": "user", "content": "what ?"}, {"role": "assistant", "content": "a word"}]},
    {"prompt": "nobody answered this"},
    {"prompt": "empty", "response": ""},
]
SCORED = [
    [(prompt_of("what is up ?"), "down .")],
    [(prompt_of("where ?\n\nup"), "yes")],
    [(prompt_of("is it ?"), "yes"), (prompt_of("is it ?"), "no")],
    [(prompt_of("where ?"), "up"), (prompt_of("where ?"), "down")],
    [(prompt_of("what ?"), "a word")],
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reward models: a run of ours, an encoder and a decoder as plain transformers writes them."""
    root = tmp_path_factory.mktemp("models")
    write(root / "bert", "bert", num_labels=1)
    write(root / "classifier", "bert", num_labels=3)
    tokenizer = train_tokenizer(["what is the opposite of up? down."] * 3, 300, 64)
    set_template(tokenizer, "question")
    named = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    policy = new_policy(vocab_size=len(tokenizer), layers=1, width=16, heads=2, context=64, seed=0, **named)
    (root / "policy").mkdir()
    save_model(root / "policy", policy, tokenizer)
    reward = new_reward(root / "policy", tokenizer, seed=1)
    layout = Layout(root / "run")
    layout.root.mkdir()
    layout.config.write_text("model: x\n")
    with replace_folder(layout.model("reward")) as folder:
        save_model(folder, reward, load_tokenizer(root / "policy"), {"reward_shift": 0.5, "reward_scale": 2.0})
    reward.save_pretrained(root / "decoder")  # type: ignore[operator]
    tokenizer.chat_template = None
    tokenizer.save_pretrained(root / "decoder")
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "{broken\n")
    return path


def expected_of(folder: Path) -> list[Any]:
    scorer = RewardScorer.load(folder)
    found = [scorer([p for p, _ in row], [r for _, r in row]) for row in SCORED]
    found[3] = dict(zip(("chosen", "rejected"), found[3], strict=True))  # type: ignore[call-overload]
    return [row[0] if i not in (2, 3) else row for i, row in enumerate(found)]


@pytest.mark.parametrize("name", ["run", "bert", "decoder"])
def test_each_row_comes_back_with_its_reward(
    folders: dict[str, Path], answers: Path, sawyer: Callable[..., Any], name: str
) -> None:
    done = sawyer("score", folders[name], answers)
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [{k: v for k, v in row.items() if k != "reward"} for row in rows] == ROWS[:5]
    folder = Layout(folders["run"]).model("reward") if name == "run" else folders[name]
    for row, expected in zip(rows, expected_of(folder), strict=True):
        assert row["reward"] == pytest.approx(expected, abs=1e-5)
    assert "5 rows scored" in done.err
    assert "1 row skipped: shape" in done.err and "1 row skipped: empty" in done.err and "broken JSON" in done.err
    assert ("is read by the template `question`" in done.err) is (name == "decoder")
    assert "disagreement" not in rows[0]


def test_a_file_of_rewards_is_whole_or_not_there(
    folders: dict[str, Path], answers: Path, tmp_path: Path, sawyer: Callable[..., Any]
) -> None:
    out = tmp_path / "scored.jsonl"
    done = sawyer("score", folders["bert"], answers, "--out", out)
    assert done.code == 0 and done.out == "" and f"written to {out}" in done.err
    assert len(out.read_text().splitlines()) == 5
    # Scored again, by another model, the reward is replaced, and that is said.
    again = sawyer("score", folders["run"], out, "--out", tmp_path / "again.jsonl")
    assert again.code == 0 and "5 rows had a `reward` already" in again.err
    before = out.read_text()
    assert sawyer("score", folders["bert"], out, "--out", out).code == 1 and out.read_text() == before
    for bad, told in ((tmp_path / "no" / "x.jsonl", "there is no folder"), (folders["bert"], "is a folder")):
        refused = sawyer("score", folders["bert"], answers, "--out", bad)
        assert refused.code == 1 and f"--out {bad}" in refused.err and told in refused.err
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "where ?"}\n')
    none = sawyer("score", folders["bert"], tmp_path / "prompts.jsonl", "--out", tmp_path / "none.jsonl")
    assert none.code == 1 and "no row can be scored" in none.err and "holds no answer" in none.err
    assert not (tmp_path / "none.jsonl").exists() and not list(tmp_path.glob(".*"))


def test_other_column_names_and_shapes(folders: dict[str, Path], tmp_path: Path, sawyer: Callable[..., Any]) -> None:
    path = tmp_path / "table.csv"
    path.write_text("query,reply\nwhere ?,up\n")
    done = sawyer("score", folders["bert"], path, "--columns", "query=prompt", "--columns", "reply=response")
    row = json.loads(done.out)
    expected = RewardScorer.load(folders["bert"])([prompt_of("where ?")], ["up"])[0]
    assert row == {"query": "where ?", "reply": "up", "reward": pytest.approx(expected, abs=1e-6)}
    tree = {
        "prompt": {
            "text": "what ?",
            "role": "prompter",
            "replies": [{"text": "yes", "rank": 1, "replies": []}, {"text": "no", "rank": 0, "replies": []}],
        }
    }
    (tmp_path / "trees.jsonl").write_text(json.dumps(tree) + "\n")
    assert len(json.loads(sawyer("score", folders["bert"], tmp_path / "trees.jsonl").out)["reward"]) == 2


def test_each_shape_s_rewards_have_its_own_form(folders: dict[str, Path], tmp_path: Path, sawyer: Callable[..., Any]) -> None:
    ask, up, down = ({"role": r, "content": c} for r, c in (("user", "where ?"), ("assistant", "up"), ("assistant", "down")))
    rows = [
        {"prompt": "where ?", "completion": "up", "label": False},
        {"prompt": "where ?", "response": "up", "score": 3},
        {"conversation_a": [ask, up], "conversation_b": [ask, down], "winner": "tie"},
        {"prompt": "where ?", "chosen": "up", "rejected": ["down", ""]},
        {"prompt": "where ?", "answers": [{"answer": "up", "rank": 1}, {"answer": "down", "rank": 2}]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = sawyer("score", folders["bert"], tmp_path / "rows.jsonl")
    one, two, none = RewardScorer.load(folders["bert"])([prompt_of("where ?")] * 3, ["up", "down", ""])
    expected = [one, one, {"chosen": one, "rejected": two}]
    expected += [[{"chosen": one, "rejected": two}, {"chosen": one, "rejected": none}], [one, two]]
    found = [json.loads(line)["reward"] for line in done.out.splitlines()]
    assert json.dumps(_rounded(found)) == json.dumps(_rounded(expected))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else round(value, 4)


def test_many_rows_are_written_in_order(
    folders: dict[str, Path], tmp_path: Path, sawyer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sawyer.cli.score_command.CHUNK", 3)
    (tmp_path / "many.jsonl").write_text(
        "".join(json.dumps({"prompt": "a", "response": "word " * n}) + "\n" for n in range(1, 9))
    )
    rows = [json.loads(line) for line in sawyer("score", folders["bert"], tmp_path / "many.jsonl").out.splitlines()]
    assert [len(row["response"].split()) for row in rows] == list(range(1, 9))
    assert len({row["reward"] for row in rows}) == 8


def test_from_python(folders: dict[str, Path]) -> None:
    scorer = package.Scorer(folders["run"])
    plain = RewardScorer.load(Layout(folders["run"]).model("reward"))
    assert scorer(["where ?", "up ?"], ["down", "no"]) == plain([prompt_of("where ?"), prompt_of("up ?")], ["down", "no"])
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    prompt = Prompt(messages=tuple(Message(role=t["role"], content=t["content"]) for t in turns))  # type: ignore[arg-type]
    assert scorer([turns], ["d"]) == plain([prompt], ["d"])
    assert scorer([], []) == []
    with pytest.raises(DataError, match="2 prompts and 1 responses"):
        scorer(["a", "b"], ["c"])
    with pytest.raises(DataError, match="does not wait"):
        scorer([turns[:2]], ["c"])


def test_what_is_no_reward_model(folders: dict[str, Path], answers: Path, tmp_path: Path, sawyer: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="3 labels"):
        package.Scorer(folders["classifier"])
    (tmp_path / "config.yaml").write_text("model: x\n")
    with pytest.raises(RunError, match="no reward model yet"):
        package.Scorer(tmp_path)
    assert "there is no model folder" in sawyer("score", tmp_path / "nowhere", answers).err
    assert "there is no such file" in sawyer("score", folders["bert"], tmp_path / "none.jsonl").err


def test_a_score_that_is_no_number_is_refused(
    folders: dict[str, Path], answers: Path, tmp_path: Path, sawyer: Callable[..., Any]
) -> None:
    shutil.copytree(folders["bert"], tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    (embeddings,) = (name for name in weights if name.endswith("word_embeddings.weight"))
    (word,) = load_reader(folders["bert"]).encode("down", add_special_tokens=False)  # in the first row alone
    weights[embeddings][word] = float("nan")
    save_file(weights, tmp_path / "broken" / "model.safetensors", {"format": "pt"})
    for more in ((), ("--out", tmp_path / "scored.jsonl")):
        done = sawyer("score", tmp_path / "broken", answers, *more)
        assert done.code == 1 and f"{answers}:1: the model's score is nan" in done.err and done.out == ""
    assert not (tmp_path / "scored.jsonl").exists() and not list(tmp_path.glob(".*"))
    for name in weights:
        weights[name].fill_(float("nan"))
    save_file(weights, tmp_path / "broken" / "model.safetensors", {"format": "pt"})
    done = sawyer("score", tmp_path / "broken", answers)
    assert done.code == 1 and "by numbers that are not finite" in done.err


def test_rows_with_numbers_that_json_has_not_are_written_as_json(
    folders: dict[str, Path], tmp_path: Path, sawyer: Callable[..., Any]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "response": "b", "x": NaN, "y": -Infinity, "z": "\\u009b31m\\u202e"}\n')
    done = sawyer("score", folders["bert"], tmp_path / "a.jsonl")
    row = json.loads(done.out, parse_constant=lambda name: pytest.fail(name))
    assert (row["x"], row["y"], row["z"]) == ("nan", "-inf", "\x9b31m\u202e")
    assert not {"\x9b", "\u202e"} & set(done.out), "nothing steers the terminal"
    assert sawyer("score", folders["bert"], tmp_path / "a.jsonl", "--out", tmp_path / "b.jsonl").code == 0
    written = json.loads((tmp_path / "b.jsonl").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert written == row


def test_a_file_that_cannot_be_written_or_must_not_be(
    folders: dict[str, Path], answers: Path, tmp_path: Path, sawyer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("a user's own")
    out = tmp_path / "out.jsonl"
    for name in (".out.jsonl.sawyer-new", "out.jsonl"):  # links that a received folder brings
        (tmp_path / name).symlink_to(mine)
    assert sawyer("score", folders["bert"], answers, "--out", out).code == 0
    assert mine.read_text() == "a user's own" and not out.is_symlink() and len(out.read_text().splitlines()) == 5
    if os.name == "posix":
        umask = os.umask(0o027)
        assert sawyer("score", folders["bert"], answers, "--out", out).code == 0
        os.umask(umask)
        assert out.stat().st_mode & 0o777 == 0o640, "the rights that the umask leaves, not those of a temporary file"
        # Nobody can write there, root included.
        for bad in ("/proc/scored.jsonl", "/dev/null", tmp_path / ("x" * 300), "a\0b"):
            refused = sawyer("score", folders["bert"], answers, "--out", bad)
            assert refused.code == 1 and "unforeseen" not in refused.err and "what to do" in refused.err, refused.err
        monkeypatch.setattr("sawyer.cli.score_command.CHUNK", 1)
        monkeypatch.setattr("sawyer.runs.json_safe", full)
        refused = sawyer("score", folders["bert"], answers, "--out", tmp_path / "late.jsonl")
        assert refused.code == 1 and "the disk is full" in refused.err and not (tmp_path / "late.jsonl").exists()


def full(row: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
