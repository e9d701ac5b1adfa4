"""A model judges the collected answers: its votes go to those of people, as a rater of its own."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sawyer.config import Config, required_section
from sawyer.errors import Interrupted, JudgeError
from sawyer.judges import Judge, JudgeSettings, Question, QuestionResult, ordered_grades, rater_name, settings_from
from sawyer.ratings import Choice, Item, Method, RatingSettings, RatingStore, Vote, items_from
from sawyer.records import Problem
from sawyer.runs import Run
from sawyer.train import distributed
from sawyer.train.stage_loop import stop_if_requested


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeTask:
    """An item to judge, the method, and the questions that this takes."""

    item: Item
    method: Method  # score: a question an answer; graded: two, one in each order
    questions: tuple[Question, ...]


def judge_collected(config: Config, run: Run, number: int = 1) -> dict[str, Any]:
    """Have the model judge every collected answer of the run that it has not judged; returns key figures. `number`: the round.

    What was asked before is in the run's cache of replies, so that calling it again costs nothing. Raises JudgeError where
    the endpoint gives no judgement, Interrupted, with all replies kept, once the run was asked to stop.
    """
    section = required_section(config.collect, "collect").judge
    assert section is not None
    settings = settings_from(section.model_dump())
    stage = "collect" if number == 1 else f"collect-{number}"

    def work() -> dict[str, Any]:
        try:
            return _judge_all(run, stage, settings, config.seed)
        except Interrupted:
            return {}  # its processes stop together, below

    figures = distributed.on_rank_zero(work)
    stop_if_requested(run, stage, "while the judge judged; its replies are kept")
    return figures


def _judge_all(run: Run, stage: str, settings: JudgeSettings, seed: int) -> dict[str, Any]:
    methods: dict[str, tuple[Method, ...]] = {"score": ("score",), "pair": ("graded",), "both": ("score", "graded")}
    chosen, problems = methods[settings.method], list[Problem]()
    items = {method: items_from(run.layout, method, problems, seed) for method in chosen}
    for message in dict.fromkeys(problem.message for problem in problems):
        run.journal.event(stage, "warning", message=f"judge: {message}")
    # How people judge is theirs to choose: the judge's own methods stand with its assignments.
    first_settings = None if run.layout.ratings.exists() else RatingSettings(method="graded")
    with (
        RatingStore.open(run.layout.ratings, settings=first_settings) as store,
        Judge.open(
            settings,
            cache=run.layout.judge_cache,
            announce=lambda message: run.journal.event(stage, "warning", message=message),
            on_progress=lambda done, total: run.journal.progress(stage, done, total, "judge"),
            stop_reason=lambda: run.stop.reason,
        ) as judge,
    ):
        store.add_items(item for method in chosen for item in items[method])
        tasks = [_task_of(judge, method, item) for method in chosen for item in items[method]]
        questions = [question for one in tasks for question in one.questions]
        plan = judge.plan(questions)
        run.journal.event(stage, "judge", message=plan.words, calls=plan.calls, price=plan.price)
        results = judge.answer(questions)
        tally = judge.tally()
        if not tally.verdicts:
            raise JudgeError(
                f"the judge {settings.model} gave not one judgement: {tally.words}",
                why="nothing can be learnt from it",
                todo="look at its replies above: another model, a shorter rubric or a larger max_tokens may help",
            )
        num_votes = _store_votes(store, settings, tasks, results)
    num_flipped = _count_flipped(tasks, results)
    figures = {
        "judge_key": settings.judge_key,
        "judge_verdicts": tally.verdicts,
        "judge_unjudged": tally.num_unjudged,
        "judge_flipped": num_flipped,
        "judge_votes": num_votes,
        "judge_calls": tally.calls,
        "judge_prompt_tokens": tally.prompt_tokens,
        "judge_completion_tokens": tally.completion_tokens,
    }
    pairs = sum(one.method == "graded" for one in tasks)
    order = f"; {num_flipped:,} of {pairs:,} pairs changed with the order of their answers and count as ties" if pairs else ""
    run.journal.event(stage, "judge", message=f"{tally.words}{order}", **figures)
    return figures


def _task_of(judge: Judge, method: Method, item: Item) -> JudgeTask:
    texts = [answer.response for answer in item.answers]
    if method == "score":
        return JudgeTask(item=item, method=method, questions=tuple(judge.score_question(item.prompt, text) for text in texts))
    return JudgeTask(item=item, method=method, questions=judge.both_orders(item.prompt, *texts))


def _store_votes(
    store: RatingStore, settings: JudgeSettings, tasks: Sequence[JudgeTask], results: Sequence[QuestionResult]
) -> int:
    """A vote for each item, where the judge's last one says something else; returns how many are new."""
    rater = store.rater(rater_name(settings.model), kind="model")
    rest, votes = iter(results), list[Vote]()
    with store.all_or_nothing():  # one commit for all
        for one in tasks:
            mine = [next(rest) for _ in one.questions]
            choice = _choice_of(one.method, mine)
            order = tuple(range(len(one.item.answers)))
            assignment = store.assign_item(rater, one.item, order, "random", method=one.method)
            if assignment.vote is None or assignment.vote.choice != choice:
                seconds = sum(result.seconds for result in mine)
                votes.append(Vote(id=str(uuid.uuid4()), assignment=assignment.id, choice=choice, seconds=seconds))
        for outcome in store.votes(rater, votes, time.time()):
            if isinstance(outcome, Exception):
                raise outcome
    return len(votes)


def _choice_of(method: Method, results: Sequence[QuestionResult]) -> Choice:
    """The results as a vote. Without a judgement it is a skip, which is counted and teaches nothing."""
    if method == "score":
        scores = tuple(result.verdict.value for result in results)
        return Choice(skip=True) if all(score is None for score in scores) else Choice(scores=scores)
    grade = ordered_grades(*results).grade
    return Choice(skip=True) if grade is None else Choice(grade=grade)


def _count_flipped(tasks: Sequence[JudgeTask], results: Sequence[QuestionResult]) -> int:
    rest, count = iter(results), 0
    for one in tasks:
        mine = [next(rest) for _ in one.questions]
        count += one.method == "graded" and ordered_grades(*mine).is_flipped
    return count
