"""Whatever bytes a file holds: records or a DataError, never another exception. Seeded; a failure names its seed."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable
from typing import Any, get_args

import pytest

from sawyer.errors import DataError
from sawyer.records import Record, check, read
from sawyer.records.formats import FORMATS, Want

Put = Callable[[str, Any], str]
WANTS: tuple[Want, ...] = get_args(Want)
NAMES = ("a.json", "a.jsonl", "a.csv", "a.tsv", "a.txt", "a.jsonl.gz", "a.json.gz")
KEYS = (
    *("instruction", "input", "output", "prompt", "completion", "question", "answer", "text", "messages", "conversations"),
    *("role", "content", "from", "value", "user_input", "responses_and_scores", "response", "score", "source", "margin"),
    *("chosen", "rejected", "instances", "replies", "rank", "x", "label", "labels", "completions", "answers", "ratings"),
    *("history", "context", "system", "weight", "tool_calls", "score_chosen", "score_rejected", "winner", "conversation_a"),
    *("conversation_b", "response1", "response2", "overall_preference", "conversation"),
)
SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 3.5, 10**400, float("nan"), float("-inf"), "", " ", "x", "7", "nan", "\ud800", "\0", "🙂"),
    *("user", "assistant", "system", "gpt", "prompter", "\n\nHuman: a\n\nAssistant: b", "Assistant: a", "\n\nHuman:"),
)


def tried(name: str) -> None:
    """Read and check the file in every way; records must be what they say they are."""
    for want in WANTS:
        try:
            found = read(name, want=want, columns={"x": "prompt"} if want == "prompts" else None)
        except DataError as error:
            assert error.where.startswith(name) and error.todo and str(error)
            continue
        assert found.records and not any(problem.fatal for problem in found.problems)
        if want != "text":
            assert all(isinstance(record, Record) for record in found.records)
            assert all((getattr(r, "prompt", r)).messages[-1].role == "user" for r in found.records)
            assert all(turn.content.encode() for r in found.records for turn in getattr(r, "prompt", r).messages)
            [str(problem).encode() for problem in found.problems]
    (report,) = check([name])
    assert report.records or report.problems
    [str(problem).encode() for problem in report.problems]


def value(rng: random.Random, depth: int) -> Any:
    kind = rng.random()
    if depth == 0 or kind < 0.4:
        return rng.choice(SCALARS)
    if kind < 0.6:
        return [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(KEYS): value(rng, depth - 1) for _ in range(rng.randrange(6))}


def bent(rng: random.Random, content: bytes) -> bytes:
    """A few bytes changed, cut out, doubled or cut off."""
    raw = bytearray(content)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(raw) + 1)
        match rng.randrange(4):
            case 0:
                raw[at : at + 1] = bytes([rng.choice(b'{}[]",:\\\n\r\t\0\xff\xc3 e9')])
            case 1:
                del raw[at : at + rng.randrange(9)]
            case 2:
                raw[at:at] = raw[at : at + rng.randrange(30)]
            case _:
                del raw[at:]
    return bytes(raw)


@pytest.mark.parametrize("seed", range(40))
def test_rows_of_any_types_under_known_names(put: Put, seed: int) -> None:
    rng = random.Random(seed)
    rows = []
    for _ in range(rng.randrange(1, 5)):
        rows.append({rng.choice(KEYS): value(rng, 3) for _ in range(rng.randrange(5))} if rng.random() < 0.9 else value(rng, 2))
    tried(put("a.jsonl", rows))
    tried(put("a.json", rows if rng.random() < 0.8 else rows[0]))


@pytest.mark.parametrize("seed", range(40))
def test_sound_files_with_damage(put: Put, seed: int) -> None:
    rng = random.Random(seed)
    rows = [
        {"instruction": "Où?", "input": "x", "output": "y", "chosen": "a", "rejected": "b"},
        {"user_input": "q", "responses_and_scores": [{"response": "r", "score": 1}, {"response": "s", "score": 2}]},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    ]
    tried(put("a.jsonl", bent(rng, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())))
    tried(put("a.json", bent(rng, json.dumps({"data": rows} if seed % 2 else rows, indent=seed % 3).encode())))
    tried(put("a.csv", bent(rng, b'prompt,chosen,rejected,margin\r\n"a ""b""\nc",d,e,1\r\nf,g,"h,i",\r\n')))


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_under_any_name(put: Put, seed: int) -> None:
    rng = random.Random(seed)
    name = rng.choice(NAMES)
    content = bytes(
        rng.choice(b'{}[]",:\\\n\rab1 \t\0\xff') if rng.random() < 0.7 else rng.randrange(256)
        for _ in range(rng.randrange(200))
    )
    tried(put(name, content))


@pytest.mark.parametrize("seed", range(10))
def test_damaged_gzip(put: Put, seed: int) -> None:
    raw = bent(random.Random(seed), gzip.compress(b'{"prompt": "x"}\n' * 20))
    name = put("a.jsonl.gz", b"")
    with open(name, "wb") as file:
        file.write(raw)
    tried(name)


def test_damaged_parquet(put: Put) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    buffer = io.BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"prompt": ["x", None, "y"]}), buffer)
    for seed in range(20):
        tried(put("a.parquet", bent(random.Random(seed), buffer.getvalue())))


@pytest.mark.slow
def test_every_shape_survives_every_type_in_every_field(put: Put) -> None:
    """Exhaustive where the random tests sample: one field of a sound row at a time takes each odd value."""
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    replies = [{"text": "r", "role": "assistant", "rank": 0, "model_name": "m"}, {"text": "s", "role": "assistant", "rank": 1}]
    sound: list[dict[str, Any]] = [
        {"user_input": "q", "responses_and_scores": [{"response": "r", "score": 1, "source": "m"}]},
        {"prompt": {"text": "q", "role": "prompter", "replies": replies}},
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b", "margin": 1},
        {"prompt": "q", "chosen": "a", "rejected": "b", "margin": 1},
        {"chosen": turns, "rejected": [turns[0], {"role": "assistant", "content": "b"}]},
        {"instruction": "q", "instances": [{"input": "i", "output": "o"}]},
        {"messages": turns},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"instruction": "q", "input": "i", "output": "o"},
        {"prompt": turns[:1], "completion": turns[1:]},
        {"prompt": "q", "completion": "a", "label": True, "system": "s", "history": [["x", "y"]], "context": "c"},
        {"prompt": "q", "response": "a", "score": 1},
        {"prompt": "q", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]},
        {"question": "q", "answers": {"text": ["a"]}},
        {"prompt": "q", "generations": ["a", "b"], "ratings": [1, 2]},
        {"conversation_a": turns, "conversation_b": turns, "winner": "model_a"},
        {"prompt": '["q"]', "response_a": '["a"]', "response_b": '["b"]', "winner_model_a": 1},
        {"context": turns[:1], "response1": "a", "response2": "b", "overall_preference": 1},
        {"question": {"full_text": "q"}, "answer_0": "a", "answer_1": "b", "score_0": 1, "score_1": 0},
        {"input": {"messages": turns[:1]}, "preferred_output": turns[1:], "non_preferred_output": turns[1:]},
        {"prompt": "q", "chosen": turns[1], "rejected": ["b", "c"], "score_chosen": 1, "score_rejected": 0},
        {"conversation": [{"input": "q", "output": "a"}]},
    ]
    assert all(any(shape.fits(row) for shape in FORMATS) for row in sound)

    def spoilt(node: Any, odd: Any) -> list[Any]:
        """Copies of `node`, each with one part of it replaced."""
        if isinstance(node, dict):
            return [odd, *({**node, key: new} for key, part in node.items() for new in spoilt(part, odd))]
        if isinstance(node, list):
            return [odd, *([*node[:i], new, *node[i + 1 :]] for i, part in enumerate(node) for new in spoilt(part, odd))]
        return [odd]

    odds: list[Any] = [None, True, 3, 10**400, float("nan"), "", "\ud800", [], [[]], {}, {"a": {"b": []}}]
    for odd in odds:
        for row in sound:
            rows = spoilt(row, odd)[1:]
            tried(put("a.jsonl", [row, *rows]))
