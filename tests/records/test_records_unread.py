"""Nothing in a row vanishes in silence: what belongs to it is read, and every field that is not read is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sawyer.records import Message, Prompt, check, prompt_of, read, unread_in_words
from sawyer.records.fields import is_bookkeeping
from sawyer.records.formats import Want

Put = Callable[[str, Any], str]
U, A = {"role": "user", "content": "Up?"}, {"role": "assistant", "content": "Down."}
S = {"role": "system", "content": "Be brief."}
PART = {"type": "text", "text": "Up?"}
PAIR = {"messages": [U, A], "chosen": [U, A], "rejected": [U, A | {"content": "x"}]}
BRIEF, UP, DOWN = ("system", "Be brief."), ("user", "Up?"), ("assistant", "Down.")


def one(put: Put, row: Any, want: Want = "demonstrations") -> Any:
    (record,) = read(put("a.jsonl", [row]), want=want).records
    return record


def said(record: Any) -> list[tuple[str, str]]:
    prompt = record if isinstance(record, Prompt) else record.prompt
    return [(message.role, message.content) for message in prompt.messages]


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"system": "Be brief.", "instruction": "Up?", "input": "", "output": "Down."}, [BRIEF, UP]),
        ({"system_prompt": "Be brief.", "question": "Up?", "response": "Down."}, [BRIEF, UP]),
        ({"system": " ", "system_message": "Be brief.", "prompt": "Up?", "completion": "Down."}, [BRIEF, UP]),
        ({"system": "Be brief.", "conversations": [U, A]}, [BRIEF, UP]),
        # A developer's turn is a system turn; one that says nothing is none.
        ({"messages": [{"role": "developer", "content": "Be brief."}, U, A]}, [BRIEF, UP]),
        ({"messages": [{"role": "system", "content": ""}, U, A]}, [UP]),
        ({"messages": [{"role": "system", "content": None}, U, A]}, [UP]),
        ({"system": "Be brief.", "messages": [{"role": "system", "content": " "}, U, A]}, [BRIEF, UP]),
        # Content in parts is one text.
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "U"}, {"type": "text", "text": "p?"}]}, A]}, [UP]),
        # Earlier turns, as pairs or as turns.
        ({"instruction": "More?", "output": "x", "history": [["Up?", "Down."]]}, [UP, DOWN, ("user", "More?")]),
        ({"system": "Be brief.", "prompt": "More?", "response": "x", "history": [U, A]}, [BRIEF, UP, DOWN, ("user", "More?")]),
        ({"instruction": "Up?", "output": "Down.", "history": []}, [UP]),
        # What a question is about.
        ({"instruction": "Who?", "context": "The Mary is a ship.", "response": "x"}, [("user", "Who?\n\nThe Mary is a ship.")]),
        ({"instruction": "Who?", "context": "", "response": "x", "category": "open_qa"}, [("user", "Who?")]),
        ({"question": "Who?", "context": "A ship.", "answers": {"text": ["x", "y"]}}, [("user", "Who?\n\nA ship.")]),
        # Capybara's turns.
        (
            {"conversation": [{"input": "Up?", "output": "Down."}, {"input": "More?", "output": "x"}]},
            [UP, DOWN, ("user", "More?")],
        ),
    ],
)
def test_what_belongs_to_a_prompt_is_read(put: Put, row: dict[str, Any], turns: list[tuple[str, str]]) -> None:
    found = read(put("a.jsonl", [row]), want="demonstrations")
    (record,) = found.records
    assert said(record) == turns
    assert set(found.unread) <= {"category"} and record.response in ("Down.", "x")


def test_a_system_prompt_stands_before_pairs_and_prompts_too(put: Put) -> None:
    row = {"system": "Be brief.", "question": "Up?", "chosen": "Down.", "rejected": "Up."}
    assert said(one(put, row, "comparisons")) == said(one(put, row, "prompts")) == [BRIEF, UP]
    votes = {"system": "Be brief.", "conversation_a": [U, A], "conversation_b": [U, A | {"content": "x"}], "winner": "a"}
    assert said(one(put, votes, "comparisons")) == [BRIEF, UP]


@pytest.mark.parametrize(
    ("row", "want", "unread"),
    [
        ({"instruction": "Up?", "output": "Down.", "id": 3, "tags": ["x"], "note": None}, "demonstrations", {"id", "tags"}),
        ({"question": "Up?", "answer": "Down.", "input": "x"}, "demonstrations", {"input"}),
        # Two system prompts: the conversation's own stands, the column is named; the same one twice is read.
        ({"system": "Other.", "messages": [S, U, A]}, "demonstrations", {"system"}),
        ({"system": "Be brief.", "messages": [S, U, A]}, "demonstrations", set()),
        # Of another type than is known, such a column is somebody's own.
        ({"system": {"id": 7}, "prompt": "Up?", "response": "y"}, "demonstrations", {"system"}),
        ({"history": "x", "context": [1], "prompt": "Up?", "response": "y"}, "demonstrations", {"history", "context"}),
        # Inside turns: what a template might have written.
        (
            {"messages": [U | {"name": "Ann"}, A | {"thinking": "Hm."}]},
            "demonstrations",
            {f"messages[].{n}" for n in ("name", "thinking")},
        ),
        ({"messages": [U, A | {"reasoning_content": ""}], "tools": [{"x": 1}]}, "demonstrations", {"tools"}),
        ({"messages": [U | {"content": [PART, PART | {"image": None}]}, A]}, "demonstrations", set()),
        ({"messages": [U | {"content": [PART | {"image": "x"}]}, A]}, "demonstrations", {"messages[].content[].image"}),
        # UltraFeedback: what repeats what was read is not named.
        ({**PAIR, "prompt": "Up?", "prompt_id": "x", "score_chosen": 2, "score_rejected": 1}, "comparisons", {"prompt_id"}),
        ({**PAIR, "prompt": "Up?", "response": "Down."}, "demonstrations", {"rejected"}),
        ({**PAIR, "prompt": "Up? Or down?"}, "demonstrations", {"prompt", "rejected"}),
        ({**PAIR, "prompt": [U]}, "comparisons", set()),
        ({"prompt": "Up?", "response": "x", "helpfulness": 1, "coherence": 2}, "comparisons", {"coherence"}),
        ({"prompt": "Up?", "response": "x", "score": 1, "source": "web", "model": "m"}, "comparisons", {"source"}),
        ({"prompt": "Up?", "chosen": "x", "rejected": "y", "margin": 2, "label": 1}, "comparisons", {"label"}),
        (
            {"user_input": "Up?", "responses_and_scores": [{"response": "a", "score": 1, "why": "x"}]},
            "comparisons",
            {"responses_and_scores[].why"},
        ),
        ({"text": "x", "label": 1, "idx": 3}, "labels", {"idx"}),
        ({"prompt": "Up?", "answer": "4", "level": 2}, "prompts", {"answer", "level"}),
        ({"messages": [U, A]}, "prompts", {"messages[-1].content"}),
    ],
)
def test_what_is_not_read_is_named(put: Put, row: dict[str, Any], want: Want, unread: set[str]) -> None:
    found = read(put("a.jsonl", [row, row]), want=want)
    assert found.unread == dict.fromkeys(unread, 2)


def test_a_field_s_name_cannot_break_what_names_it(put: Put) -> None:
    """A name may hold anything; it is written to the journal and to the terminal."""
    found = read(put("a.jsonl", [{"prompt": "x", "completion": "y", "\x1b[31m\ud800": 1, "k" * 999: 1}]), want="demonstrations")
    assert found.unread == {"\\x1b[31m\\ud800": 1, "k" * 80: 1} and found.told_skipped.encode()


def test_a_column_that_no_row_has_is_named(put: Put) -> None:
    name = put("a.jsonl", [{"q": "Up?", "completion": "Down."}])
    found = read(name, want="demonstrations", columns={"q": "prompt", "sytem": "system"})
    assert len(found.records) == 1 and "no row has `sytem`, which `columns:` names" in found.warning


def test_bookkeeping_is_known() -> None:
    """It is named last, so that what one should look at comes first."""
    named = ["id", "messages[].name", "source", "system", "tools", "messages[].weight"]
    assert [name for name in named if is_bookkeeping(name)] == ["id", "messages[].name", "source"]
    assert (
        unread_in_words({"id": 2, "tools": 1, "turns": 2, "system": 2}) == "not read: system (2), tools (1), id (2), turns (2)"
    )


def test_weights_of_turns(put: Put) -> None:
    """OpenAI: a turn of weight 0 is not trained. What comes after the last that is teaches nothing."""
    more = {"role": "user", "content": "More?"}
    rows = [
        {"messages": [U, A | {"weight": 0}, more, A | {"weight": 1}]},
        {"messages": [U, A, more, {"role": "assistant", "content": "x", "weight": 0}]},
        {"messages": [U, A | {"train": False}]},
    ]
    found = read(put("a.jsonl", rows), want="demonstrations")
    untrained = Message(role="assistant", content="Down.", in_loss=False)
    assert found.records[0].prompt.messages == (*prompt_of("Up?").messages, untrained, *prompt_of("More?").messages)
    assert (said(found.records[1]), found.records[1].response) == ([UP], "Down.")
    assert [(problem.where, problem.kind) for problem in found.problems] == [("a.jsonl:3:messages", "unanswered")]
    # As prompts nothing is imitated: the two conversations wait with the same turns.
    both = read(put("b.jsonl", [{"messages": [U, A | {"weight": w}, more]} for w in (0, 1)]), want="prompts")
    assert len(both.records) == 1 and [problem.kind for problem in both.problems] == ["duplicate"]


@pytest.mark.parametrize("given", ["    return x", " 4", "\tx", "a\n  b"])
def test_an_answer_s_leading_spaces_are_part_of_it(put: Put, given: str) -> None:
    """Code is indented, and `" blue."` goes on from `"The sky is"`; white space at an answer's end says nothing."""
    assert one(put, {"prompt": " Go on: ", "completion": f"{given} \n"}) == one(put, {"prompt": "Go on:", "completion": given})
    assert one(put, {"prompt": "Go on:", "completion": given}).response == given
    assert one(put, {"messages": [U, {"role": "assistant", "content": given}]}).response == given
    pair = one(put, {"prompt": "x", "chosen": given, "rejected": "y"}, "pairs")
    assert pair.chosen == given
    talk = "\n\nHuman: x\n\nAssistant:"
    assert one(put, {"chosen": f"{talk} {given}", "rejected": f"{talk} y"}, "pairs").chosen == given


def test_a_prompt_brings_its_row_s_other_fields(put: Put) -> None:
    row = {"question": "2+2?", "answer": "4", "level": None, "cases": [{"in": 1}]}
    prompt = one(put, row, "prompts")
    assert prompt.fields == {"answer": "4", "level": None, "cases": [{"in": 1}]}
    assert prompt.messages == prompt_of("2+2?").messages and prompt_of("x").fields == {}
    other = Prompt(messages=prompt.messages, where=prompt.where)
    assert prompt == other and hash(prompt) == hash(other) and "fields" not in repr(prompt)
    assert one(put, {"messages": [U, A], "k": 1}, "prompts").fields == {"k": 1, "messages": [U, A]}
    told = "not in the prompt, for reward functions alone: k, messages[-1].content (in 1 row)"
    assert read("a.jsonl", want="prompts").told_skipped == told
    assert one(put, {"messages": [U | {"name": "Ann"}]}, "prompts").fields == {"messages": [U | {"name": "Ann"}]}
    assert one(put, {"messages": [U]}, "prompts").fields == {}
    again = {"messages": [U, A], "answer": "Down."}  # repeats what was read, and is there all the same
    assert one(put, again, "prompts").fields == again
    assert one(put, {"prompt": "Up?", "chosen": "a", "rejected": "b"}, "prompts").fields == {"chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("turn", "field", "kind"),
    [
        ({"role": "tool", "content": "5"}, "messages[1]", "tool"),
        ({"from": "function_call", "value": "{}"}, "messages[1]", "tool"),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}, "messages[1].tool_calls", "tool"),
        ({"role": "assistant", "content": "Let me look.", "function_call": {"name": "f"}}, "messages[1].function_call", "tool"),
        ({"role": "assistant", "content": [{"type": "image_url", "image_url": "x"}]}, "messages[1].content[0]", "type"),
        ({"role": "assistant", "content": None}, "messages[1].content", "missing"),
    ],
)
def test_what_cannot_be_read_is_left_out_by_name(put: Put, turn: Any, field: str, kind: str) -> None:
    """A row that calls a tool, or holds a picture, is no demonstration of the text that is left of it."""
    rows = [{"messages": [U | {"content": str(i)}, A]} for i in range(150)] + [{"messages": [U, turn]}]
    (report,) = check([put("a.jsonl", rows)])
    assert report.records == 150
    assert [(problem.where, problem.kind) for problem in report.problems] == [(f"a.jsonl:151:{field}", kind)]
