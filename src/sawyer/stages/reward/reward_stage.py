"""Train the reward model on groups of judged answers; set its zero and unit; check it."""

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
from sawyer.records import Prompt, named
from sawyer.runs import Run, write_json
from sawyer.stages.reward.ensemble_training import EnsembleLoop, as_trained, calibrated, member_seed, save_members
from sawyer.stages.reward.loss_choice import checked_loss, objective
from sawyer.stages.reward.reward_data import STAGE, RewardData, deduplicate, load_reward_data
from sawyer.stages.reward.reward_trust import examine, gold_accuracy, judge, own_judged
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
    stop_if_asked,
    write_folder,
)
from sawyer.trust import as_json, decide_verdict


def train(config: Config, run: Run) -> dict[str, Any]:
    """Train, calibrate, save and examine the reward model; returns its key figures."""
    asked = required_section(config.reward, "reward")
    run.layout.trust.unlink(missing_ok=True)  # an earlier model's
    speaker = opened_policy(config, run)
    reader = opened(config, run, 0)
    place = choose_device(config.device, config.precision, width=reader.width)
    checked_loss(asked.loss)
    opened_models = {"the reward model": reader.model} | ({} if speaker is None else {"the SFT model": speaker.model})
    record_fast_paths(run, STAGE, opened_models)
    data = deduplicate(config, run, speaker or reader, place, load_reward_data(config, run, reader))
    asked_first = _answerable(data, speaker, run)[: asked.calibration_prompts] if speaker is not None else []
    frozen = freeze(reader.model, asked.freeze, setting="reward.freeze") if asked.freeze else None

    def begin(number: int) -> tuple[nn.Module, RewardLoop]:
        model = reader.model if number == 0 else opened(config, run, number).model
        if asked.freeze:
            freeze(model, asked.freeze, setting="reward.freeze")
        model.to(place.device)
        seeded = config.model_copy(update={"seed": member_seed(config.seed, number)})
        return model, RewardLoop(seeded, place, model, reader.prompt_encoder.pad_id, data.train_prompts, data.normalizer)

    ensemble = asked.ensemble
    work: EnsembleLoop | RewardLoop
    if ensemble is not None and ensemble.by == "seeds":
        work = EnsembleLoop(ensemble.members, begin, run.layout.members(STAGE))
    else:
        _, work = begin(0)
    plan = _plan(config, data, work.steps, place, reader, frozen)
    run.journal.event(STAGE, "plan", message=plan, unread=dict(data.unread))
    steps = run_steps(run, STAGE, work, save_every_seconds=config.save_every_seconds)
    stop_if_asked(run, STAGE)

    if speaker is not None:
        speaker.model.to(place.device)
        own = own_answers(config, place, speaker, asked_first)
    else:
        own = filed_answers(data, asked.calibration_prompts)
        run.journal.event(STAGE, "left_out", message=left_out(config, STAGE))
    scorer = calibrated(reader, work.models, ensemble, own)
    extra = {"reward_shift": scorer.shift, "reward_scale": scorer.scale}
    unit = {"score_mean": data.normalizer.mean, "score_scale": data.normalizer.scale, "loss": asked.loss}
    write_folder(run.layout.model(STAGE), lambda new: save_members(new, reader, scorer, ensemble, unit))
    if scorer.ensemble.own_disagreement is not None:
        extra["own_disagreement"] = scorer.ensemble.own_disagreement

    stop_if_asked(run, STAGE)
    raw, known = as_trained(scorer), config.world is not None
    true = own_judged(config, partial(own_answers, config, place, speaker)) if known and speaker is not None else ()
    found, figures = examine(raw, data, asked.loss, by=asked.normalize_by, seed=config.seed, world=known, own=true)
    figures |= gold_accuracy(true, raw) if true else {}
    verdict = decide_verdict(found)
    distributed.on_rank_zero(lambda: write_json(run.layout.trust, as_json(found, verdict)))
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


class RewardLoop:
    """The optimizer steps of the reward model, one batch of prompts with all their answers each."""

    def __init__(
        self,
        config: Config,
        place: Placement,
        model: nn.Module,
        pad_id: int,
        prompts: Sequence[EncodedPrompt],
        normalizer: ScoreNormalizer = NO_NORMALIZER,
    ) -> None:
        reward = required_section(config.reward, "reward")
        self.config, self.asked, self.place, self.model = config, reward, place, model
        self.pad_id, self.prompts, self.normalizer = pad_id, prompts, normalizer
        self.aim = objective(reward)
        self.step_tokens = 0
        self.total = max(1, round(reward.epochs * len(prompts)))
        self.steps = math.ceil(self.total / reward.batch_size)
        factor = partial(linear_schedule, steps=self.steps, warmup_steps=math.ceil(reward.warmup_fraction * self.steps))
        self.learner = OptimizerStep(model, name=STAGE, learning_rate=reward.learning_rate, factor=factor)

    def step(self, index: int) -> Mapping[str, float]:
        chosen = batch_indices(
            len(self.prompts), self.asked.batch_size, index, total=self.total, seed=self.config.seed, stage=STAGE
        )
        prompts = [self.prompts[i] for i in chosen]
        pairs = sum(len(prompt.pairs) for prompt in prompts)
        self.step_tokens = sum(prompt.tokens for prompt in prompts)
        right: list[float] = []
        split = partial(
            judged_minibatches,
            pad_id=self.pad_id,
            token_budget=self.config.micro_batch_tokens,
            normalizer=self.normalizer,
        )
        batch = shard_micro_batches(prompts, lambda prompt: prompt.tokens, split)
        (count,) = distributed.all_reduce_sum(sum(self.aim.count(part.judgements) for part in batch.parts))
        update = self.learner.update(
            batch, lambda part: self.loss(part, right), count, idle_loss=lambda part: self.loss(part, [])
        )
        return {
            "loss": update.loss,
            **({"accuracy": distributed.all_reduce_sum(sum(right))[0] / pairs} if pairs else {}),
            "learning_rate": update.learning_rate,
            "grad_norm": update.grad_norm,
            "pairs": pairs,
        }

    def loss(self, part: JudgedMinibatch, right: list[float]) -> Tensor:
        """The weighted sum of the part's losses, averaged over the model's heads; the number of pairs that the heads' mean
        ranks rightly is appended to `right`."""
        part = part.to(self.place.device)
        with self.place.autocast():
            heads = sequence_logits(self.model, part.batch).float()  # (N, H)
        judged, scores = part.judgements, heads.detach().mean(1)
        right.append(float((scores[judged.better] > scores[judged.worse]).sum()))
        return torch.stack([self.aim.total(head, judged) for head in heads.unbind(1)]).mean()

    @property
    def models(self) -> list[nn.Module]:
        """The one that is trained."""
        return [self.model]

    def state(self) -> dict[str, Any]:
        return self.learner.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.learner.load(state)


def _answerable(data: RewardData, speaker: LanguageModel, run: Run) -> list[Prompt]:
    """The training prompts that the SFT model can read and has room to answer; its answers set the reward's zero and unit.

    Another network may read more than the SFT model does, and by another template. Raises DataError where no prompt is left.
    """
    prompts = [prompt.record.prompt for prompt in data.train_prompts]
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
            f"none of the {len(data.train_prompts):,} training prompts of reward.data fits the SFT model's {context:,} tokens",
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
            map_rows=distributed.map_sharded,
        )
    return list(prompts), [speaker.prompt_encoder.decode(completion.ids) for completion in completions]


def filed_answers(data: RewardData, most: int) -> tuple[list[Prompt], list[str]]:
    """(prompts, responses): the judged answers to the first `most` training prompts, where no model of the run answers."""
    judged = [prompt.record for prompt in data.train_prompts[:most]]
    return [one.prompt for one in judged for _ in one.answers], [text for one in judged for text in one.responses]


def _plan(
    config: Config, data: RewardData, steps: int, place: Placement, reader: RewardModel, frozen: FrozenLayers | None
) -> str:
    reward = required_section(config.reward, "reward")
    answers = sum(len(prompt.rows) for prompt in data.train_prompts)
    pairs = sum(len(prompt.pairs) for prompt in data.train_prompts)
    told = [
        f"{len(data.train_prompts):,} prompts with {answers:,} answers and {pairs:,} pairs "
        f"({data.format}), {len(data.eval_prompts):,} prompts held out, {steps:,} steps, {place.reason}"
    ]
    if config.sft is None or reward.model is not None:
        source = reward.model or config.model or "the base model"
        told.append(f"{source} reads {reader.reads}, {reader.parameters / 1e6:.1f} M parameters")
    if reward.ensemble is not None:
        members = "models, one after another" if reward.ensemble.by == "seeds" else "heads of one trunk"
        told.append(f"an ensemble of {reward.ensemble.members} {members}")
    return "; ".join(told + ([frozen.told] if frozen is not None else [])) + lora_summary(reader.model) + data.remarks
