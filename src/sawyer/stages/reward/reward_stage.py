"""Train the reward model on judged prompts; set its zero and unit; examine it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sawyer.config import Config, left_out, required_section, start_of
from sawyer.errors import DataError
from sawyer.maths import ScoreNormalizer, linear_schedule
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
from sawyer.records import JudgedPrompt, Prompt, join_names
from sawyer.runs import Run, write_json
from sawyer.stages.reward.ensemble_training import EnsembleLoop, as_trained, calibrate, member_seed, save_members
from sawyer.stages.reward.judgement_counts import JudgementCounts
from sawyer.stages.reward.loss_choice import checked_loss, objective, open_loss
from sawyer.stages.reward.rater_gate import raters_gate, read_agreement
from sawyer.stages.reward.reward_data import STAGE, NothingToLearnError, RewardData, deduplicate, load_reward_data
from sawyer.stages.reward.reward_trust import examine, gold_accuracy, log_refusal, reward_gates, score_own_answers
from sawyer.stages.reward.round_change import compare_with_last_round
from sawyer.text import find_unrenderable
from sawyer.train import (
    NO_NORMALIZER,
    EncodedPrompt,
    JudgedMinibatch,
    OptimizerStep,
    Placement,
    batch_indices,
    choose_device,
    distributed,
    generator,
    judged_minibatches,
    losses_of,
    record_fast_paths,
    run_steps,
    shard_micro_batches,
    stop_if_requested,
    write_answer_rewards,
    write_folder,
)
from sawyer.trust import as_json, decide_verdict


def train(config: Config, run: Run) -> dict[str, Any]:
    """Train, calibrate, save and examine the reward model; returns its key figures."""
    settings = required_section(config.reward, "reward")
    # An earlier model's report goes first: RL must not set its guards by it.
    distributed.on_rank_zero(lambda: run.layout.trust.unlink(missing_ok=True))
    policy, reader = open_policy(config, run), open_member(config, run, 0)
    placement = choose_device(config.device, config.precision, width=reader.width)
    checked_loss(settings.loss)  # a user's loss may be wrong in ways that training would only show after hours
    models = {"the reward model": reader.model} | ({} if policy is None else {"the SFT model": policy.model})
    record_fast_paths(run, STAGE, models)
    try:
        data = deduplicate(config, run, policy or reader, placement, load_reward_data(config, run, reader))
    except NothingToLearnError as error:
        _log_raters_gate(run, error.records)
        log_refusal(run, error.records, config.seed)
        raise
    _log_raters_gate(run, data.records)
    prompts = answerable_prompts(data, policy, run)[: settings.calibration_prompts] if policy is not None else []
    frozen = freeze(reader.model, settings.freeze, setting="reward.freeze") if settings.freeze else None
    loop = _begin(config, run, reader, placement, data)
    plan = _plan(config, data, loop.steps, placement, reader, frozen)
    run.journal.event(STAGE, "plan", message=plan, unread=dict(data.unread))
    by_score = open_loss(settings.loss).counts == "answers"
    for warning in JudgementCounts.of(data.records).warnings(settings.raters, by_score=by_score):
        run.journal.event(STAGE, "warning", message=warning)
    steps = run_steps(run, STAGE, loop, save_every_seconds=config.save_every_seconds)
    stop_if_requested(run, STAGE)

    # RL's rewards need a zero and a unit: mean and deviation of the scores of the answers that RL begins from.
    if policy is not None:
        policy.model.to(placement.device)
        answers = sample_answers(config, placement, policy, prompts)
    else:
        answers = file_answers(data, settings.calibration_prompts)
        run.journal.event(STAGE, "left_out", message=left_out(config, STAGE))
    scorer = calibrate(reader, loop.models, settings.ensemble, answers)
    extra = {"score_mean": data.normalizer.mean, "score_scale": data.normalizer.scale, "loss": settings.loss}
    write_folder(run.layout.model(STAGE), lambda new: save_members(new, reader, scorer, settings.ensemble, extra))
    write_answer_rewards(run, scorer)  # what people are asked next goes by where this model is least sure
    stop_if_requested(run, STAGE)

    # Loss and calibration mean something only in the unit in which the scores were trained.
    raw, world = as_trained(scorer), config.world is not None
    own_answers = (
        score_own_answers(config, partial(sample_answers, config, placement, policy)) if world and policy is not None else ()
    )
    report, figures = examine(
        raw, data, settings.loss, by=settings.normalize_by, seed=config.seed, world=world, own_answers=own_answers
    )
    figures |= gold_accuracy(own_answers, raw) if own_answers else {}
    figures |= compare_with_last_round(run, data, raw, placement.device)
    figures |= {**losses_of(run, STAGE), "reward_shift": scorer.shift, "reward_scale": scorer.scale}
    if scorer.ensemble.own_disagreement is not None:
        figures["own_disagreement"] = scorer.ensemble.own_disagreement
    verdict = decide_verdict(report)
    distributed.on_rank_zero(lambda: write_json(run.layout.trust, as_json(report, verdict)))
    run.journal.metrics(STAGE, steps, {name: value for name, value in figures.items() if isinstance(value, float)})
    run.journal.event(STAGE, "verdict", message=verdict.words)
    for gate in reward_gates(figures, report.probes):
        run.journal.gate(gate)
    return figures


def _log_raters_gate(run: Run, records: Sequence[JudgedPrompt]) -> None:
    judged_elsewhere = sum(not record.rater and bool(record.scores) for record in records)
    if (gate := raters_gate(read_agreement(run.layout), judged_elsewhere)) is not None:
        run.journal.gate(gate)


def open_policy(config: Config, run: Run) -> LanguageModel | None:
    """The model whose answers RL begins from, which set the reward's zero and unit; None: a reward model is trained alone."""
    start = start_of(config, "rl") if config.has_policy else None
    return None if start is None else open_language_model(start.path(run.layout.model), start.template)


def open_member(config: Config, run: Run, number: int) -> RewardModel:
    """The network of an ensemble's member `number`, before training: new heads on the trunk that the config names, else on the
    SFT model's, else on the run's own model's."""
    ensemble = required_section(config.reward, "reward").ensemble
    heads = ensemble.members if ensemble is not None and ensemble.by == "heads" else 1
    start, seed = start_of(config, STAGE), member_seed(config.seed, number)
    assert start is not None
    source = start.path(run.layout.model)
    return new_reward_model(source, seed=seed, heads=heads, template=start.template, fallback=config.template, lora=config.lora)


def _begin(config: Config, run: Run, reader: RewardModel, placement: Placement, data: RewardData) -> EnsembleLoop | RewardLoop:
    """The training of the one model, or of an ensemble's members one after another."""
    settings = required_section(config.reward, "reward")

    def begin_member(number: int) -> tuple[nn.Module, RewardLoop]:
        model = reader.model if number == 0 else open_member(config, run, number).model
        if settings.freeze:
            freeze(model, settings.freeze, setting="reward.freeze")
        model.to(placement.device)
        # Another seed orders the batches otherwise: members that learn alike would agree where all of them are wrong.
        of_member = config.model_copy(update={"seed": member_seed(config.seed, number)})
        return model, RewardLoop(of_member, placement, model, reader.prompt_encoder.pad_id, data.train_prompts, data.normalizer)

    if settings.ensemble is not None and settings.ensemble.by == "seeds":
        return EnsembleLoop(settings.ensemble.members, begin_member, run.layout.members(STAGE))
    return begin_member(0)[1]


class RewardLoop:
    """The optimizer steps of the reward model, one batch of prompts with all their answers each."""

    def __init__(
        self,
        config: Config,
        placement: Placement,
        model: nn.Module,
        pad_id: int,
        prompts: Sequence[EncodedPrompt],
        normalizer: ScoreNormalizer = NO_NORMALIZER,
    ) -> None:
        reward = required_section(config.reward, "reward")
        self.config, self.settings, self.placement, self.model = config, reward, placement, model
        self.pad_id, self.prompts, self.normalizer = pad_id, prompts, normalizer
        self.objective = objective(reward)
        self.step_tokens = 0
        self.total = max(1, round(reward.epochs * len(prompts)))
        self.steps = math.ceil(self.total / reward.batch_size)
        factor = partial(linear_schedule, steps=self.steps, warmup_steps=math.ceil(reward.warmup_fraction * self.steps))
        self.optimizer_step = OptimizerStep(model, name=STAGE, learning_rate=reward.learning_rate, factor=factor)

    def step(self, index: int) -> Mapping[str, float]:
        chosen = batch_indices(
            len(self.prompts), self.settings.batch_size, index, total=self.total, seed=self.config.seed, stage=STAGE
        )
        prompts = [self.prompts[i] for i in chosen]
        pairs = sum(len(prompt.pairs) for prompt in prompts)
        pair_weight = math.fsum(prompt.record.weight * len(prompt.pairs) for prompt in prompts)
        self.step_tokens = sum(prompt.tokens for prompt in prompts)
        right: list[float] = []
        split = partial(
            judged_minibatches,
            pad_id=self.pad_id,
            token_budget=self.config.micro_batch_tokens,
            normalizer=self.normalizer,
        )
        batch = shard_micro_batches(prompts, lambda prompt: prompt.tokens, split)
        (count,) = distributed.all_reduce_sum(sum(self.objective.count(part.judgements) for part in batch.parts))
        update = self.optimizer_step.update(
            batch, lambda part: self.loss(part, right), count, idle_loss=lambda part: self.loss(part, [])
        )
        return {
            "loss": update.loss,
            **({"accuracy": distributed.all_reduce_sum(sum(right))[0] / pair_weight} if pairs else {}),
            "learning_rate": update.learning_rate,
            "grad_norm": update.grad_norm,
            "pairs": pairs,
        }

    def loss(self, part: JudgedMinibatch, right: list[float]) -> Tensor:
        """The weighted sum of the part's losses, averaged over the model's heads; the weight of the pairs that the heads'
        mean ranks rightly is appended to `right`."""
        part = part.to(self.placement.device)
        with self.placement.autocast():
            heads = sequence_logits(self.model, part.batch).float()  # (N, H)
        judgements, scores = part.judgements, heads.detach().mean(1)
        right.append(float((judgements.pair_weights * (scores[judgements.better] > scores[judgements.worse])).sum()))
        return torch.stack([self.objective.total(head, judgements) for head in heads.unbind(1)]).mean()

    @property
    def models(self) -> list[nn.Module]:
        """The one that is trained."""
        return [self.model]

    def state(self) -> dict[str, Any]:
        return self.optimizer_step.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.optimizer_step.load(state)


def answerable_prompts(data: RewardData, policy: LanguageModel, run: Run) -> list[Prompt]:
    """The training prompts that the SFT model can read and has room to answer; its answers set the reward's zero and unit.

    Another network may read more than the SFT model does, and by another template. Raises DataError where no prompt is left.
    """
    prompts = [prompt.record.prompt for prompt in data.train_prompts]
    count, context, without = len(prompts), policy.prompt_encoder.context, "the reward's zero and unit are set without them"
    if problems := find_unrenderable(policy.prompt_encoder, prompts, by="the model that answers"):
        where = {problem.where for problem in problems}
        message = f"{len(problems):,} of {count:,} training prompts cannot be rendered ({join_names(sorted(where))}): "
        run.journal.event(STAGE, "warning", message=f"{message}{problems[0].message}: {without}")
        prompts = [prompt for prompt in prompts if str(prompt.where) not in where]
    with_room = [prompt for prompt in prompts if policy.prompt_encoder.fits(prompt)]
    if not with_room:
        raise DataError(
            f"none of the {count:,} training prompts of reward.data fits the SFT model's {context:,} tokens",
            expected="prompts that it can answer",
            why="its answers set the reward's zero and unit, and RL is trained on them",
            todo="give shorter prompts, or an SFT model that reads more",
        )
    if long := len(prompts) - len(with_room):
        message = f"{long:,} of {len(prompts):,} training prompts leave the SFT model no room for an answer in its {context:,} "
        run.journal.event(STAGE, "warning", message=f"{message}tokens: {without}")
    return with_room


def sample_answers(
    config: Config, placement: Placement, policy: LanguageModel, prompts: Sequence[Prompt]
) -> tuple[list[Prompt], list[str]]:
    """(prompts, responses): samples of the SFT model at RL's temperature and length, as RL begins from them."""
    most, temperature = (config.rl.max_new_tokens, config.rl.temperature) if config.rl else (128, 1.0)
    with placement.autocast():
        completions = sample(
            policy.model,
            [policy.prompt_encoder.prompt(prompt) for prompt in prompts],
            prompt_encoder=policy.prompt_encoder,
            max_new_tokens=most,
            temperature=temperature,
            generator=generator(config.seed, STAGE, "own", 1),
            map_rows=distributed.map_sharded,
        )
    return list(prompts), [policy.prompt_encoder.decode(completion.ids) for completion in completions]


def file_answers(data: RewardData, most: int) -> tuple[list[Prompt], list[str]]:
    """(prompts, responses): the files' answers to the first `most` training prompts, where no model of the run answers."""
    records = [prompt.record for prompt in data.train_prompts[:most]]
    return [one.prompt for one in records for _ in one.answers], [text for one in records for text in one.responses]


def _plan(
    config: Config, data: RewardData, steps: int, placement: Placement, reader: RewardModel, frozen: FrozenLayers | None
) -> str:
    reward = required_section(config.reward, "reward")
    answers = sum(len(prompt.rows) for prompt in data.train_prompts)
    pairs = sum(len(prompt.pairs) for prompt in data.train_prompts)
    parts = [
        f"{len(data.train_prompts):,} prompts with {answers:,} answers and {pairs:,} pairs "
        f"({data.format}), {len(data.eval_prompts):,} prompts held out, {steps:,} steps, {placement.reason}"
    ]
    if config.sft is None or reward.model is not None:
        source = reward.model or config.model or "the base model"
        parts.append(f"{source} reads {reader.reads}, {reader.parameters / 1e6:.1f} M parameters")
    if reward.ensemble is not None:
        members = "models, one after another" if reward.ensemble.by == "seeds" else "heads of one trunk"
        parts.append(f"an ensemble of {reward.ensemble.members} {members}")
    if frozen is not None:
        parts.append(frozen.summary)
    pairwise = open_loss(reward.loss).counts == "pairs"
    if judgements := JudgementCounts.of(data.records).summary(reward.raters, pairwise=pairwise):
        parts.append(judgements)
    return "; ".join(parts) + lora_summary(reader.model) + data.remarks
