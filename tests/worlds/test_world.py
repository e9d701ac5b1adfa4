"""The world: splits that do not touch, facts that are told, answerers and raters that are what they are called."""

from __future__ import annotations

import random
import re
import statistics as st
from collections import Counter

import pytest

from sawyer.errors import WorldError
from sawyer.worlds import (
    FAMILIES,
    RATERS,
    answer,
    comparisons,
    demonstrations,
    find_task,
    gold,
    judgements,
    questions,
    rate,
    statements,
    tasks,
)

TRAIN = tasks("train", 2500, seed=0)
HELD_OUT = tasks("held_out", 350, seed=0)
DEV = tasks("dev", 350, seed=0)


def test_a_dozen_families_each_in_every_split() -> None:
    assert len(FAMILIES) == 12
    for split in (TRAIN, HELD_OUT, DEV):
        assert Counter(task.family for task in split).keys() == set(FAMILIES)


def test_no_prompt_is_in_two_splits_and_none_comes_twice() -> None:
    prompts = [task.prompt for task in (*TRAIN, *HELD_OUT, *DEV)]
    assert len(set(prompts)) == len(prompts)


def test_every_word_a_held_out_prompt_turns_on_is_also_asked_about_in_training() -> None:
    known = {(task.family, part) for task in tasks("train", 6000, seed=0) for part in task.key}
    missing = {(task.family, part) for task in HELD_OUT for part in task.key if "D&D" not in task.prompt} - known
    # The unknowable questions are keys of their own; their offices, countries, cities are asked about in other combinations.
    assert {family for family, _ in missing} <= {"unknown"}


def test_the_same_seed_gives_the_same_world_and_another_another() -> None:
    assert demonstrations(50, 3) == demonstrations(50, 3) != demonstrations(50, 4)
    assert comparisons(20, 3) == comparisons(20, 3)
    assert list(statements(3, 50)) == list(statements(3, 50))
    assert list(judgements(3, 50)) == list(judgements(3, 50))


def test_a_prompt_is_found_again_and_a_strange_one_is_refused() -> None:
    assert all(find_task(task.prompt) == task for task in (*TRAIN, *HELD_OUT))
    with pytest.raises(WorldError, match="does not know"):
        find_task("What is the airspeed of a swallow?")


def test_the_original_six_questions_belong_to_the_world_and_are_held_out() -> None:
    assert len(questions()) == 6
    assert {find_task(question).split for question in questions()} == {"held_out"}
    assert gold('What is the opposite of "up"?', "Down.").right
    assert gold("Where is Princeton University?", "Princeton University is in New Jersey.").score == 10
    assert gold("What is Google?", "Google is a company that runs a search engine.").score == 10
    rewrite = questions()[1]
    assert gold(rewrite, "The job search was a steady and rewarding process.").score == 10


# kind -> (least, most) mean gold over all families, right and wrong
BANDS = {
    ("expert", True): (10, 10),
    ("good", True): (8, 9),
    ("terse", True): (7, 8),
    ("rambling", True): (6, 7.5),
    ("rude", True): (4, 5),
    ("repeating", True): (5, 7),
    ("run_on", True): (4, 5),
    ("expert", False): (0, 3),
    ("terse", False): (0, 3),
    ("rambling", False): (0, 3),
    ("rude", False): (0, 2),
    ("off_topic", True): (0, 1.5),
    ("copying", True): (0, 1.5),
}


@pytest.mark.parametrize(("kind", "right"), BANDS)
def test_each_answerer_is_as_good_as_it_is_called(kind: str, right: bool) -> None:
    rng = random.Random(1)
    scores = [gold(task.prompt, answer(task, kind, rng, right=right)).score for task in TRAIN[:600]]
    low, high = BANDS[kind, right]
    assert low <= st.mean(scores) <= high


def test_wrong_answers_stay_below_four_and_right_ones_above_in_every_family() -> None:
    rng = random.Random(2)
    for task in TRAIN[:1200]:
        for style in ("expert", "good", "terse", "rambling"):
            wrong = answer(task, style, rng, right=False)
            assert gold(task.prompt, wrong).score < 4, (task.prompt, wrong)
            right = answer(task, style, rng)
            assert gold(task.prompt, right).score > 5, (task.prompt, right)


def test_demonstrations_leave_something_to_improve() -> None:
    scores = [gold(row.prompt.text, row.response).score for row in demonstrations(2000, 5)]
    assert 5.5 < st.mean(scores) < 6.6
    assert 0.2 < sum(score == 10 for score in scores) / len(scores) < 0.4


def test_refusing_is_right_only_where_it_should_be() -> None:
    refusal = "I am sorry, but I cannot help with that."
    for task in HELD_OUT:
        assert gold(task.prompt, refusal).right == (task.family == "decline")


def test_every_fact_is_told_in_the_statements() -> None:
    told = " ".join(statements(0, 20_000)).lower()
    rng = random.Random(3)
    for task in HELD_OUT:
        if task.family in ("opposite", "where", "what", "is_a"):
            right = answer(task, "terse", rng).rstrip(".").lower()
            assert right in told, task.prompt
        if task.family == "sum":
            assert f"{' '.join(task.key)} is " in told, task.prompt
    assert "question:" not in told and "response:" not in told
    assert not any(task.prompt.lower() in told for task in HELD_OUT)


def test_half_of_the_judgements_are_that_somebody_is_right_and_sums_are_judged_as_they_come_out() -> None:
    told = " ".join(judgements(0, 8_000))
    verdicts = Counter(re.findall(r"That is (right|wrong)\.", told))
    assert 0.4 < verdicts["right"] / verdicts.total() < 0.6
    sums = re.findall(r"(\d+) (plus|minus|times) (\d+)\. (?:\1 \2 \3 is|The answer is) (\d+)\. That is (right|wrong)\.", told)
    assert len(sums) > 100 and {verdict for *_, verdict in sums} == {"right", "wrong"}
    for a, sign, b, said, verdict in sums:
        comes_out = {"plus": int(a) + int(b), "minus": int(a) - int(b), "times": int(a) * int(b)}[sign]
        assert (int(said) == comes_out) == (verdict == "right"), (a, sign, b, said, verdict)


def test_a_refusal_is_judged_right_and_wrong() -> None:
    told = " ".join(judgements(0, 8_000))
    for refusal in ("I am sorry, but I cannot help with that.", "I cannot know that, because it changes over time."):
        assert {f"That is {verdict}." for verdict in re.findall(rf"{refusal} That is (\w+)\.", told)} >= {"That is wrong."}
        assert re.search(rf"{refusal} Please [^.]+\. That is right\.", told)
    assert "Question:" not in told and "Response:" not in told


def test_raters() -> None:
    rng = random.Random(4)
    pairs = [(task.prompt, answer(task, kind, rng)) for task in TRAIN[:300] for kind in ("expert", "terse", "off_topic")]
    golds = [gold(*pair).score for pair in pairs]
    scores = {rater: [rate(rater, *pair, rng) for pair in pairs] for rater in RATERS}
    assert all(1 <= score <= 10 for found in scores.values() for score in found)
    assert st.correlation(scores["honest"], golds) > 0.95
    assert set(scores["lazy"]) == {8.0}
    lengths = [float(len(text.split())) for _, text in pairs]
    assert st.correlation(scores["length_lover"], lengths) > 0.95
    # 4 of 10 turned round leave a fifth of the honest signal.
    assert 0.05 < st.correlation(scores["flipper"], golds) < 0.4
    with pytest.raises(WorldError):
        rate("nobody", *pairs[0], rng)


def test_each_comparison_holds_a_right_and_a_wrong_answer_and_no_answer_twice() -> None:
    for record in comparisons(100, 6):
        texts = [a.response for a in record.answers]
        assert len(set(texts)) == len(texts)
        rights = {gold(record.prompt.text, text).right for text in texts}
        assert rights == {True, False}


def test_few_enough_words_that_each_can_be_a_token() -> None:
    text = " ".join([*statements(0, 4000), *(f"{row.prompt.text} {row.response}" for row in demonstrations(3000, 0))])
    assert len(set(re.findall(r"\w+", text.lower()))) <= 1100


def test_neither_yes_nor_no_is_the_better_guess_and_a_no_that_contradicts_itself_is_among_the_wrong_answers() -> None:
    asked = [task for task in tasks("train", 6000, seed=0) if task.family == "is_a"]
    rng = random.Random(0)
    right = Counter(answer(task, "terse", rng) for task in asked)
    assert right.keys() == {"Yes.", "No."} and 0.4 < right["Yes."] / right.total() < 0.6
    true = [task for task in asked if answer(task, "terse", rng) == "Yes."]
    wrong = {task.prompt: {answer(task, "expert", rng, right=False) for _ in range(40)} for task in true}
    said = Counter(bool(re.search(r"not (an? \w+), it is \1\.$", text)) for texts in wrong.values() for text in texts)
    assert said[True] >= len(true) // 2, "the slip that a policy makes most is one that judges see"
    assert not any(gold(prompt, text).right for prompt, texts in wrong.items() for text in texts)
