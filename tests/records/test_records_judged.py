"""Judged answers as people publish them: each row becomes the judgement its data card says it is; expectations by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sawyer.errors import DataError
from sawyer.records import JudgedPrompt, Prompt, check, once_each, read, read_answers, scored_row
from sawyer.records.formats import SETTING_FOR, Want, expected, format_of

Put = Callable[[str, Any], str]


def said(prompt: Prompt) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in prompt.messages]


def judged(put: Put, *rows: Any) -> list[Any]:
    """What the reward model learns from: (prompt's turns, better, worse, margin), or the scores of one prompt's answers."""
    found = []
    for record in read(put("a.jsonl", rows), want="comparisons").records:
        if record.is_pair:
            found.append((said(record.prompt), record.chosen, record.rejected, record.margin))
        else:
            found.append((said(record.prompt), {answer.response: answer.score for answer in record.answers}))
    return found


UP = [("user", "Up?")]
ASK = {"role": "user", "content": "Up?"}
GOOD, BAD = {"role": "assistant", "content": "Down."}, {"role": "assistant", "content": "Up."}


@pytest.mark.parametrize(
    ("row", "margin"),
    [
        # Votes: who won, and by how much where somebody says so.
        ({"conversation_a": [ASK, GOOD], "conversation_b": [ASK, BAD], "winner": "model_a"}, 1.0),
        ({"conversation_a": [ASK, BAD], "conversation_b": [ASK, GOOD], "winner": "model_b"}, 1.0),
        (
            {
                "prompt": "Up?",
                "response_a": "Up.",
                "response_b": "Down.",
                "winner_model_a": 0,
                "winner_model_b": 1,
                "winner_tie": 0,
            },
            1.0,
        ),
        ({"context": [ASK], "response1": "Down.", "response2": "Up.", "overall_preference": -2}, 2.0),
        ({"context": [ASK], "response1": "Up.", "response2": "Down.", "overall_preference": 3}, 3.0),
        ({"prompt": "Up?", "response_1": "Up.", "response_2": "Down.", "preference_strength": 1}, 1.0),
        ({"prompt": "Up?", "response_0": "Up.", "response_1": "Down.", "better_response_id": 1}, 1.0),
        ({"history": "Up?", "human_ref_A": "Down.", "human_ref_B": "Up.", "labels": 1, "score_A": 9, "score_B": 2}, 1.0),
        ({"history": "Up?", "human_ref_A": "Up.", "human_ref_B": "Down.", "labels": 0}, 1.0),
        ({"question": {"full_text": "Up?"}, "answer_0": "Up.", "answer_1": "Down.", "score_0": -0.5, "score_1": 0.5}, 1.0),
        # Pairs: turns as objects, scores of the two sides, a prompt in a conversation or an object.
        (
            {
                "conversations": [{"from": "human", "value": "Up?"}],
                "chosen": {"from": "gpt", "value": "Down."},
                "rejected": {"from": "gpt", "value": "Up."},
            },
            None,
        ),
        ({"prompt": "Up?", "chosen": [ASK, GOOD], "rejected": [ASK, BAD], "score_chosen": 9.0, "score_rejected": 2.0}, 7.0),
        ({"instruction": "Up?", "chosen": "Down.", "rejected": "Up.", "chosen-rating": 5, "rejected-rating": "4.5"}, 0.5),
        ({"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD], "rating_chosen": 5, "rating_rejected": None}, None),
        ({"input": {"messages": [ASK]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]}, None),
        ({"messages": [ASK, GOOD], "rejected_response": "Up."}, None),
        ({"query": "Up?", "response": "Down.", "rejected_response": "Up."}, None),
        # HH as one prompt and two answers: the transcript is the conversation, not the user's words.
        ({"prompt": "\n\nHuman: Up?\n\nAssistant:", "chosen": "Down.", "rejected": "Up."}, None),
    ],
)
def test_two_answers(put: Put, row: dict[str, Any], margin: float | None) -> None:
    assert judged(put, row) == [(UP, "Down.", "Up.", margin)]


def test_a_table_s_cells_hold_turns_as_json_and_elsewhere_such_text_is_text(put: Put) -> None:
    chosen, rejected = json.dumps([ASK, GOOD]), json.dumps([ASK, BAD])
    cells = "".join(f'"{cell.replace(chr(34), chr(34) * 2)}",' for cell in (chosen, rejected))
    pair = read(put("a.csv", f"chosen,rejected,n\n{cells}1\n"), want="pairs").records[0]
    assert (pair.prompt.text, pair.chosen, pair.rejected) == ("Up?", "Down.", "Up.")
    votes = 'prompt,response_a,response_b,winner_model_a\n"[""Up?""]","[""Down.""]","[""Up.""]",1\n'  # Arena's
    assert read(put("b.csv", votes), want="pairs").records[0].chosen == "Down."
    row = {"prompt": json.dumps([ASK]), "completion": json.dumps([GOOD])}
    (told,) = read(put("a.jsonl", [row]), want="demonstrations").records
    assert (told.prompt.text, told.response) == (row["prompt"], row["completion"])
    vote = {"prompt": '["Up?"]', "response_a": '["Down."]', "response_b": '["Up."]', "winner": "a"}
    assert read(put("b.jsonl", [vote]), want="pairs").records[0].chosen == '["Down."]'


@pytest.mark.parametrize(
    ("rows", "scores"),
    [
        # A row an answer: those of one prompt belong together, wherever they stand.
        ([{"prompt": "Up?", "response": r, "score": s} for r, s in (("Down.", 4), ("Up.", 1))], (4, 1)),
        ([{"prompt": "Up?", "response": r, "helpfulness": s, "verbosity": 2} for r, s in (("Down.", 4), ("Up.", 0))], (4, 0)),
        ([{"instruction": "Up?", "output": r, "rating": s} for r, s in (("Down.", "5"), ("Up.", "2.5"))], (5, 2.5)),
        ([{"prompt": "Up?", "completion": r, "label": s} for r, s in (("Down.", True), ("Up.", False))], (1, 0)),
        ([{"prompt": [ASK], "completion": [r], "label": s} for r, s in ((GOOD, "True"), (BAD, "False"))], (1, 0)),
        ([{"messages": [ASK, r], "kto_tag": s} for r, s in ((GOOD, True), (BAD, False))], (1, 0)),
        # Several answers in a row: scores as they are, ranks from the worst (0) up, texts beside their scores.
        ([{"prompt": "Up?", "answers": [{"answer": "Down.", "rank": 1.0}, {"answer": "Up.", "rank": 2.0}]}], (1, 0)),
        (
            [
                {
                    "instruction": "Up?",
                    "completions": [
                        {"response": "Down.", "overall_score": 8.5, "fine-grained_score": 4, "model": "x"},
                        {"response": "Up.", "overall_score": 2.0, "model": "y"},
                    ],
                }
            ],
            (8.5, 2),
        ),
        ([{"prompt": "Up?", "generations": ["Down.", "Up."], "ratings": [5, 1]}], (5, 1)),
    ],
)
def test_scored_answers(put: Put, rows: list[Any], scores: tuple[float, float]) -> None:
    assert judged(put, *rows) == [(UP, {"Down.": scores[0], "Up.": scores[1]})]


def test_nectar_s_prompt_is_a_transcript(put: Put) -> None:
    prompt = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Up?\n\nAssistant: "
    answers = [{"answer": text, "rank": rank, "model": "m"} for text, rank in (("c", 3), ("a", 1), ("b", 2))]
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "Up?")]
    assert judged(put, {"prompt": prompt, "answers": answers}) == [(turns, {"c": 0, "a": 2, "b": 1})]
    # HelpSteer writes later turns with markers of its own.
    row = {"prompt": "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nUp?", "response": "Down.", "helpfulness": 3}
    assert judged(put, row, row | {"response": "Up.", "helpfulness": 1}) == [(turns, {"Down.": 3, "Up.": 1})]


def test_a_tie_and_a_reversed_pair_are_left_out_and_told(put: Put) -> None:
    """Read as pairs of margin 1, as they once were, a tie and a contradiction would teach the judge noise and the opposite."""
    sides = {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]}
    rows = [
        {**sides, "score_chosen": 7.0, "score_rejected": 7.0},
        {**sides, "score_chosen": 3.0, "score_rejected": 6.0},
        {"conversation_a": [ASK, GOOD], "conversation_b": [ASK, BAD], "winner": "tie (bothbad)"},
        {"context": [ASK], "response1": "Down.", "response2": "Up.", "overall_preference": 0},
        {"prompt": "Up?", "chosen": "Down.", "rejected": "Down. "},
        {**sides, "margin": 0},
        {**sides, "margin": -1.5},
        {**sides, "score_chosen": 7.0, "score_rejected": 6.5},
    ]
    found = read(put("a.jsonl", rows), want="comparisons")
    assert [record.margin for record in found.records] == [0.5]
    told = [(problem.where, problem.kind, problem.fatal) for problem in found.problems]
    kinds = ("tied", "reversed", "tied", "tied", "tied", "tied", "reversed")
    assert told == [(f"a.jsonl:{line}:rejected", kind, False) for line, kind in enumerate(kinds, 1)]
    assert found.told_skipped == "2 rows: reversed (a.jsonl:2:rejected, a.jsonl:7:rejected); 5 tied"
    assert [p.message[-2:] for p in found.problems if p.kind == "reversed"] == [" 3", ".5"]
    # They are prompts like others, and their answers can be scored.
    assert len(once_each(read("a.jsonl", want="prompts")).records) == 1
    assert [len(row.answers) for row in read_answers("a.jsonl", [])] == [2] * 8


def test_a_vote_by_other_names(put: Put) -> None:
    row = {"orig_instruction": "Up?", "orig_response_A": "Up.", "orig_response_B": "Down.", "orig_preference": "B"}
    ours = dict(zip(row, ("prompt", "response_a", "response_b", "winner"), strict=True))
    found = read(put("a.jsonl", [row, row | {"orig_preference": "tie"}]), want="comparisons", columns=ours)
    assert [(record.chosen, record.rejected) for record in found.records] == [("Down.", "Up.")] and found.unread == {}
    with pytest.raises(DataError, match="the winner is 'C'") as refused:
        read(put("b.jsonl", [row | {"orig_preference": "C"}]), want="comparisons", columns=ours)
    assert refused.value.todo.startswith("name model_a, model_b or tie")


def test_one_side_may_hold_several_answers(put: Put) -> None:
    assert judged(put, {"prompt": "Up?", "chosen": "a", "rejected": ["b", "c"]}) == [(UP, "a", "b", None), (UP, "a", "c", None)]
    assert judged(put, {"prompt": "Up?", "chosen": ["a"], "rejected": ["a", "b"]}) == [(UP, "a", "b", None)]


def test_an_empty_answer_that_lost_is_a_judgement(put: Put) -> None:
    talk = "\n\nHuman: Up?\n\nAssistant:"
    rows = [
        {"prompt": "Up?", "chosen": "a", "rejected": ""},
        {"chosen": f"{talk} b", "rejected": talk},
        {"chosen": [ASK, GOOD], "rejected": [ASK, BAD | {"content": ""}]},
        {"user_input": "Up?", "responses_and_scores": [{"response": "", "score": 0}, {"response": "c", "score": 1}]},
    ]
    found = read(put("a.jsonl", rows), want="comparisons")
    assert found.problems == ()
    assert [record.responses for record in found.records] == [("a", ""), ("b", ""), ("Down.", ""), ("", "c")]


def test_labels_judge_and_are_never_imitated(put: Put) -> None:
    rows = [{"prompt": f"Say {i}.", "completion": x, "label": x == "Arr"} for i in range(2) for x in ("Arr", "I hate you")]
    name = put("a.jsonl", rows)
    with pytest.raises(DataError, match=r"gives comparisons, not demonstrations") as refused:
        read(name, want="demonstrations")
    assert "name the file in reward.data" in refused.value.todo and "`{label: class}`" in refused.value.todo
    assert len(read(name, want="demonstrations", columns={"label": "class"}).records) == 4
    assert check([name])[0].want == "comparisons" and not check([name])[0].is_refused
    assert [record.pairs().preferences for record in read(name, want="comparisons").records] == [((0, 1, 1.0),)] * 2
    # A label that is a class is somebody's own, and the answer is imitated as before.
    rude = put("b.jsonl", [{"prompt": "Up?", "completion": "Down.", "label": "rude"}])
    assert read(rude, want="demonstrations").unread == {"label": 1}


def test_an_answer_judged_twice_counts_with_the_mean(put: Put) -> None:
    rows = [{"prompt": "Up?", "response": r, "score": s} for r, s in (("a", 4), ("b", 1), ("a", 2), ("b", 1))]
    found = read(put("a.jsonl", rows), want="comparisons")
    (record,) = found.records
    assert [(answer.response, answer.score) for answer in record.answers] == [("a", 3.0), ("b", 1.0)]
    assert sorted(problem.kind for problem in found.problems) == ["duplicate", "judged twice"]


def test_one_file_s_purpose_with_scores(put: Put) -> None:
    """A score beside each answer judges where a prompt has several answers; else it is a column of a file of instructions."""
    several = put("a.jsonl", [{"prompt": "Up?", "response": r, "score": s} for r, s in (("a", 1), ("b", 2))])
    quality = put("b.jsonl", [{"prompt": p, "response": "x", "score": 5} for p in ("a", "b")])
    assert [report.want for report in check([several, quality])] == ["comparisons", "demonstrations"]
    assert read(quality, want="demonstrations").unread == {"score": 2}


def rated(*scores: float, **more: Any) -> dict[str, Any]:
    answers = [{"response": text, "score": score} for text, score in zip("ab", scores, strict=True)]
    return {"user_input": "Up?", "responses_and_scores": answers, **more}


def test_judgements_of_raters_are_each_their_own(put: Put) -> None:
    """Raters agree most of the time, and one of them may judge twice: nothing of that is a duplicate row."""
    rows = [rated(1, 0, rater="r1"), rated(1, 0, rater="r2"), rated(1, 0, rater="r1"), rated(0, 0, rater=7, both_bad=True)]
    found = read(put("a.jsonl", rows), want="comparisons")
    assert [(r.rater, r.scores, r.both_bad) for r in found.records] == [
        ("r1", (1, 0), False),
        ("r2", (1, 0), False),
        ("r1", (1, 0), False),
        ("7", (0, 0), True),
    ]
    assert found.unread == {} and [p.kind for p in found.problems] == ["tied"]
    # A copy of the file holds no new judgement. Without a rater the same row is a duplicate, as in any file.
    twice = read([put("a.jsonl", rows), put("copy.jsonl", rows)], want="comparisons")
    assert len(twice.records) == 4 and sum(p.kind == "duplicate" for p in twice.problems) == 4
    assert len(read(put("b.jsonl", [rated(1, 0), rated(1, 0)]), want="comparisons").records) == 1


@pytest.mark.parametrize("weight", [0, -1, "much", float("nan"), float("inf"), True])
def test_a_judgement_s_weight_is_a_number_above_0(put: Put, weight: Any) -> None:
    name = put("a.jsonl", [rated(1, 0), rated(2, 0, judgement_weight=weight)])
    with pytest.raises(DataError) as refused:
        read(name, want="comparisons", max_bad_rows=None)
    assert refused.value.where == "a.jsonl:2:judgement_weight"
    assert [row.weight for row in read(name, want="comparisons").records] == [1.0]  # one bad row may pass


def test_a_judgement_with_all_its_fields_is_written_and_read(put: Put) -> None:
    rows = [rated(3, 0, rater="r1", judgement_weight=0.5), rated(2, 2, rater="r2", both_bad=True), rated(1, 0)]
    records = read(put("a.jsonl", rows), want="comparisons").records
    assert [record.weight for record in records] == [0.5, 1.0, 1.0]
    written = [scored_row(record) for record in records]
    extra = [{name: value for name, value in row.items() if name != "responses_and_scores"} for row in written]
    assert extra == [
        {"user_input": "Up?", "rater": "r1", "judgement_weight": 0.5},
        {"user_input": "Up?", "rater": "r2", "both_bad": True},
        {"user_input": "Up?"},
    ]
    again = read(put("b.jsonl", written), want="comparisons").records
    assert [replace(record, prompt=records[0].prompt) for record in again] == [
        replace(record, prompt=records[0].prompt) for record in records
    ]
    with pytest.raises(DataError) as refused:
        read(put("c.jsonl", [rated(0, 0, both_bad="yes")]), want="comparisons", max_bad_rows=None)
    assert refused.value.where == "c.jsonl:1:both_bad"


def test_what_is_written_is_read_again(put: Put) -> None:
    rows = [
        {"prompt": "Up?", "completion": "  indented", "label": True},
        {"prompt": "Up?", "completion": "", "label": False},
        {"system": "Brief.", "question": "Left?", "answers": [{"answer": "Right.", "rank": 1}, {"answer": "x", "rank": None}]},
    ]
    found = read(put("a.jsonl", rows), want="scored").records
    assert all(isinstance(record, JudgedPrompt) for record in found) and len(found) == 2
    again = read(put("b.jsonl", [scored_row(record) for record in found]), want="scored").records
    assert [(said(r.prompt), r.answers) for r in again] == [(said(r.prompt), r.answers) for r in found]


@pytest.mark.parametrize("want", ["comparisons", "demonstrations", "labels", "prompts"])
def test_the_fields_that_a_refusal_advises_are_read(put: Put, shown: dict[str, list[Any]], want: Want) -> None:
    with pytest.raises(DataError) as refused:
        read(put("a.jsonl", [{"foo": 1}]), want=want)
    assert f"expected {expected(want)}; other names go into `columns:`" in refused.value.todo
    rows = {" ".join(row): row for part in reversed(shown.values()) for row in part} | {"text": {"text": "x"}}
    rows |= {"text labels": {"text": "x", "labels": ["a"]}, "instruction": {"instruction": "x"}}
    for names in expected(want).partition(";")[0].removeprefix("lines of text | ").split(" | "):
        row = shown["Judgements"][4] if "tree" in names else rows[names.partition(" (")[0]]
        assert len(read(put("b.jsonl", [row]), want=want).records) == 1, names
        columns = {f"their_{name}": name for name in row}
        theirs = {f"their_{name}": value for name, value in row.items()}
        assert len(read(put("c.jsonl", [theirs]), want=want, columns=columns).records) == 1, names


def test_rows_of_another_use_are_sent_where_they_belong(put: Put, shown: dict[str, list[Any]]) -> None:
    for row in (row for part in ("Instructions", "Judgements", "Labels") for row in shown[part]):
        own = next(use for use in SETTING_FOR if format_of(row, use))
        assert read(put("a.jsonl", [row]), want=own).records
        for want in ("comparisons", "demonstrations", "labels"):
            if format_of(row, want) is None:
                with pytest.raises(DataError, match=f"gives {own}, not {want}") as refused:
                    read("a.jsonl", want=want)
                assert f"name the file in {SETTING_FOR[own]}," in refused.value.todo
