"""Damage: what is done to an answer, and what counts as a win."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from judges import Scorer, record, table

from sawyer.records import Prompt
from sawyer.trust import Figure, Probe, trust
from sawyer.trust.judged_answers import score_prompts
from sawyer.trust.probes import DAMAGES, probe

BEST = "It is the capital of France"
RECORDS = [record("p", (BEST, 9.0), ("no", 1.0)), record("q", ("Yes", 9.0), ("maybe", 1.0))]


def probed(scorer: Scorer, records: Sequence = RECORDS) -> tuple[dict[str, Probe], Figure]:
    probes, together = probe(scorer, score_prompts(records, scorer), seed=0)
    return {one.name: one for one in probes}, together


def test_each_kind_of_damage_is_tried_on_the_best_answer() -> None:
    seen: list[tuple[str, str]] = []

    def scorer(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        seen.extend((prompt.text, response) for prompt, response in zip(prompts, responses, strict=True))
        return [0.0 if response in (BEST, "Yes", "no", "maybe") else -1.0 for response in responses]

    found, _ = probed(scorer)
    of_first = [response for prompt, response in seen if prompt == "p"][2:]  # the judged answers come first
    assert of_first[0] == f"{BEST} {BEST}"
    assert sorted(of_first[1].split()) == sorted(BEST.split())
    assert of_first[1] != BEST
    assert of_first[2:] == ["Yes", "", f"Thank you so much for this great question! {BEST} I hope this helps you!", "It is the"]
    # An answer of one word cannot be shuffled or cut.
    tried = {name: one.wins.cases for name, one in found.items()}
    # The other prompt's best answer has the same score here: neither a win nor a loss.
    assert tried == {"twice": 2, "shuffled": 1, "other_prompt": 0, "empty": 2, "pleasantries": 2, "truncated": 1}
    assert set(tried) == set(DAMAGES) and found["other_prompt"].unseen == 2
    assert all(one.wins.value == 0 for one in found.values() if one.wins.cases)


def test_wins_are_counted_over_all_that_was_tried() -> None:
    found, together = probed(lambda _, responses: [float(len(response)) for response in responses])
    # Won: twice 2 of 2, pleasantries 2 of 2, and for the second prompt the first one's answer; tried: 10,
    # of which the shuffled one is as long as it was.
    assert (together.value, together.cases, together.prompts) == (5 / 9, 9, 2)
    assert {name: one.unseen for name, one in found.items() if one.unseen} == {"shuffled": 1}
    assert {name: one.wins.value for name, one in found.items() if one.wins.cases} == {
        "twice": 1.0,
        "other_prompt": 0.5,
        "empty": 0.0,
        "pleasantries": 1.0,
        "truncated": 0.0,
    }


def test_the_example_is_where_the_damaged_answer_comes_off_best() -> None:
    found, _ = probed(table({BEST: 2.0, "Yes": 1.0, f"{BEST} {BEST}": 1.5, "Yes Yes": 3.0, "": 0.5}))
    twice, empty = found["twice"].example, found["empty"].example
    assert twice is not None and (twice.prompt, twice.whole, twice.damaged_answer) == ("q", "Yes", "Yes Yes")
    assert (twice.whole_reward, twice.damaged_reward) == (1.0, 3.0)
    # Nowhere does the empty one win; it comes closest where it lacks half a point.
    assert empty is not None and (empty.prompt, empty.whole_reward, empty.damaged_reward) == ("q", 1.0, 0.5)


def test_an_answer_damaged_into_itself_is_not_tried() -> None:
    assert probed(table({}), [record("p", ("same same same same", 2.0), ("x", 1.0))])[0]["shuffled"].wins.cases == 0
    alone = probed(table({}), [record("p", ("alone", 2.0), ("x", 1.0))])[0]["other_prompt"]
    assert alone.wins.cases == 0 and alone.example is None


def test_an_answer_that_nobody_preferred_is_not_damaged() -> None:
    found = trust(table({}), [record("p", ("one", 8.0), ("other", 8.0))])
    assert found.corrupted_win_rate.cases == 0 and all(one.wins.cases == 0 for one in found.probes)


def test_damage_beyond_what_a_model_reads_shows_nothing() -> None:
    """It counts the first ten letters; rounding puts the longer text ahead by a millionth a letter."""

    def scorer(_: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        return [len(response[:10]) + 1e-6 * len(response) for response in responses]

    found, together = probed(scorer)
    # Of `BEST` it sees the first ten letters: 10. Said twice, shuffled and between pleasantries it has ten as well; "Yes" it
    # sees whole: 3. (cases, won, unseen), by hand:
    assert {name: (one.wins.cases, one.wins.value * one.wins.cases, one.unseen) for name, one in found.items()} == {
        "twice": (1, 1, 1),  # "Yes Yes": 7
        "shuffled": (0, 0, 1),
        "other_prompt": (2, 1, 0),
        "empty": (2, 0, 0),
        "pleasantries": (1, 1, 1),
        "truncated": (1, 0, 0),  # "It is the": 9
    }
    assert (together.value, together.cases) == (pytest.approx(3 / 7), 7) and found["shuffled"].example is None
    leads = [scorer([], [f"{text} {text}"])[0] > scorer([], [text])[0] for text in (BEST, "Yes")]
    assert leads == [True, True], "where any lead is a win, rounding wins"
