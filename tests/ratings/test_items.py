"""Items from files of every format and from runs: which pairs, in which order, and what is said where there are none."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from raising import raises_with

from sawyer.errors import DataError, RunError
from sawyer.ratings import Item, Method, item_id, item_of, items_from
from sawyer.records import Answer, Problem, prompt_of
from sawyer.runs.layout import Layout


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def scored(prompt: str, *responses: str, score: float | None = 1.0) -> dict[str, Any]:
    answers = [{"response": response, "score": score, "source": "m"} for response in responses]
    return {"user_input": prompt, "responses_and_scores": answers}


def texts(items: Iterable[Item]) -> list[tuple[str, set[str]]]:
    return [(item.prompt.text, {answer.response for answer in item.answers}) for item in items]


PAIR = {"prompt": "Up?", "chosen": "Down.", "rejected": "Up."}
SHAPES: list[list[dict[str, Any]]] = [
    [scored("Up?", "Down.", "Up.")],
    [scored("Up?", "Down.", "Up.", score=None)],
    [PAIR],
    [{"prompt": "Up?", "response": "Down.", "score": 1}, {"prompt": "Up?", "response": "Up.", "score": 0}],
    [{"prompt": "Up?", "completion": "Down.", "label": True}, {"prompt": "Up?", "completion": "Up.", "label": False}],
    [{"prompt": "Up?", "completion": "Down."}, {"prompt": "Up?", "completion": "Up."}],  # without any judgement
    [{"chosen": "\n\nHuman: Up?\n\nAssistant: Down.", "rejected": "\n\nHuman: Up?\n\nAssistant: Up."}],
    [
        {
            "conversation_a": [{"role": "user", "content": "Up?"}, {"role": "assistant", "content": "Up."}],
            "conversation_b": [{"role": "user", "content": "Up?"}, {"role": "assistant", "content": "Down."}],
            "winner": "tie (bothbad)",
        }
    ],
    [
        {
            "prompt": {
                "role": "prompter",
                "text": "Up?",
                "replies": [{"role": "assistant", "text": "Down.", "rank": 0}, {"role": "assistant", "text": "Up.", "rank": 1}],
            }
        }
    ],
]


@pytest.mark.parametrize("rows", SHAPES, ids=lambda rows: ",".join(rows[0]))
@pytest.mark.parametrize("method", ["pair", "graded", "rank", "score"])
def test_the_same_item_from_every_format(tmp_path: Path, rows: list[dict[str, Any]], method: Method) -> None:
    problems: list[Problem] = []
    (item,) = items_from(write_rows(tmp_path / "rows.jsonl", rows), method, problems)
    assert texts([item]) == [("Up?", {"Down.", "Up."})] and problems == [] and item.round == 1 and item.uncertainty is None
    assert item.id == item_id(prompt_of("Up?"), ["Up.", "Down."]) == item_id(prompt_of("Up?"), ["Down.", "Up."])
    assert [a.response for a in item.answers] == [a.response for a in items_from_pair(tmp_path).answers]  # whichever won


def items_from_pair(folder: Path) -> Item:
    return items_from([str(write_rows(folder / "pair.jsonl", [PAIR]))], "pair", [])[0]


def test_the_id_is_of_conversation_and_texts() -> None:
    ids = {
        item_id(prompt_of(prompt), responses)
        for prompt, responses in [
            ("p", ["a", "b"]),
            ("p", ["a", "c"]),
            ("q", ["a", "b"]),
            ("p", ["a", "b", "c"]),
            ("p", ["ab", ""]),
        ]
    }
    assert len(ids) == 5 and all(len(id) == 32 for id in ids)


def test_k_answers_give_their_pairs_a_prompt_at_a_time(tmp_path: Path) -> None:
    rows = [scored(f"p{i}", *(f"{i}.{j}" for j in range(i + 2))) for i in range(4)]  # 2, 3, 4, 5 answers: 1, 3, 6, 10 pairs
    items = items_from(write_rows(tmp_path / "rows.jsonl", rows), "graded", [])
    assert Counter(item.prompt.text for item in items) == {"p0": 1, "p1": 3, "p2": 6, "p3": 10}
    assert len({item.id for item in items}) == 20
    tiers = [{"p0", "p1", "p2", "p3"}, {"p1", "p2", "p3"}, {"p1", "p2", "p3"}, {"p2", "p3"}]
    start = 0
    for tier in tiers:
        assert {item.prompt.text for item in items[start : start + len(tier)]} == tier
        start += len(tier)
    whole = items_from(tmp_path / "rows.jsonl", "rank", [])
    assert sorted(len(item.answers) for item in whole) == [2, 3, 4, 5]


def test_the_order_is_the_seed_s(tmp_path: Path) -> None:
    rows = [scored(f"p{i}", *(f"{i}.{j}" for j in range(4))) for i in range(30)]
    one = items_from(write_rows(tmp_path / "one.jsonl", rows), "pair", [], 3)
    other = items_from(write_rows(tmp_path / "other.jsonl", rows[::-1]), "pair", [], 3)
    assert one == other != items_from(tmp_path / "one.jsonl", "pair", [], 4)
    assert [item.prompt.text for item in one[:30]] != [f"p{i}" for i in range(30)]


def test_the_same_text_is_one_answer_and_rows_of_a_prompt_are_joined(tmp_path: Path) -> None:
    rows = [scored("p", "a", "b", "a"), scored("p", "b", "c"), scored("q", "x", "x")]
    problems: list[Problem] = []
    items = items_from(write_rows(tmp_path / "rows.jsonl", rows), "pair", problems)
    assert sorted(map(sorted, (t for _, t in texts(items)))) == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert [(problem.kind, problem.where) for problem in problems] == [("one answer", f"{tmp_path}/rows.jsonl:3")]


def test_more_answers_than_a_rater_can_compare(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [scored("p", *(f"{j}" for j in range(40)))])
    problems: list[Problem] = []
    (item,) = items_from(path, "rank", problems)
    assert {answer.response for answer in item.answers} == {f"{j}" for j in range(8)}
    assert len(items_from(path, "pair", problems)) == 32 * 31 // 2
    assert ["first 8" in problems[0].message, "first 32" in problems[1].message] == [True, True]


def test_prompts_alone_name_the_command_that_answers_them(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"p{i}"} for i in range(3)])
    with raises_with(DataError, given="prompts without answers", where=str(path), todo="sawyer collect"):
        items_from(path, "pair", [])
    (tmp_path / "rows.txt").write_text("one prompt\nanother prompt\n")
    with raises_with(DataError, given="prompts without answers", todo="sawyer collect"):
        items_from(tmp_path / "rows.txt", "pair", [])


def test_what_else_cannot_be_judged(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"p{i}", "completion": "c"} for i in range(3)])
    with raises_with(DataError, given="each of the 3 prompts has one answer", todo="second answer"):
        items_from(path, "score", [])
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError):
        items_from(tmp_path / "empty.jsonl", "pair", [])
    with pytest.raises(DataError):
        items_from(tmp_path / "none.jsonl", "pair", [])
    with raises_with(DataError, given="no answers yet", todo="sawyer collect"):
        items_from(Layout(tmp_path), "pair", [])
    with raises_with(DataError, given="fewer than two"):
        item_of(prompt_of("p"), [Answer(response="a", score=1.0), Answer(response="a", score=2.0)])


def test_bad_rows_are_named_and_left_out(tmp_path: Path) -> None:
    rows = [scored("p", "a", "b"), {"prompt": "p", "chosen": "a"}, scored("q", "a", "b")]
    problems: list[Problem] = []
    items = items_from(write_rows(tmp_path / "rows.jsonl", rows), "pair", problems)
    assert len(items) == 2 and [problem.where.split(":")[1] for problem in problems] == ["2"]


# Runs


def reward(prompt: str, response: str, value: float | None, disagreement: float | None = None) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"prompt": messages, "response": response, "reward": value, "disagreement": disagreement}


def test_a_run_s_rounds(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_rows(layout.answers_of(1), [scored("p", "a", "b", score=None), scored("q", "a", "b", score=None)])
    write_rows(layout.answers_of(2), [scored("p", "c", "d", score=None), scored("q", "b", "a", score=None)])
    items = items_from(layout, "pair", [])
    assert sorted((item.round, *sorted(t)) for item, (_, t) in zip(items, texts(items), strict=True)) == [
        (1, "a", "b"),
        (1, "a", "b"),
        (2, "c", "d"),  # p's; q's answers are those of the first round: the same item
    ]
    assert {item.uncertainty for item in items} == {None}


def test_uncertainty_of_a_single_model_is_minus_the_smallest_difference(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_rows(layout.answers, [scored("p", "a", "b", "c", score=None), scored("q", "a", "b", score=None)])
    rewards = [("p", "a", 1.0), ("p", "b", 1.5), ("p", "c", -2.0), ("q", "a", 0.0)]
    write_rows(layout.answer_rewards, [reward(*row) for row in rewards])
    by_pair = {(item.prompt.text, *sorted(t)): item.uncertainty for item, (_, t) in _with_texts(items_from(layout, "pair", []))}
    assert by_pair == {("p", "a", "b"): -0.5, ("p", "a", "c"): -3.0, ("p", "b", "c"): -3.5, ("q", "a", "b"): None}
    whole = {item.prompt.text: item.uncertainty for item in items_from(layout, "score", [])}
    assert whole == {"p": -0.5, "q": None}


def _with_texts(items: list[Item]) -> list[tuple[Item, tuple[str, set[str]]]]:
    return list(zip(items, texts(items), strict=True))


def test_uncertainty_of_an_ensemble_is_its_mean_disagreement(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_rows(layout.answers, [scored("p", "a", "b", "c", score=None)])
    write_rows(layout.answer_rewards, [reward("p", "a", 1.0, 0.5), reward("p", "b", 1.0, 0.25), reward("p", "c", 1.0, 1.0)])
    by_pair = {tuple(sorted(t)): item.uncertainty for item, (_, t) in _with_texts(items_from(layout, "graded", []))}
    assert by_pair == {("a", "b"): 0.375, ("a", "c"): 0.75, ("b", "c"): 0.625}
    (whole,) = items_from(layout, "rank", [])
    assert whole.uncertainty == pytest.approx(1.75 / 3)


def test_white_space_at_an_answer_s_end_hides_no_reward(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_rows(layout.answers, [scored("p", "a \n", " b", score=None)])
    write_rows(layout.answer_rewards, [reward("p", "a \n", 1.0), reward("p", " b", 3.0)])
    assert items_from(layout, "pair", [])[0].uncertainty == -2.0


def test_rewards_that_cannot_be_read(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_rows(layout.answers, [scored("p", "a", "b", score=None)])
    write_rows(layout.answer_rewards, [{"other": 1}, reward("p", "a", None), {**reward("p", "b", 1.0), "reward": "nan"}])
    assert items_from(layout, "pair", [])[0].uncertainty is None
    layout.answer_rewards.write_text("{broken\n")
    with pytest.raises(RunError):
        items_from(layout, "pair", [])


# Real files, where they are

REAL = Path(os.environ.get("SAWYER_REAL_DATA", "/nowhere"))


@pytest.mark.skipif(not REAL.is_dir(), reason="SAWYER_REAL_DATA names no folder of real files")
def test_real_files() -> None:
    counts = {}
    for path in sorted((REAL / "comparisons").iterdir()):
        for method in ("graded", "score"):
            items = items_from(path, method, [])
            assert len({item.id for item in items}) == len(items)
            counts[path.name, method] = len(items)
    # 80 prompts of seven answers each: 1,680 pairs but for six with the same text twice.
    assert counts["vicuna80_scored.json", "score"] == 80
    for path in sorted((REAL / "prompts").iterdir()):
        with raises_with(DataError, given="prompts without answers"):
            items_from(path, "pair", [])
