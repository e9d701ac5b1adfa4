"""The report on raters: figures of whole ballots, the ceiling, profiles and their flags."""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Mapping

import pytest
from ballots import Ballot, item
from hypothesis import given, settings
from hypothesis import strategies as st

from sawyer.ratings import AgreementReport, Choice, RaterProfile, agreement_report, report_json, training_rows
from sawyer.ratings.rater_profiles import reading_seconds, share_by_prompt
from sawyer.records import Answer, JudgedPrompt, prompt_of
from sawyer.stats import most_accurate, wilson

ceiling = importlib.import_module("sawyer.trust.accuracy_ceiling")


def profiles_of(ballot: Ballot) -> Mapping[str, RaterProfile]:
    return {profile.name: profile for profile in agreement_report(ballot.rated).profiles}


def pairs_of_two(agree: int, disagree: int) -> AgreementReport:
    """One pair a prompt, judged by two raters."""
    ballot = Ballot()
    for i in range(agree + disagree):
        grade = 1 if i % 2 else -1
        ballot.grades(item(f"i{i}", "a", "b"), {"anna": grade, "bob": grade if i < agree else -grade}, method="pair")
    return agreement_report(ballot.rated)


def test_the_ceiling_by_hand() -> None:
    """82 of 100 alike: p^2 + (1 - p)^2 = 0.82 for p = 0.9."""
    report = pairs_of_two(82, 18)
    assert report.same_order.value == 0.82 and report.ceiling.value == pytest.approx(0.9)
    bounds = wilson(82, 100)
    assert report.ceiling.low is not None and report.ceiling.low <= most_accurate(bounds.low)
    assert report.ceiling_words.startswith("these raters cap any reward model at 90 % (")
    assert report.ceiling_words in report.words


def test_too_few_prompts_set_no_ceiling() -> None:
    report = pairs_of_two(15, 4)
    assert report.ceiling.value is None and "19 prompts" in report.ceiling_words and "20 are needed" in report.ceiling_words


def test_repeats_of_one_rater_count_for_the_ceiling_and_not_for_alpha() -> None:
    ballot = Ballot()
    for i in range(30):
        pair, grade = item(f"i{i}", "a", "b"), 1 if i % 2 else -1
        ballot.vote(pair, "anna", Choice(grade=grade))
        ballot.vote(pair, "anna", Choice(grade=-grade), order=(1, 0), pick="repeat")
    report = agreement_report(ballot.rated)
    assert report.self_consistency.value == 1.0 and report.ceiling.value == 1.0 and report.repeats == 30
    assert report.same_order.value is None and "one rater" in report.same_order.reason
    assert report.alphas[0].value is None and "two raters" in report.alphas[0].reason


def test_the_ceiling_is_trust_s() -> None:
    """The agreement that trust reads out of the training rows is the report's, ties, ranks and repeats included."""
    rng = random.Random(3)
    ballot = Ballot()
    for i in range(40):
        pair = item(f"i{i}", "a", "b", prompt=f"p{i % 25}")
        for rater in rng.sample(["anna", "bob", "cleo"], 2):
            order = rng.choice([(0, 1), (1, 0)])
            ballot.vote(pair, rater, Choice(grade=rng.randint(-3, 3)), order=order)
        if i % 4 == 0:
            ranks = tuple(rng.randint(1, 3) for _ in range(3))
            ballot.vote(item(f"k{i}", "a", "b", "c", prompt=f"p{i % 25}"), "anna", Choice(ranks=ranks))
    rows, _ = training_rows(ballot.rated, {})
    records = [
        JudgedPrompt(
            prompt=prompt_of(row["user_input"]),
            answers=tuple(Answer(response=a["response"], score=a["score"]) for a in row["responses_and_scores"]),
        )
        for row in rows
    ]
    trusted = ceiling.agreement(records, 0)
    report = agreement_report(ballot.rated)
    assert report.ceiling.cases == trusted.cases and report.ceiling.prompts == trusted.prompts
    assert report.ceiling.value == pytest.approx(most_accurate(trusted.value))


def test_nothing_one_rater_and_no_overlap_say_why() -> None:
    nothing = agreement_report([])
    assert nothing.same_order.reason == "nobody has judged yet" and not nothing.profiles and not nothing.alphas
    ballot = Ballot()
    ballot.grades(item("i", "a", "b"), {"anna": 1})
    ballot.grades(item("j", "a", "b"), {"bob": 1})
    report = agreement_report(ballot.rated)
    assert "overlap" in report.same_verdict.reason and report.shared_items == 0
    assert "overlap" in report.ceiling_words


def test_ties_agree_in_the_verdict_and_decide_no_order() -> None:
    ballot = Ballot()
    ballot.grades(item("i", "a", "b"), {"anna": 0, "bob": 0})
    ballot.grades(item("j", "a", "b"), {"anna": 0, "bob": 2})
    ballot.grades(item("k", "a", "b"), {"anna": 1, "bob": 3})
    report = agreement_report(ballot.rated)
    assert report.same_verdict.value == pytest.approx(2 / 3) and report.same_verdict.cases == 3
    assert report.same_order.value == 1.0 and report.same_order.cases == 1


def test_items_that_came_by_chance_have_a_figure_of_their_own() -> None:
    ballot = Ballot()
    for i in range(40):
        easy = i < 10  # picked by chance; the uncertain ones are hard
        ballot.grades(item(f"i{i}", "a", "b"), {"anna": 1, "bob": 1 if easy else -1}, pick="random" if easy else "uncertain")
    report = agreement_report(ballot.rated)
    assert report.same_order.value == 0.25 and report.same_order_random.value == 1.0


def test_an_adjudication_does_not_count_as_a_rater() -> None:
    ballot = Ballot()
    ballot.grades(item("i", "a", "b"), {"anna": 1, "bob": -1})
    ballot.vote(ballot.items["i"], "owner", Choice(grade=1), pick="adjudication")
    report = agreement_report(ballot.rated)
    assert report.raters == 2 and report.judgements == 2 and report.same_order.value == 0.0
    assert [profile.name for profile in report.profiles] == ["anna", "bob"]


def test_scores_and_ranks_with_missing_judgements_by_hand() -> None:
    """Scores (7, 5, -) and (8, 6, 2): the two answers that both judged are ordered alike: tau-b 1. Ranks with a tie: (1, 2, 2)
    and (1, 2, 3): 2 / sqrt(2 * 3)."""
    ballot = Ballot()
    three = item("s", "a", "b", "c")
    ballot.vote(three, "anna", Choice(scores=(7, 5, None)))
    ballot.vote(three, "bob", Choice(scores=(2, 6, 8)), order=(2, 1, 0))
    ballot.vote(item("r", "a", "b", "c"), "anna", Choice(ranks=(1, 2, 2)))
    ballot.vote(ballot.items["r"], "bob", Choice(ranks=(3, 2, 1)), order=(2, 1, 0))
    report = agreement_report(ballot.rated)
    by_name = {figure.name: figure for figure in (*report.alphas, *report.taus)}
    assert by_name["tau-b of scores"].value == 1.0
    assert by_name["tau-b of ranks"].value == pytest.approx(2 / 6**0.5)
    # Interval alpha of the units (7, 8) and (5, 6): D_o = 1. Squares of the pairs of 7, 8, 5, 6:
    # 1 + 4 + 1 + 9 + 4 + 1 = 20, D_e = 20/6.
    assert by_name["alpha of scores, interval"].value == pytest.approx(1 - 1 / (20 / 6))


def test_raters_without_a_vote_do_not_count() -> None:
    ballot = Ballot()
    for i in range(25):
        ballot.grades(item(f"i{i}", "a", "b"), {"anna": 1, "bob": 1, "cleo": -1})
    assert agreement_report(ballot.rated).same_order.value == pytest.approx(1 / 3)
    assert agreement_report(ballot.rated, without=["CLEO "]).same_order.value == 1.0


# Profiles


def flagged(**raters: str) -> Mapping[str, RaterProfile]:
    """120 pairs judged by honest Anna and Bob, who are right in 85 % and see the sides by lot, and by others of these kinds."""
    rng = random.Random(11)
    ballot = Ballot()
    for i in range(120):
        pair = item(f"i{i}", "word " * rng.randint(5, 40), "other " * rng.randint(5, 40))
        truth = rng.choice([-2, -1, 1, 2])
        for rater, kind in ({"anna": "honest", "bob": "honest"} | raters).items():
            order = rng.choice([(0, 1), (1, 0)])
            lengths = [len(pair.answers[j].response) for j in order]
            seconds = 0.2 if kind == "fast" else rng.uniform(8, 30)
            right = truth if rng.random() < 0.85 else -truth
            grade = {
                "left": -1,
                "right": 2,
                "long": (lengths[1] > lengths[0]) - (lengths[1] < lengths[0]),
                "short": (lengths[1] < lengths[0]) - (lengths[1] > lengths[0]),
                "tie": 0,
                "contrary": truth if order == (1, 0) else -truth,
            }.get(kind, -right if order == (1, 0) else right)
            ballot.vote(pair, rater, Choice(grade=grade), order=order, seconds=seconds)
    return profiles_of(ballot)


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ("left", "always left"),
        ("right", "always right"),
        ("long", "always the longer answer"),
        ("short", "always the shorter answer"),
        ("tie", "ties nearly everything"),
        ("fast", "faster than can be read"),
        ("contrary", "disagrees with the others"),
    ],
)
def test_each_flag_and_no_other_rater_s(kind: str, start: str) -> None:
    profiles = flagged(odd=kind)
    assert any(flag.startswith(start) for flag in profiles["odd"].flags), profiles["odd"].flags
    assert not profiles["anna"].flags and not profiles["bob"].flags


def test_the_same_score_for_everything_is_flagged_and_a_few_are_not() -> None:
    def scored(count: int) -> RaterProfile:
        ballot = Ballot()
        for i in range(count):
            ballot.vote(item(f"i{i}", "a", "b", "c"), "lazy", Choice(scores=(8, 8, 8)))
        return profiles_of(ballot)["lazy"]

    assert any(flag.startswith("the same score for everything: 8 ") for flag in scored(60).flags)
    assert scored(4).flags == (), "four items alike are no habit"
    assert scored(4).commonest_score.value == 1.0


def test_repeats_show_who_follows_the_side() -> None:
    ballot = Ballot()
    for i in range(40):
        pair = item(f"i{i}", "a", "b")
        ballot.vote(pair, "left", Choice(grade=-1), order=(0, 1))
        ballot.vote(pair, "left", Choice(grade=-1), order=(1, 0), pick="repeat")
        grade = 1 if i % 2 else -1
        ballot.vote(pair, "true", Choice(grade=grade), order=(0, 1))
        ballot.vote(pair, "true", Choice(grade=-grade), order=(1, 0), pick="repeat")
    profiles = profiles_of(ballot)
    assert profiles["left"].self_consistency.value == 0.0 and profiles["left"].same_side_left == 40
    assert any(flag.startswith("contradicts itself") for flag in profiles["left"].flags)
    assert profiles["true"].self_consistency.value == 1.0 and profiles["true"].same_side_left == 0
    assert profiles["true"].flags == () and profiles["true"].left_share.value == 0.5


def test_speed_is_of_first_revisions_of_people_with_a_known_time() -> None:
    ballot = Ballot()
    long = "word " * 1000
    for i, (seconds, revision) in enumerate([(2.0, 1), (200.0, 1), (1.0, 2), (0.0, 1)]):
        ballot.vote(item(f"i{i}", long, long + "more"), "anna", Choice(grade=1), seconds=seconds, revision=revision)
        ballot.vote(ballot.items[f"i{i}"], "model", Choice(grade=1), seconds=0.1, kind="model")
    profiles = profiles_of(ballot)
    assert profiles["anna"].too_fast_share.value == 0.5 and profiles["anna"].too_fast_share.cases == 2
    assert profiles["anna"].median_seconds == 101.0
    assert profiles["model"].too_fast_share.value is None, "a model does not read as people do"
    assert reading_seconds(["one two three", "四五"]) == pytest.approx(5 * 60 / 1000)


def test_a_profile_s_counts() -> None:
    ballot = Ballot()
    ballot.vote(item("i", "a", "bb"), "anna", Choice(grade=0, both_bad=True), rewrite="better")
    ballot.vote(item("j", "a", "bb"), "anna", Choice(skip=True), rewrite=" ")
    ballot.vote(item("k", "a", "bb"), "anna", Choice(grade=2), order=(1, 0))
    profile = profiles_of(ballot)["anna"]
    assert (profile.items, profile.votes, profile.skips, profile.ties, profile.both_bad, profile.rewrites) == (3, 3, 1, 1, 1, 1)
    assert profile.longer_share.value == 0.0, "the second shown is the item's first, and shorter"
    assert profile.left_share.value == 0.0 and profile.agreement.value is None


def test_a_share_by_prompt_counts_prompts_not_cases() -> None:
    """30 prompts of 10 cases that all go one way: worth 30 trials, as p (1 - p) / v = 30 * 29 / 30."""
    blocks = share_by_prompt("", [(10.0, 10.0), (0.0, 10.0)] * 15, "")
    expected = wilson(0.5 * 29, 29)
    assert blocks.low == pytest.approx(expected.low) and blocks.high == pytest.approx(expected.high)
    single = share_by_prompt("", [(1.0, 1.0), (0.0, 1.0)] * 150, "")
    assert single.low == pytest.approx(wilson(0.5 * 299, 299).low), "one case a prompt: as many trials, less one"
    few = share_by_prompt("", [(10.0, 10.0)] * 5, "")
    assert few.low == pytest.approx(wilson(5, 5).low)


@pytest.mark.slow
def test_honest_raters_are_rarely_flagged() -> None:
    """Twenty honest raters in thirty reports: at most a few of the reports may flag one of them."""
    flags = 0
    for seed in range(30):
        rng = random.Random(seed)
        ballot = Ballot()
        for i in range(150):
            pair = item(f"i{i}", "word " * rng.randint(5, 40), "other " * rng.randint(5, 40))
            truth = rng.choice([-1, 1])
            for rater in rng.sample(range(20), 3):
                order = rng.choice([(0, 1), (1, 0)])
                verdict = truth if rng.random() < 0.8 else -truth
                ballot.vote(pair, f"rater {rater}", Choice(grade=-verdict if order == (1, 0) else verdict), order=order)
        flags += any(profile.flags for profile in agreement_report(ballot.rated).profiles)
    assert flags <= 4


grades = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["anna", "bob", "cleo"]), st.integers(-3, 3), st.booleans(), st.booleans()),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(grades)
def test_any_ballot_has_a_report_that_is_json(votes: list[tuple[int, str, int, bool, bool]]) -> None:
    ballot = Ballot()
    for number, rater, grade, is_turned, is_skip in votes:
        pair = item(f"i{number}", "a", "bb", prompt=f"p{number % 3}")
        choice = Choice(skip=True) if is_skip else Choice(grade=grade)
        ballot.vote(pair, rater, choice, order=(1, 0) if is_turned else (0, 1), seconds=grade + 3)
    report = agreement_report(ballot.rated)
    text = json.dumps(report_json(report), allow_nan=False)
    assert json.loads(text)["ceiling_words"] == report.ceiling_words
    for figure in (report.same_verdict, report.same_order, *report.alphas, report.ceiling):
        if figure.value is None:
            assert figure.reason and figure.low is None
        else:
            assert figure.low is not None and figure.high is not None and figure.low <= figure.value <= figure.high
            assert not figure.reason


def test_the_work_grows_with_the_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Votes are looked at a few times each, not once for each vote: 10,000 items would take minutes."""
    looks = 0
    report_module = importlib.import_module("sawyer.ratings.agreement_report")
    random_items = report_module._random_items

    def count(*arguments: object) -> object:
        nonlocal looks
        looks += 1
        return random_items(*arguments)

    monkeypatch.setattr(report_module, "_random_items", count)
    pairs_of_two(30, 10)
    assert looks == 1
