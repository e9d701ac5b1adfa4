"""Rounds of training: with other judgements the reward model and all that builds on it are made again, the earlier are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sawyer.config import Config, learns_from_collected
from sawyer.pipeline.stage_graph import PARENTS, STAGES, product
from sawyer.pipeline.votes import Snapshot, stored_agreement, stored_rows, take_snapshot, write_snapshot
from sawyer.runs import Layout, Run, count_kept, keep_round, remove_folder
from sawyer.train import distributed

AT_WORK = ("running", "interrupted", "failed")  # a stage that goes on where it was saved
WITH_MODELS = ("base", "classify", "sft", "reward", "rl")


@dataclass(frozen=True, slots=True, kw_only=True)
class VotesPlan:
    """What becomes of the judgements as they are now. Without a snapshot nothing does."""

    snapshot: Snapshot | None = None
    waits_for: str = ""  # the stage at work, which goes on with the judgements that it began with
    stages: tuple[str, ...] = ()  # the stages of the round that is to be kept, which are then done again
    round: int = 1  # the number of the round that learns from the snapshot


def plan_votes(config: Config, run: Run, only: str | None) -> VotesPlan:
    """Whether there are new judgements, and what they change. Nothing is written.

    A stage that is at work goes on with what it began with. `only`: the one stage to do; votes are taken by those that learn
    from them alone.
    """
    learners = [stage for stage in ("reward", "rl") if learns_from_collected(config, stage)]
    if not learners or only not in (None, *learners):
        return VotesPlan()
    return distributed.on_rank_zero(partial(_plan, config, run, learners[0]))


def _plan(config: Config, run: Run, learner: str) -> VotesPlan:
    layout = run.layout
    snapshot = take_snapshot(config, layout, unless=str(stored_agreement(layout).get("key", "")))
    if snapshot is None:
        return VotesPlan()
    stages = _built_on(learner)
    states = {stage: run.manifest.stage(stage).status for stage in stages}
    number = count_kept(layout, learner) + 1
    if snapshot.agreement["rows"] == stored_rows(layout):  # a note or a skip teaches nothing
        return VotesPlan(snapshot=snapshot, round=number)
    if at_work := next((stage for stage in stages if states[stage] in AT_WORK), ""):
        return VotesPlan(snapshot=snapshot, waits_for=at_work, round=number)
    if states[learner] == "pending":
        return VotesPlan(snapshot=snapshot, round=number)
    return VotesPlan(snapshot=snapshot, stages=tuple(s for s in stages if states[s] != "pending"), round=number + 1)


def _built_on(learner: str) -> list[str]:
    """The stage and those that build on it, in order."""
    names = [learner]
    for stage in STAGES:
        if stage not in names and {*PARENTS[stage]} & {*names}:
            names.append(stage)
    return names


def apply_votes(config: Config, run: Run, plan: VotesPlan) -> None:
    """Keep the earlier round where one ends, and write the new judgements. A kill at any moment leaves a state from which
    `plan_votes` and this go on."""
    snapshot = plan.snapshot
    if snapshot is None:
        return
    if plan.waits_for:
        folder = run.layout.folder(plan.waits_for)
        run.journal.event(
            plan.waits_for,
            "waiting",
            message=f"the judgements have changed ({snapshot.words}{_before(run.layout)}): {plan.waits_for} goes on with those "
            f"that it began with; run the same command again when all is done, or delete {folder} to begin with them now",
        )
        return
    if plan.stages:
        run.journal.sync()
        distributed.on_rank_zero(lambda: _keep(config, run, plan.round - 1))
        run.manifest.forget(*plan.stages, "report")
        clear_earlier_round(run)
    has_changed = snapshot.agreement["rows"] != distributed.on_rank_zero(lambda: stored_rows(run.layout))
    if has_changed:
        number = f"round {plan.round}: " * (plan.round > 1)
        run.journal.event("collect", "scored", message=f"{number}{snapshot.words}{_before(run.layout)}")
    distributed.on_rank_zero(lambda: write_snapshot(run.layout, snapshot))


def clear_earlier_round(run: Run) -> None:
    """Remove what a kept round left in the run's own folder: it would be taken for the new round's."""
    layout = run.layout
    if not distributed.on_rank_zero(layout.count_rounds):
        return
    rest = distributed.on_rank_zero(lambda: _left_by_earlier(run))
    folder = layout.round(distributed.on_rank_zero(layout.count_rounds))
    for stage in rest:
        # With this event its gates no longer count.
        run.journal.event(
            stage, "restarted", message=f"{stage} is done again with the new judgements; {folder} keeps the old one"
        )
    if rest:
        distributed.on_rank_zero(lambda: _remove(layout, rest))


def _left_by_earlier(run: Run) -> list[str]:
    stages = [stage for stage in ("reward", "rl", "compare") if run.manifest.stage(stage).status == "pending"]
    return [stage for stage in stages if product(run.layout, stage).exists() or run.layout.folder(stage).exists()]


def _remove(layout: Layout, stages: Sequence[str]) -> None:
    for page in (layout.report, layout.summary):
        page.unlink(missing_ok=True)
    for stage in stages:
        if stage == "compare":
            layout.compare.unlink(missing_ok=True)
        remove_folder(layout.folder(stage))


def _keep(config: Config, run: Run, number: int) -> None:
    settings = run.previous_config or config.model_dump(mode="json")
    keep_round(run.layout, number, WITH_MODELS, settings)


def _before(layout: Layout) -> str:
    """How many judgements the last round had, in brackets; empty for the first."""
    before = stored_agreement(layout).get("judgements")
    return "" if before is None else f" ({before:,} before)"
