"""Every shape people publish becomes the record it means; the expected records are written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sawyer.errors import DataError
from sawyer.records import Answer, JudgedPrompt, Prompt, read
from sawyer.records.formats import Want

Put = Callable[[str, Any], str]
Turns = list[tuple[str, str]]


def said(prompt: Prompt) -> Turns:
    return [(message.role, message.content) for message in prompt.messages]


def one(put: Put, row: Any, want: Want, **columns: str) -> Any:
    """The single record of a file with one row."""
    (record,) = read(put("a.jsonl", [row]), want=want, columns=columns).records
    return record


@pytest.mark.parametrize(
    ("row", "turns", "response", "shape"),
    [
        (
            {"instruction": "Add.", "input": "1 and 2", "output": "3"},
            [("user", "Add.\n\n1 and 2")],
            "3",
            "instructions (Alpaca)",
        ),
        ({"instruction": "Say hi.", "input": "", "output": "Hi."}, [("user", "Say hi.")], "Hi.", "instructions (Alpaca)"),
        ({"instruction": "Say hi.", "output": "Hi."}, [("user", "Say hi.")], "Hi.", "instructions (Alpaca)"),
        ({"instruction": "Say hi.", "input": None, "response": "Hi."}, [("user", "Say hi.")], "Hi.", "instructions (Alpaca)"),
        ({"instruction": "A", "input": "B", "response": "C"}, [("user", "A\n\nB")], "C", "instructions (Alpaca)"),
        ({"prompt": " 2+2? ", "completion": " 4\n"}, [("user", "2+2?")], " 4", "prompt and completion"),
        ({"question": "2+2?", "answer": "4"}, [("user", "2+2?")], "4", "question and answer"),
        ({"prompt": "2+2?", "response": "4"}, [("user", "2+2?")], "4", "prompt and response"),
        # Only an instruction has an input; a question's `input` column is somebody's own.
        ({"question": "2+2?", "answer": "4", "input": "x"}, [("user", "2+2?")], "4", "question and answer"),
        (
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
            [("user", "Hi")],
            "Hello",
            "chat messages (OpenAI)",
        ),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Hello"},
                    {"role": "user", "content": "Bye"},
                    {"role": "assistant", "content": "Ciao"},
                ]
            },
            [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")],
            "Ciao",
            "chat messages (OpenAI)",
        ),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            [("user", "Hi")],
            "Hello",
            "conversations (ShareGPT)",
        ),
        (
            {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Hello"}]},
            [("user", "Hi")],
            "Hello",
            "prompt and completion",
        ),
    ],
)
def test_demonstrations(put: Put, row: dict[str, Any], turns: Turns, response: str, shape: str) -> None:
    found = read(put("a.jsonl", [row]), want="demonstrations")
    assert len(found.records) == 1 and found.problems == () and found.format == shape
    assert said(found.records[0].prompt) == turns
    assert found.records[0].response == response
    assert str(found.records[0].where) == "a.jsonl:1"


def test_a_column_without_a_value_does_not_hide_the_one_that_is_used(put: Put) -> None:
    """A table of several sources has every source's columns in each row."""
    record = one(put, {"instruction": None, "output": None, "question": "2+2?", "answer": "4"}, "demonstrations")
    assert (said(record.prompt), record.response) == ([("user", "2+2?")], "4")


def test_self_instruct_gives_a_record_an_instance(put: Put) -> None:
    row = {"instruction": "Double.", "instances": [{"input": "2", "output": "4"}, {"input": "", "output": "What?"}]}
    found = read(put("a.jsonl", [row]), want="demonstrations")
    assert [(said(r.prompt), r.response) for r in found.records] == [
        ([("user", "Double.\n\n2")], "4"),
        ([("user", "Double.")], "What?"),
    ]
    assert found.format == "tasks with instances (self-instruct)"


def test_scored_answers(put: Put) -> None:
    row = {
        "user_input": "Up?",
        "responses_and_scores": [
            {"response": "Down.", "score": 6, "source": "a"},
            {"response": " Left ", "score": "2.5"},
            {"response": "Right", "score": None, "source": None},
        ],
    }
    found = read(put("a.jsonl", [row]), want="scored")
    (record,) = found.records
    assert said(record.prompt) == [("user", "Up?")]
    assert record.answers == (
        Answer(response="Down.", score=6.0, source="a"),
        Answer(response=" Left", score=2.5),
        Answer(response="Right", score=None),
    )
    assert found.format == "scored answers (GPT-4-LLM)"
    assert [(p.where, p.kind, p.fatal) for p in found.problems] == [("a.jsonl:1:score", "unscored", False)]


def test_scored_answers_to_a_conversation(put: Put) -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    row = {"prompt": turns, "responses_and_scores": [{"response": "x", "score": 1}, {"response": "y", "score": 0}]}
    assert said(one(put, row, "comparisons").prompt) == [("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")]


ASKED = {"role": "user", "content": "Up?"}
GOOD, BAD = {"role": "assistant", "content": "Down."}, {"role": "assistant", "content": "Up."}
BEGUN = [{"role": "system", "content": "Brief."}, ASKED]


@pytest.mark.parametrize(
    ("row", "turns", "margin"),
    [
        ({"prompt": "Up?", "chosen": "Down.", "rejected": "Up."}, [("user", "Up?")], None),
        ({"prompt": "Up?", "chosen": "Down.", "rejected": "Up.", "margin": 2}, [("user", "Up?")], 2.0),
        ({"prompt": "Up?", "chosen": "Down.", "rejected": "Up.", "margin": None}, [("user", "Up?")], None),
        ({"instruction": "Up?", "input": "x", "chosen": "Down.", "rejected": "Up."}, [("user", "Up?\n\nx")], None),
        ({"question": "Up?", "chosen": "Down.", "rejected": "Up."}, [("user", "Up?")], None),
        # Message lists: the prompt inside both, or in its own column as text or as turns.
        ({"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}, [("user", "Up?")], None),
        ({"chosen": [*BEGUN, GOOD], "rejected": [*BEGUN, BAD]}, [("system", "Brief."), ("user", "Up?")], None),
        ({"prompt": "Up?", "chosen": [GOOD], "rejected": [BAD], "margin": 0.5}, [("user", "Up?")], 0.5),
        ({"prompt": BEGUN, "chosen": [GOOD], "rejected": [BAD]}, [("system", "Brief."), ("user", "Up?")], None),
        # UltraFeedback repeats the last question beside the lists: the lists know more.
        ({"prompt": "Up?", "chosen": [*BEGUN, GOOD], "rejected": [*BEGUN, BAD]}, [("system", "Brief."), ("user", "Up?")], None),
        ({"prompt": [ASKED], "chosen": "Down.", "rejected": "Up."}, [("user", "Up?")], None),
    ],
)
def test_pairs(put: Put, row: dict[str, Any], turns: Turns, margin: float | None) -> None:
    record = one(put, row, "pairs")
    assert isinstance(record, JudgedPrompt) and record.is_pair
    assert (said(record.prompt), record.chosen, record.rejected, record.margin) == (turns, "Down.", "Up.", margin)


def test_transcripts(put: Put) -> None:
    start = "\n\nHuman: Up?\n\nAssistant: Which\n\nway: do you mean?\n\nHuman: The other."
    row = {"chosen": f"{start}\n\nAssistant: Down.", "rejected": f"{start}\n\nAssistant: Up. "}
    found = read(put("a.jsonl", [row]), want="comparisons")
    (record,) = found.records
    assert said(record.prompt) == [("user", "Up?"), ("assistant", "Which\n\nway: do you mean?"), ("user", "The other.")]
    assert (record.chosen, record.rejected, record.margin) == ("Down.", "Up.", None)
    assert found.format == "transcripts (Anthropic HH)"


def test_trees(put: Put) -> None:
    later = {
        "text": "More?",
        "role": "prompter",
        "replies": [
            {"text": "Yes", "role": "assistant", "rank": 0},
            {"text": "No", "role": "assistant", "rank": 1, "model_name": "m"},
        ],
    }
    root = {
        "text": "Up?",
        "role": "prompter",
        "replies": [
            {"text": "Left", "role": "assistant", "rank": 2, "replies": []},
            {"text": "Down", "role": "assistant", "rank": 0, "replies": [later]},
            {"text": "unranked", "role": "assistant", "rank": None},
            {"text": "Right", "role": "assistant", "rank": 1},
        ],
    }
    found = read(put("a.jsonl", [{"message_tree_id": "t", "prompt": root}]), want="scored")
    first, second = found.records
    assert isinstance(first, JudgedPrompt) and said(first.prompt) == [("user", "Up?")]
    # Rank 0 is the best of three and scores 2.
    assert [(a.response, a.score, a.source) for a in first.answers] == [
        ("Left", 0.0, "person"),
        ("Down", 2.0, "person"),
        ("Right", 1.0, "person"),
    ]
    assert said(second.prompt) == [("user", "Up?"), ("assistant", "Down"), ("user", "More?")]
    assert [(a.response, a.score, a.source) for a in second.answers] == [("Yes", 1.0, "person"), ("No", 0.0, "m")]
    assert found.format == "message trees (OpenAssistant)"
    assert [record.text for record in read("a.jsonl", want="prompts").records] == ["Up?", "More?"]


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"prompt": "Up?"}, [("user", "Up?")]),
        ({"instruction": "Up?"}, [("user", "Up?")]),
        ({"question": "Up?", "id": 3}, [("user", "Up?")]),
        ({"text": "Up?"}, [("user", "Up?")]),
        ("Up?", [("user", "Up?")]),
        ({"prompt": BEGUN}, [("system", "Brief."), ("user", "Up?")]),
        ({"messages": BEGUN}, [("system", "Brief."), ("user", "Up?")]),
        ({"messages": [*BEGUN, GOOD]}, [("system", "Brief."), ("user", "Up?")]),
        ({"conversations": [{"from": "human", "value": "Up?"}]}, [("user", "Up?")]),
        # Any richer row gives its prompt, and what else it has cannot be wrong.
        ({"instruction": "Up?", "input": "x", "output": None}, [("user", "Up?\n\nx")]),
        ({"user_input": "Up?", "responses_and_scores": "?"}, [("user", "Up?")]),
        ({"prompt": "Up?", "chosen": "same", "rejected": "same"}, [("user", "Up?")]),
        ({"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}, [("user", "Up?")]),
        ({"instruction": "Up?", "instances": [{"input": "x", "output": "y"}]}, [("user", "Up?\n\nx")]),
    ],
)
def test_prompts(put: Put, row: Any, turns: Turns) -> None:
    record = one(put, row, "prompts")
    assert isinstance(record, Prompt) and said(record) == turns


def test_lines_of_text_are_prompts(put: Put) -> None:
    found = read(put("a.txt", "Up?\r\n\r\n  Left?  \nWith\u2028separator\x0cand feed"), want="prompts")
    # Only a line break ends a line: the line numbers are an editor's.
    assert [(r.text, r.where.line) for r in found.records] == [("Up?", 1), ("Left?", 3), ("With\u2028separator\x0cand feed", 4)]
    assert found.format == "lines of text"


def test_paragraphs_are_texts(put: Put) -> None:
    found = read(put("a.txt", "\ufeffOne\nstill one\r\n\r\n\r\nTwo\n\n"), want="text")
    assert found.records == ("One\nstill one", "Two")


def test_other_column_names(put: Put) -> None:
    row = {"query": "Up?", "reply": "Down.", "prompt": "not this one"}
    for names in ({"query": "prompt", "reply": "response"}, {"reply": "response", "query": "prompt"}):
        record = one(put, row, "demonstrations", **names)
        assert (record.prompt.text, record.response) == ("Up?", "Down.")
    # The mapped column wins wherever it stands in the row.
    swapped = {"prompt": "not this one", "query": "Up?", "reply": "Down."}
    assert one(put, swapped, "demonstrations", query="prompt", reply="response").prompt.text == "Up?"


def test_columns_in_every_shape(put: Put) -> None:
    assert one(put, {"q": "Up?", "good": "a", "bad": "b"}, "pairs", q="prompt", good="chosen", bad="rejected").rejected == "b"
    assert one(put, {"chat": BEGUN}, "prompts", chat="messages").text == "Up?"
    listed = [{"response": "a", "score": 1}, {"response": "b", "score": 0}]
    assert one(put, {"q": "Up?", "rated": listed}, "scored", q="prompt", rated="responses_and_scores").answers[0].score == 1.0


def test_a_row_of_every_shape_in_one_file(put: Put) -> None:
    rows = [{"prompt": "1", "chosen": "a", "rejected": "b"}, {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}]
    rows.append({"chosen": "\n\nHuman: 3\n\nAssistant: a", "rejected": "\n\nHuman: 3\n\nAssistant: b"})
    found = read(put("a.jsonl", rows), want="comparisons")
    assert [record.prompt.text for record in found.records] == ["1", "Up?", "3"]
    assert found.format == "pairs + transcripts (Anthropic HH)"


def test_one_row_serves_several_wishes(put: Put) -> None:
    """llms_from_scratch's pairs carry the output as well."""
    name = put("a.json", [{"instruction": "Up?", "output": "Down.", "chosen": "Down.", "rejected": "Up."}])
    assert read(name, want="demonstrations").records[0].response == "Down."
    assert read(name, want="pairs").records[0].rejected == "Up."
    assert read(name, want="prompts").records[0].text == "Up?"
    with pytest.raises(DataError, match="match none of the formats for scored"):
        read(name, want="scored")


def test_unicode_stays(put: Put) -> None:
    row = {"prompt": "Où? 東京 🙂", "completion": "e\u0301 ≠ é"}
    record = one(put, row, "demonstrations")
    assert (record.prompt.text, record.response) == ("Où? 東京 🙂", "e\u0301 ≠ é")
