"""A judge that is a model: when it judges answers that lie there already, and when its votes become judgements."""

from __future__ import annotations

from importlib import import_module

from sawyer.config import Config
from sawyer.judges import settings_from
from sawyer.pipeline.training_rounds import apply_votes, plan_votes
from sawyer.runs import Run, collected_files
from sawyer.train import distributed


def judge_earlier_answers(config: Config, run: Run, only: str | None) -> None:
    """Have the judge judge the answers that are there, unless this judge has done so. The last collection's figures say so.

    No call is made twice. Raises JudgeError for settings that cannot be and an endpoint of no use, Interrupted.
    """
    judge = config.collect.judge if config.collect is not None else None
    if judge is None or only not in (None, "collect"):
        return
    number = distributed.on_rank_zero(lambda: len(collected_files(run.layout)))
    state = run.manifest.stage(run.layout.collection(max(1, number)))
    # A first collection that is at work, or failed, calls the judge itself, once its answers are all there.
    if number == 0 or (number == 1 and state.status not in ("done", "waiting")):
        return
    if state.figures.get("judge_key") == settings_from(judge.model_dump()).judge_key:
        return
    figures = import_module("sawyer.stages.collect").judge_collected(config, run, number)
    run.manifest.update(run.layout.collection(number), figures={**state.figures, **figures})


def take_judge_votes(config: Config, run: Run, stage: str, only: str | None) -> None:
    """After the stage `collect` of a whole run: the judge's votes become judgements of the stages that follow."""
    if stage == "collect" and only is None and config.collect is not None and config.collect.judge is not None:
        apply_votes(config, run, plan_votes(config, run, only))
