"""`check` names each kind of problem as file:line:field, and says whether training would refuse the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sawyer.errors import DataError
from sawyer.records import FileReport, Prompt, check, once_each, read, split

Put = Callable[[str, Any], str]


def report(put: Put, rows: Any, **options: Any) -> FileReport:
    (found,) = check([put("a.jsonl", rows)], **options)
    return found


def told(found: FileReport) -> list[tuple[str, str, bool]]:
    assert all(problem.message and problem.todo for problem in found.problems)
    return [(problem.where, problem.kind, problem.fatal or problem.bad) for problem in found.problems]


def scored(*scores: Any) -> dict[str, Any]:
    return {"user_input": "Up?", "responses_and_scores": [{"response": f"r{i}", "score": s} for i, s in enumerate(scores)]}


def chat(*turns: Any) -> dict[str, Any]:
    return {"messages": list(turns)}


U, A, S = ({"role": role, "content": role} for role in ("user", "assistant", "system"))
DEMO = {"instruction": "Up?", "input": "", "output": "Down."}
PAIR = {"prompt": "Up?", "chosen": "Down.", "rejected": "Up."}
SCORED = scored(1, 2)
CHAT = chat(U, A)
TREE = {"prompt": {"text": "t", "replies": [{"role": "assistant", "text": "x", "rank": n} for n in (0, 1)]}}
HH = {"chosen": "\n\nHuman: Up?\n\nAssistant: Down.", "rejected": "\n\nHuman: Up?\n\nAssistant: Up."}


@pytest.mark.parametrize("row", [DEMO, PAIR, SCORED, CHAT, TREE, HH, {"prompt": "Up?"}, "Up?"])
def test_a_sound_file_has_no_problem(put: Put, row: Any) -> None:
    found = report(put, [row])
    assert (found.records, found.problems, found.is_refused) == (1, (), False)


@pytest.mark.parametrize(
    ("good", "bad", "field", "kind"),
    [
        # Missing, empty, of the wrong type
        (DEMO, {"instruction": "x", "input": ""}, "output", "missing"),
        (DEMO, {"instruction": "x", "output": None}, "output", "missing"),
        (DEMO, {"input": "x", "output": "y"}, "instruction", "missing"),
        (DEMO, {}, "instruction", "missing"),
        (DEMO, {"instruction": " \n", "output": "y"}, "instruction", "empty"),
        (DEMO, {"instruction": "x", "output": "\t"}, "output", "empty"),
        (DEMO, {"instruction": "x", "output": 3}, "output", "type"),
        (DEMO, {"instruction": "x", "output": True}, "output", "type"),
        (DEMO, {"instruction": "x", "output": {"a": {"b": []}}}, "output", "type"),
        (DEMO, {"instruction": ["x"], "output": "y"}, "instruction[0]", "type"),
        (DEMO, {"instruction": [], "output": "y"}, "instruction", "empty"),
        (DEMO, {"instruction": {"x": 1}, "output": "y"}, "instruction", "type"),
        (DEMO, {"instruction": "x", "input": 5, "output": "y"}, "input", "type"),
        (DEMO, {"instruction": "x", "output": "half \ud83d"}, "output", "encoding"),
        (DEMO, [1, 2], "row", "type"),
        (DEMO, "text", "row", "type"),
        (DEMO, None, "row", "type"),
        (DEMO, 10**400, "row", "type"),
        ({"question": "x", "answer": "y"}, {"question": "x"}, "answer", "missing"),
        ({"question": "x", "answer": "y"}, {"answer": "y"}, "question", "missing"),
        ({"prompt": "x"}, {"id": 7}, "prompt", "missing"),
        ({"text": "x"}, {"text": ["x"]}, "text[0]", "type"),
        ({"text": "x"}, {"text": 1.5}, "text", "type"),
        ("x", " ", "row", "empty"),
        # Pairs
        (PAIR, {"prompt": "x", "chosen": "y"}, "rejected", "missing"),
        (PAIR, {"chosen": "y", "rejected": "z"}, "chosen", "type"),  # neither a prompt nor a transcript
        (PAIR, {"prompt": "x", "chosen": "", "rejected": "z"}, "chosen", "empty"),
        (PAIR, {"prompt": "x", "chosen": "y", "rejected": ["z", 3]}, "rejected[0]", "type"),
        (PAIR, {"prompt": "x", "chosen": [A, "y"], "rejected": "z"}, "chosen[1]", "type"),
        (PAIR, {**PAIR, "margin": "wide"}, "margin", "score"),
        (PAIR, {**PAIR, "margin": True}, "margin", "score"),
        # Scores
        (SCORED, {"user_input": "x", "responses_and_scores": []}, "responses_and_scores", "empty"),
        (SCORED, {"user_input": "x", "responses_and_scores": {"a": 1}}, "responses_and_scores", "type"),
        (SCORED, {"user_input": "x"}, "responses_and_scores", "missing"),
        (SCORED, {"responses_and_scores": SCORED["responses_and_scores"]}, "user_input", "missing"),
        (SCORED, {"user_input": "x", "responses_and_scores": ["a"]}, "responses_and_scores[0]", "type"),
        (SCORED, {"user_input": "x", "responses_and_scores": [{"score": 1}]}, "responses_and_scores[0].response", "missing"),
        (SCORED, {"user_input": "x", "responses_and_scores": [{"response": 1}]}, "responses_and_scores[0].response", "type"),
        # Conversations
        (CHAT, chat(U, {"role": "assistant", "content": ""}), "messages[1].content", "empty"),
        (CHAT, chat(U, {"role": "assistant"}), "messages[1].content", "missing"),
        (CHAT, chat(U, {"role": "assistant", "content": [{"type": "text"}]}), "messages[1].content[0]", "type"),
        (CHAT, chat(U, {"role": "tool", "content": "x"}), "messages[1]", "tool"),
        (CHAT, chat(U, {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}), "messages[1].tool_calls", "tool"),
        (CHAT, chat(U, {"role": "assistant", "content": "x", "weight": 0.5}), "messages[1].weight", "type"),
        (CHAT, chat(U, {"role": ["assistant"], "content": "x"}), "messages[1]", "type"),
        (CHAT, chat(U, "x"), "messages[1]", "type"),
        (CHAT, chat(U), "messages", "missing"),
        (CHAT, {"messages": []}, "messages", "empty"),
        (CHAT, {"messages": "x"}, "messages", "type"),
        (CHAT, {"messages": {"role": "user"}}, "messages", "type"),
        # Tasks with instances
        ({"instruction": "x", "instances": [{"output": "y"}]}, {"instruction": "x", "instances": 3}, "instances", "type"),
        ({"instruction": "x", "instances": [{"output": "y"}]}, {"instruction": "x", "instances": []}, "instances", "empty"),
        ({"instruction": "x", "instances": [{"output": "y"}]}, {"instruction": "x", "instances": [3]}, "instances[0]", "type"),
        (
            {"instruction": "x", "instances": [{"output": "y"}]},
            {"instruction": "x", "instances": [{"input": "z"}]},
            "instances[0].output",
            "missing",
        ),
        # Trees
        (TREE, {"prompt": {"text": "x", "replies": 5}}, "prompt.replies", "type"),
        (TREE, {"prompt": {"text": "x", "replies": ["y"]}}, "prompt.replies[0]", "type"),
        (TREE, {"prompt": {"replies": []}}, "prompt.text", "missing"),
        (TREE, {"prompt": {"text": "x", "replies": [{"text": "y", "rank": "low"}]}}, "prompt.replies[0].rank", "score"),
        (TREE, {"prompt": {"text": "x", "replies": [{"text": "y", "rank": True}]}}, "prompt.replies[0].rank", "score"),
        (TREE, {"prompt": {"text": "x", "replies": [{"rank": 1}]}}, "prompt.replies[0].text", "missing"),
        (TREE, {"prompt": {"text": "x", "role": "bystander"}}, "prompt.role", "type"),
        (TREE, {"id": 1}, "prompt", "missing"),
    ],
)
def test_a_bad_row_costs_a_row(put: Put, good: Any, bad: Any, field: str, kind: str) -> None:
    """It is named and left out; where none is let pass, it refuses the file."""
    found = report(put, [good, bad, good])
    assert told(found)[0] == (f"a.jsonl:2:{field}", kind, True) and found.problems[0].bad
    assert [row[1] for row in told(found)[1:]] == ["duplicate"] and not found.is_refused  # the good row came twice
    assert found.counts == {kind: 1, "duplicate": 1} and found.records == 1
    assert len(read("a.jsonl", want=found.want).records) == 1
    assert report(put, [good, bad, good], max_bad_rows=0.0).is_refused
    with pytest.raises(DataError) as caught:
        read("a.jsonl", want=found.want, max_bad_rows=0.0)
    assert caught.value.where == f"a.jsonl:2:{field}"


@pytest.mark.parametrize(
    ("good", "bad", "field", "kind"),
    [
        (PAIR, {"prompt": "x", "chosen": "y", "rejected": " y "}, "rejected", "tied"),
        (PAIR, {"chosen": [U, A], "rejected": [S, U, {"role": "assistant", "content": "z"}]}, "rejected", "pair"),
        (PAIR, {"prompt": "x", "chosen": [U], "rejected": [A]}, "chosen", "unanswered"),
        (HH, HH | {"rejected": "\n\nHuman: Left?\n\nAssistant: Up."}, "rejected", "pair"),
        (HH, HH | {"rejected": "\n\nHuman: Up?\n\nAssistant: Down."}, "rejected", "tied"),
        (HH, HH | {"chosen": "\n\nHuman: Up?\n\nAssistant:"}, "chosen", "unanswered"),
        (HH, HH | {"chosen": "\n\nHuman: Up?"}, "chosen", "unanswered"),
        (HH, HH | {"chosen": "\n\nHuman: Up?\n\nHuman: Up?\n\nAssistant: x"}, "chosen[1]", "order"),
        (HH, {"chosen": "\n\nAssistant: Up.", "rejected": "\n\nAssistant: Down."}, "chosen", "order"),
        (CHAT, chat(A, U, A), "messages", "order"),
        (CHAT, chat(S, A), "messages", "order"),
        (CHAT, chat(U, U, A), "messages[1]", "order"),
        (CHAT, chat(U, A, S, U, A), "messages[2]", "order"),
        (DEMO, {"instruction": [U, A], "output": "x"}, "instruction", "order"),
        (DEMO, {"instruction": "x", "output": "x", "history": [U, A, U]}, "history", "order"),
        (DEMO, {"instruction": [S], "output": "x"}, "instruction", "order"),
        (DEMO, {"instruction": "x", "output": [U, A]}, "output", "order"),
        (TREE, {"prompt": {"text": "x", "replies": [{"role": "prompter", "text": "y"}]}}, "prompt.replies[0].role", "order"),
        (TREE, {"prompt": {"text": "x", "replies": [{"role": "assistant", "text": "y", "rank": 0}]}}, "prompt", "unranked"),
    ],
)
def test_what_is_left_out(put: Put, good: Any, bad: Any, field: str, kind: str) -> None:
    found = report(put, [good, bad])
    assert told(found) == [(f"a.jsonl:2:{field}", kind, False)]
    assert found.records == 1 and not found.is_refused
    assert len(read("a.jsonl", want=found.want).records) == 1
    only = report(put, [bad])
    assert only.records == 0 and only.is_refused  # nothing is left to train on


@pytest.mark.parametrize(
    ("row", "field", "kind"),
    [
        (scored(3, 3, 3.0), "score", "tied"),
        (scored(3), "score", "one answer"),
        (scored(3, None), "score", "unscored"),
        (scored(3, 4, None), "score", "unscored"),
        (scored(None, ""), "score", "unscored"),
        (
            {"user_input": "x", "responses_and_scores": [{"response": "", "score": 2}, {"response": "y", "score": 1}]},
            None,
            "empty",
        ),
    ],
)
def test_what_is_kept_and_told(put: Put, row: Any, field: str | None, kind: str) -> None:
    found = report(put, [row])
    assert (f"a.jsonl:1:{field or 'responses_and_scores[0].response'}", kind, False) in told(found)
    assert found.records == 1
    # Two scored answers at least, and not the same score: else nothing can be learnt, and the whole file says so.
    scores = {item["score"] for item in row["responses_and_scores"]} - {None, ""}
    assert found.is_refused == (len(scores) < 2) == (told(found)[0] == ("a.jsonl", "no pair", True))


def test_a_last_question_without_an_answer(put: Put) -> None:
    longer = chat(U, A, {"role": "user", "content": "again"})
    found = report(put, [CHAT, {**CHAT, "messages": [S, U, A]}, longer])
    # What is left of the third conversation is the first.
    assert told(found) == [("a.jsonl:3:messages", "unanswered", False), ("a.jsonl:3:row", "duplicate", False)]
    assert report(put, [longer]).want == "prompts" and report(put, [longer]).problems == ()


@pytest.mark.parametrize("score", ["good", float("nan"), float("inf"), "nan", True, [5], 10**400, "8/10"])
def test_a_score_that_is_no_number_is_told_and_the_others_stay(put: Put, score: Any) -> None:
    """One "N/A" among a hundred thousand scores refuses no file: the answer has no score, and the user knows which it is."""
    found = report(put, [SCORED, scored(1, score, 3)])
    assert ("a.jsonl:2:responses_and_scores[1].score", "score", False) in told(found)
    assert any("not a finite number; the answer has no score" in problem.message for problem in found.problems)
    assert found.counts == {"score": 1, "unscored": 1} and not found.is_refused
    _, record = read("a.jsonl", want="scored").records
    assert [answer.score for answer in record.answers] == [1, None, 3]


def test_some_scores_tied_are_no_problem(put: Put) -> None:
    assert report(put, [scored(3, 3, 4)]).problems == ()


def test_duplicates(put: Put) -> None:
    rows = [DEMO, {**DEMO, "output": "Other."}, {**DEMO, "input": None, "id": 3}, {**DEMO, "input": "x"}, DEMO]
    found = report(put, rows)
    assert told(found) == [("a.jsonl:3:row", "duplicate", False), ("a.jsonl:5:row", "duplicate", False)]
    assert found.problems[0].message == "the same as a.jsonl:1; left out"
    assert found.records == 3 and not found.is_refused
    # The same question to another score is another judgement.
    assert report(put, [scored(1, 2), scored(2, 1), scored(1, 2)]).records == 2
    assert report(put, [PAIR, {**PAIR, "chosen": "x"}, {**PAIR, "rejected": "x"}, {**PAIR, "margin": 2}]).records == 3
    assert report(put, [{"prompt": "x"}, {"prompt": "x", "id": 2}, "x"]).records == 1


def test_prompts_with_other_fields_are_two_and_what_never_reads_those_takes_one(put: Put) -> None:
    """A reward function may compare with `answer`: the second gold answer is another row. Ids and sources tell nothing."""
    gold = [{"prompt": "Which?", "answer": answer, "id": number} for number, answer in enumerate("aba")]
    inside = [{"prompt": "Which?", "extra": {"index": number, "truth": truth}} for number, truth in enumerate((1, 1, 2))]
    found = read(put("a.jsonl", [*gold, *inside, {"prompt": "Other?", "answer": "a"}]), want="prompts")
    assert [dict(prompt.fields).get("answer") for prompt in found.records] == ["a", "b", None, None, "a"]
    assert [(p.where, p.kind) for p in found.problems] == [("a.jsonl:3:row", "duplicate"), ("a.jsonl:5:row", "duplicate")]
    train, held_out = split(found.records, 0.5)
    assert {p.messages for p in train}.isdisjoint({p.messages for p in held_out}), "a prompt is on one side"
    once = once_each(found)
    assert [prompt.where.line for prompt in once.records] == [1, 7] and "5 duplicates left out" in once.remarks()
    assert once_each(once) is once
    deep = '{"prompt": "x", "a": ' + '{"a":' * 600 + "1" + "}" * 600 + "}\n"
    assert len(read(put("b.jsonl", deep * 2), want="prompts").records) == 2, "too deep to compare: nothing vanishes"


def test_a_prompt_in_training_and_held_out_file(put: Put) -> None:
    train = put("train.jsonl", [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "b"}])
    kept = put("kept.json", '[{"instruction": "c", "output": "x"},\n {"instruction": "b", "output": "x"}]')
    first, second = check([train], held_out=[kept])
    assert not first.is_refused and [p.kind for p in first.problems] == ["duplicate"]
    assert told(second) == [("kept.json:2:prompt", "leak", True)] and second.is_refused
    assert "train.jsonl:2" in second.problems[0].message
    assert not any(found.is_refused for found in check([train, kept]))
    again = put("again.jsonl", [{"prompt": "b"}])
    assert "train.jsonl:2" in check([train, again], held_out=[kept])[2].problems[0].message  # where it was first
    # A conversation that ends with the same question is another prompt.
    talk = put("talk.jsonl", [{"messages": [U, A, {"role": "user", "content": "b"}]}])
    assert check([train], held_out=[talk])[1].problems == ()


def test_too_long_for_the_model(put: Put) -> None:
    def length(prompt: Prompt, answer: str | None) -> int:
        return len(f"{prompt.text} {answer}".split()) if answer else len(prompt.text.split())

    rows = [{"prompt": "one two three"}, {"prompt": "one two three four"}, {"prompt": "1 2 3 4 5"}]
    found = report(put, rows, length=length, context=4)
    assert told(found) == [("a.jsonl:2:prompt", "long", False), ("a.jsonl:3:prompt", "long", False)]
    assert "5 tokens" in found.problems[1].message and found.records == 3
    answered = [{"prompt": "one two", "completion": "three four"}, {"prompt": "one two", "completion": "three four five"}]
    assert told(report(put, answered, length=length, context=4)) == [("a.jsonl:2:response", "long", False)]
    assert told(report(put, [{**PAIR, "rejected": "a b c d"}], length=length, context=4)) == [
        ("a.jsonl:1:response", "long", False)
    ]
    assert report(put, answered, length=length, context=5).problems == ()


@pytest.mark.parametrize(
    ("content", "where", "kind"),
    [
        (b'{"prompt": "caf\xe9"}\n', "a.jsonl:1", "encoding"),
        (b'{"prompt": "a\x00"}\n', "a.jsonl:1", "NUL"),
        (b'{"prompt": "a"}\n{"prompt": "b', "a.jsonl:2", "truncated"),
        (b'[{"prompt": "a"},\n{"prompt" "b"}]\n', "a.jsonl:2", "broken JSON"),
        (b"", "a.jsonl", "empty file"),
        (b"[]", "a.jsonl", "empty file"),
        (b"\x89PNG\r\n\x1a\n", "a.jsonl", "file"),
    ],
)
def test_damage_to_the_file_itself(put: Put, content: bytes, where: str, kind: str) -> None:
    found = report(put, content)
    assert told(found) == [(where, kind, True)] and found.is_refused
    assert not found.problems[0].message.startswith("a.jsonl")  # the place is said once


def test_all_problems_of_all_files_come_in_their_order(put: Put) -> None:
    one = put("one.jsonl", [{"prompt": ""}, {"prompt": 1}])
    two = put("two.csv", "prompt,score\n,1\nx,2\n")
    found = check([one, two, put("three.jsonl", [{"prompt": "x"}])])
    assert [told(f) for f in found] == [
        [("one.jsonl", "bad rows", True), ("one.jsonl:1:prompt", "empty", True), ("one.jsonl:2:prompt", "type", True)],
        [("two.csv:2:prompt", "empty", True)],
        [],
    ]
    assert [f.is_refused for f in found] == [True, False, False]


def test_a_file_that_is_not_there_is_an_error(put: Put) -> None:
    with pytest.raises(DataError, match=r"nowhere.jsonl: there is no such file"):
        check([put("a.jsonl", [DEMO]), "nowhere.jsonl"])


@pytest.mark.parametrize(
    ("rows", "want"),
    [
        ([DEMO], "demonstrations"),
        ([{"instruction": "x"}, DEMO, DEMO], "demonstrations"),  # most rows tell, not the first
        ([{"prompt": "x"}], "prompts"),
        (["x", "y"], "prompts"),
        ([PAIR], "comparisons"),
        ([{**DEMO, **PAIR}], "comparisons"),  # the richest use
        ([HH], "comparisons"),
        ([SCORED], "comparisons"),
        ([TREE], "comparisons"),
        ([CHAT], "demonstrations"),
        ([chat(U)], "prompts"),
        ([chat(U, A, U)], "prompts"),
        ([{"x": 1}], "demonstrations"),
    ],
)
def test_what_a_file_is_for(put: Put, rows: list[Any], want: str) -> None:
    assert report(put, rows).want == want


def test_a_row_of_no_known_shape(put: Put) -> None:
    found = report(put, [{"foo": 1, "b\ud800\u001b[31m": 2}])
    assert told(found) == [("a.jsonl:1:row", "shape", True)]
    assert "fields foo, b\\ud800\\x1b[31m match none of the formats" in found.problems[0].message
    assert "`columns:`" in found.problems[0].todo
    assert report(put, [{"foo": "x", "bar": "y"}], columns={"foo": "prompt", "bar": "completion"}).problems == ()


def test_messages_stay_short(put: Put) -> None:
    rows = [{"user_input": "x", "responses_and_scores": [{"response": "y", "score": "long" * 10_000}]}, {"k" * 9999: 1}]
    assert all(len(str(problem)) < 700 for problem in report(put, rows).problems)


def test_a_deeply_nested_row_is_only_a_wrong_type(put: Put) -> None:
    deep = "[" * 900 + "]" * 900
    for field in ("instruction", "output", "input"):
        row = json.dumps({**DEMO, field: None}).replace("null", deep)
        assert [p.kind for p in report(put, json.dumps(DEMO) + "\n" + row + "\n").problems] == ["type"]
    text = f'{{"messages": [{{"role": {deep}, "content": "x"}}]}}\n'
    assert told(report(put, text)) == [("a.jsonl:1:messages[0]", "type", True)]
