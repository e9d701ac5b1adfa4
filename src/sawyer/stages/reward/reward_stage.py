"""Train the reward model on groups of judged answers; set its zero and unit; check it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sawyer import processes
from sawyer.config import Config, left_out, required_section, start_of
from sawyer.errors import DataError
from sawyer.maths import JudgedBatch, ScoreNormalizer, linear_schedule
from sawyer.models import (
    FrozenLayers,
    LanguageModel,
    RewardModel,
    freeze,
    lora_summary,
    new_reward_model,
    open_language_model,
    sample,
    sequence_logits,
)
from sawyer.records import Prompt, named
from sawyer.runs import Run, replace_folder, write_json
from sawyer.stages.reward.ensemble_training import EnsembleLoop, as_trained, calibrated, member_seed, save_members
from sawyer.stages.reward.judged_groups import AS_THEY_ARE, STAGE, Group, Judgements, judged, load
from sawyer.stages.reward.loss_choice import checked_loss, objective
from sawyer.stages.reward.prompt_dedup import thinned
from sawyer.stages.reward.reward_trust import examine, gold_accuracy, judge, own_judged
from sawyer.text import Batch, find_unrenderable, pad_right
from sawyer.train import OptimizerStep, Placement, batch_indices, choose_device, generator, losses_of, run_steps, stop_if_asked
from sawyer.trust import as_json, told


def train(config: Config, run: Run) -> dict[str, Any]:
    """Train, calibrate, save and examine the reward model; returns its key figures."""
    asked = required_section(config.reward, "reward")
    run.layout.trust.unlink(missing_ok=True)  # an earlier model's
    speaker = opened_policy(config, run)
    reader = opened(config, run, 0)
    place = choose_device(config.device, config.precision, width=reader.width)
    checked_loss(asked.loss)
    judgements = thinned(config, run, speaker or reader, place, load(config, run, reader))
    asked_first = _answerable(judgements, speaker, run)[: asked.calibration_prompts] if speaker is not None else []
    frozen = freeze(reader.model, asked.freeze, setting="reward.freeze") if asked.freeze else None

    def begin(number: int) -> tuple[nn.Module, RewardLoop]:
        model = reader.model if number == 0 else opened(config, run, number).model
        if asked.freeze:
            freeze(model, asked.freeze, setting="reward.freeze")
        model.to(place.device)
        seeded = config.model_copy(update={"seed": member_seed(config.seed, number)})
        return model, RewardLoop(seeded, place, model, reader.prompt_encoder.pad_id, judgements.train, judgements.standard)

    ensemble = asked.ensemble
    work: EnsembleLoop | RewardLoop
    if ensemble is not None and ensemble.by == "seeds":
        work = EnsembleLoop(ensemble.members, begin, run.layout.members(STAGE))
    else:
        _, work = begin(0)
    plan = _plan(config, judgements, work.steps, place, reader, frozen)
    run.journal.event(STAGE, "plan", message=plan, unread=dict(judgements.unread))
    steps = run_steps(run, STAGE, work, save_every_seconds=config.save_every_seconds)
    stop_if_asked(run, STAGE)

    if speaker is not None:
        speaker.model.to(place.device)
        own = own_answers(config, place, speaker, asked_first)
    else:
        own = filed_answers(judgements, asked.calibration_prompts)
        run.journal.event(STAGE, "left_out", message=left_out(config, STAGE))
    scorer = calibrated(reader, work.models, ensemble, own)
    extra = {"reward_shift": scorer.shift, "reward_scale": scorer.scale}
    with replace_folder(run.layout.model(STAGE)) as folder:
        standard = {"score_mean": judgements.standard.mean, "score_scale": judgements.standard.scale}
        save_members(folder, reader, scorer, ensemble, {**standard, "loss": asked.loss})
    if scorer.ensemble.own_disagreement is not None:
        extra["own_disagreement"] = scorer.ensemble.own_disagreement

    stop_if_asked(run, STAGE)
    raw, known = as_trained(scorer), config.world is not None
    true = own_judged(config, partial(own_answers, config, place, speaker)) if known and speaker is not None else ()
    found, figures = examine(raw, judgements, asked.loss, by=asked.normalize_by, seed=config.seed, world=known, own=true)
    figures |= gold_accuracy(true, raw) if true else {}
    verdict = told(found)
    write_json(run.layout.trust, as_json(found, verdict))
    figures |= {**losses_of(run, STAGE), **extra}
    run.journal.metrics(STAGE, steps, {name: value for name, value in figures.items() if isinstance(value, float)})
    run.journal.event(STAGE, "verdict", message=verdict.words)
    for gate in judge(figures, found.probes):
        run.journal.gate(gate)
    return figures


def opened_policy(config: Config, run: Run) -> LanguageModel | None:
    """The model whose answers RL begins from, which set the reward's zero and unit; None: a reward model is trained alone."""
    start = start_of(config, "rl") if config.has_policy else None
    return None if start is None else open_language_model(start.path(run.layout.model), start.template)


def opened(config: Config, run: Run, number: int) -> RewardModel:
    """The network of an ensemble's member `number`, before training: new heads on the trunk that the config names, else on the
    SFT model's, else on the run's own model's."""
    reward = required_section(config.reward, "reward")
    heads = reward.ensemble.members if reward.ensemble is not None and reward.ensemble.by == "heads" else 1
    start, seed = start_of(config, STAGE), member_seed(config.seed, number)
    assert start is not None
    source = start.path(run.layout.model)
    return new_reward_model(source, seed=seed, heads=heads, template=start.template, fallback=config.template, lora=config.lora)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardMinibatch:
    """Some groups of a batch: their answers as one padded batch, and what the judges said of its rows."""

    batch: Batch  # (N, T), each answer once
    judged: JudgedBatch


class RewardLoop:
    """The optimizer steps of the reward model, one batch of prompts with all their answers each."""

    def __init__(
        self,
        config: Config,
        place: Placement,
        model: nn.Module,
        pad_id: int,
        groups: Sequence[Group],
        standard: ScoreNormalizer = AS_THEY_ARE,
    ) -> None:
        reward = required_section(config.reward, "reward")
        self.config, self.asked, self.place, self.model = config, reward, place, model
        self.pad_id, self.groups, self.standard = pad_id, groups, standard
        self.aim = objective(reward)
        self.total = max(1, round(reward.epochs * len(groups)))
        self.steps = math.ceil(self.total / reward.batch_size)
        factor = partial(linear_schedule, steps=self.steps, warmup_steps=math.ceil(reward.warmup_fraction * self.steps))
        self.learner = OptimizerStep(model, name=STAGE, learning_rate=reward.learning_rate, factor=factor)

    def step(self, index: int) -> Mapping[str, float]:
        chosen = batch_indices(
            len(self.groups), self.asked.batch_size, index, total=self.total, seed=self.config.seed, stage=STAGE
        )
        groups = [self.groups[i] for i in chosen]
        pairs = sum(len(group.pairs) for group in groups)
        right: list[float] = []
        mine = processes.dealt(groups, lambda group: sum(len(row.ids) for row in group.rows))
        parts = list(split_groups(mine, self.pad_id, self.config.micro_batch_tokens, self.standard))
        (count,) = processes.summed(sum(self.aim.count(part.judged) for part in parts))
        update = self.learner.update(parts, lambda part: self.loss(part, right), count)
        return {
            "loss": update.loss,
            **({"accuracy": processes.summed(sum(right))[0] / pairs} if pairs else {}),
            "learning_rate": update.learning_rate,
            "grad_norm": update.grad_norm,
            "pairs": pairs,
        }

    def loss(self, part: RewardMinibatch, right: list[float]) -> Tensor:
        """The weighted sum of the part's losses, averaged over the model's heads; the number of pairs that the heads' mean
        ranks rightly is appended to `right`."""
        with self.place.autocast():
            heads = sequence_logits(self.model, part.batch.to(self.place.device)).float()  # (N, H)
        said, scores = part.judged.to(heads.device), heads.detach().mean(1)
        right.append(float((scores[said.better] > scores[said.worse]).sum()))
        return torch.stack([self.aim.total(head, said) for head in heads.unbind(1)]).mean()

    @property
    def models(self) -> list[nn.Module]:
        """The one that is trained."""
        return [self.model]

    def state(self) -> dict[str, Any]:
        return self.learner.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.learner.load(state)


def split_groups(
    groups: Sequence[Group], pad_id: int, token_budget: int, standard: ScoreNormalizer = AS_THEY_ARE
) -> Iterator[RewardMinibatch]:
    """Cut a batch between prompts, never inside one: a prompt's answers share a part. At most `token_budget` padded
    tokens a part, unless a single prompt's answers exceed it."""
    ordered = sorted(groups, key=lambda group: max(len(row.ids) for row in group.rows))
    taken: list[Group] = []
    for group in ordered:
        rows = sum(len(g.rows) for g in taken) + len(group.rows)
        if taken and rows * max(len(row.ids) for row in group.rows) > token_budget:
            yield _part(taken, pad_id, standard)
            taken = []
        taken.append(group)
    if taken:
        yield _part(taken, pad_id, standard)


def _part(groups: Sequence[Group], pad_id: int, standard: ScoreNormalizer) -> RewardMinibatch:
    rows = [row for group in groups for row in group.rows]
    return RewardMinibatch(batch=pad_right(rows, pad_id), judged=judged(groups, standard))


def _answerable(judgements: Judgements, speaker: LanguageModel, run: Run) -> list[Prompt]:
    """The training prompts that the SFT model can read and has room to answer; its answers set the reward's zero and unit.

    Another network may read more than the SFT model does, and by another template. Raises DataError where no prompt is left.
    """
    prompts = [group.prompt for group in judgements.train]
    if refused := find_unrenderable(speaker.prompt_encoder, prompts, by="the model that answers"):
        places = {problem.where for problem in refused}
        message = f"{len(refused):,} of {len(prompts):,} training prompts cannot be asked ({named(sorted(places))}): "
        message += f"{refused[0].message}: the reward's zero and unit are set without them"
        run.journal.event(STAGE, "warning", message=message)
        prompts = [prompt for prompt in prompts if str(prompt.where) not in places]
    fitting = [prompt for prompt in prompts if speaker.prompt_encoder.fits(prompt)]
    context = speaker.prompt_encoder.context
    if not fitting:
        raise DataError(
            f"none of the {len(judgements.train):,} training prompts of reward.data fits the SFT model's {context:,} tokens",
            expected="prompts that it can answer",
            why="its answers set the reward's zero and unit, and RL is trained on them",
            todo="give shorter prompts, or an SFT model that reads more",
        )
    if long := len(prompts) - len(fitting):
        message = f"{long:,} of {len(prompts):,} training prompts leave the SFT model no room for an answer in its {context:,} "
        run.journal.event(STAGE, "warning", message=f"{message}tokens: the reward's zero and unit are set without them")
    return fitting


def own_answers(
    config: Config, place: Placement, speaker: LanguageModel, prompts: Sequence[Prompt]
) -> tuple[list[Prompt], list[str]]:
    """(prompts, responses): plain samples of the SFT model, the answers that RL begins from: at its temperature and length."""
    most, temperature = (config.rl.max_new_tokens, config.rl.temperature) if config.rl else (128, 1.0)
    with place.autocast():
        completions = sample(
            speaker.model,
            [speaker.prompt_encoder.prompt(prompt) for prompt in prompts],
            prompt_encoder=speaker.prompt_encoder,
            max_new_tokens=most,
            temperature=temperature,
            generator=generator(config.seed, STAGE, "own", 1),
        )
    return list(prompts), [speaker.prompt_encoder.decode(completion.ids) for completion in completions]


def filed_answers(judgements: Judgements, most: int) -> tuple[list[Prompt], list[str]]:
    """(prompts, responses): the judged answers to the first `most` training prompts, where no model of the run answers."""
    groups = judgements.train[:most]
    return [group.prompt for group in groups for _ in group.responses], [text for group in groups for text in group.responses]


def _plan(
    config: Config, judgements: Judgements, steps: int, place: Placement, reader: RewardModel, frozen: FrozenLayers | None
) -> str:
    reward = required_section(config.reward, "reward")
    answers = sum(len(group.rows) for group in judgements.train)
    told = [
        f"{len(judgements.train):,} prompts with {answers:,} answers and {sum(len(g.pairs) for g in judgements.train):,} pairs "
        f"({judgements.format}), {len(judgements.held_out):,} prompts held out, {steps:,} steps, {place.reason}"
    ]
    if config.sft is None or reward.model is not None:
        source = reward.model or config.model or "the base model"
        told.append(f"{source} reads {reader.reads}, {reader.parameters / 1e6:.1f} M parameters")
    if reward.ensemble is not None:
        members = "models, one after another" if reward.ensemble.by == "seeds" else "heads of one trunk"
        told.append(f"an ensemble of {reward.ensemble.members} {members}")
    return "; ".join(told + ([frozen.told] if frozen is not None else [])) + lora_summary(reader.model) + judgements.remarks
