"""Each stage made ready to be measured: its real steps on a user's model and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.variant import BATCH, Variant
from sawyer.config import Config, required_section
from sawyer.errors import ConfigError
from sawyer.models import (
    LanguageModel,
    freeze_for_inference,
    load_tokenizer,
    new_reward,
    open_language_model,
    sample,
    save_model,
)
from sawyer.records import Demonstration, Prompt, read
from sawyer.runs import Run
from sawyer.stages.reward.reward_data import load_reward_data
from sawyer.stages.reward.reward_stage import RewardLoop, open_member
from sawyer.stages.rl.trainer import Trainer
from sawyer.stages.sft.sft_stage import SftLoop
from sawyer.train import Placement, batch_indices, choose_device, distributed, generator, write_folder

NEW = 48  # tokens an answer where `sampling` is measured
NEVER = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a step did: its units, and its tokens without padding."""

    units: float
    tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWork:
    """A stage ready to be measured."""

    step: Callable[[int], Step]  # of batch 1, 2, ...; of several processes each does its share, and tells of the whole
    units: str
    passes: float  # operations a weight and token
    parameters: int
    placement: Placement


def _sft(config: Config, variant: Variant, run: Run, batches: int) -> StageWork:
    sft = required_section(config.sft, "sft")
    speaker, records = _speaker(config), _read(sft, config, "demonstrations")
    rows = [speaker.prompt_encoder.demonstration(r) for r in records if speaker.prompt_encoder.fits(r.prompt)]
    rows = [row for row in rows if any(row.loss_mask)]
    _require(rows, "row", "a response within the length")
    batch = variant.batch or sft.batch_size
    update = {"batch_size": batch, "epochs": batches * batch / len(rows)}
    config = config.model_copy(update={"sft": sft.model_copy(update=update)})
    placement = choose_device(config.device, config.precision, width=speaker.width, vocabulary=speaker.vocabulary)
    speaker.model.to(placement.device)
    work = SftLoop(config, placement, speaker, rows)

    def step(index: int) -> Step:
        chosen = batch_indices(len(rows), batch, index, total=work.total, seed=config.seed, stage="sft")
        work.step(index)
        tokens = sum(len(rows[i].ids) for i in chosen)
        return Step(units=tokens, tokens=tokens)

    return StageWork(step=step, units="tokens", passes=6, parameters=speaker.parameters, placement=placement)


def _reward(config: Config, variant: Variant, run: Run, batches: int) -> StageWork:
    reward = required_section(config.reward, "reward")
    _as_sft(config, run)
    reader = open_member(config, run, 0)
    placement = choose_device(config.device, config.precision, width=reader.width)
    config = config.model_copy(update={"reward": reward.model_copy(update={"eval_fraction": 0.0})})
    groups = [prompt for prompt in load_reward_data(config, run, reader).train_prompts if prompt.pairs]
    _require(groups, "prompt", "a pair among its answers")
    batch = variant.batch or reward.batch_size
    update = {"batch_size": batch, "epochs": batches * batch / len(groups)}
    config = config.model_copy(update={"reward": reward.model_copy(update=update)})
    work = RewardLoop(config, placement, reader.model.to(placement.device), reader.prompt_encoder.pad_id, groups)

    def step(index: int) -> Step:
        chosen = batch_indices(len(groups), batch, index, total=work.total, seed=config.seed, stage="reward")
        metrics = work.step(index)
        return Step(units=metrics["pairs"], tokens=sum(len(row.ids) for i in chosen for row in groups[i].rows))

    return StageWork(step=step, units="pairs", passes=6, parameters=reader.parameters, placement=placement)


def _rl(config: Config, variant: Variant, run: Run, batches: int) -> StageWork:
    rl = required_section(config.rl, "rl")
    speaker = _as_sft(config, run)
    judge = new_reward(run.layout.model("sft"), load_tokenizer(run.layout.model("sft")), seed=config.seed, lora=config.lora)
    extra = {"reward_shift": 0.0, "reward_scale": 1.0}
    write_folder(run.layout.model("reward"), partial(save_model, model=judge, tokenizer=speaker.tokenizer, extra=extra))
    prompt_encoder, parameters = speaker.prompt_encoder, speaker.parameters
    del judge, speaker  # RL opens what was saved
    batch = variant.batch or rl.batch_size
    update = {"batch_size": batch, "episodes": batches * batch, "eval_every": NEVER, "eval_fraction": 0.0}
    rl = rl.model_copy(update={**update, "num_minibatches": min(rl.num_minibatches, batch)})
    config = config.model_copy(update={"rl": rl})
    work = Trainer(config, run)

    def step(index: int) -> Step:
        metrics = work.step(index)
        tokens = sum(len(prompt_encoder.prompt(prompt)) for prompt in work.prompts_at(index))
        return Step(units=batch, tokens=tokens + (metrics or {"length": 0.0})["length"] * batch)

    # Read by the policy (sampling, log-probs), its reference, the reward model and what values; the policy and, if it has a
    # trunk of its own, what values are trained.
    values, networks = (0, 1) if work.critic is None else (1, 1) if work.value is None else (1, 2)
    passes = 2 * (4 + values) + 6 * networks * rl.epochs
    return StageWork(step=step, units="episodes", passes=passes, parameters=parameters, placement=work.placement)


def _sampling(config: Config, variant: Variant, run: Run, batches: int) -> StageWork:
    speaker = _speaker(config)
    placement = choose_device(config.device, config.precision, width=speaker.width, vocabulary=speaker.vocabulary)
    speaker.model.to(placement.device)
    freeze_for_inference(speaker.model)  # as in collection, comparison and chat
    new, batch = min(NEW, speaker.prompt_encoder.context // 2), variant.batch or BATCH
    prompts = [
        ids for ids in map(speaker.prompt_encoder.prompt, _prompts(config)) if len(ids) + new <= speaker.prompt_encoder.context
    ]
    _require(prompts, "prompt", f"room for {new} new tokens")

    def step(index: int) -> Step:
        chosen = [prompts[(index * batch + i) % len(prompts)] for i in range(batch)]
        with placement.autocast():
            completions = sample(
                speaker.model,
                chosen,
                prompt_encoder=speaker.prompt_encoder,
                max_new_tokens=new,
                temperature=1.0,
                generator=generator(config.seed, "bench", "sampling", index),
                map_rows=distributed.map_sharded,
            )
        new_tokens = sum(len(completion.ids) for completion in completions)
        return Step(units=new_tokens, tokens=new_tokens + sum(map(len, chosen)))

    return StageWork(step=step, units="new tokens", passes=2, parameters=speaker.parameters, placement=placement)


BUILD: Mapping[str, Callable[[Config, Variant, Run, int], StageWork]] = {
    "sft": _sft,
    "reward": _reward,
    "rl": _rl,
    "sampling": _sampling,
}


def _speaker(config: Config) -> LanguageModel:
    if config.model is None:
        raise ConfigError(
            "the config names no model",
            expected="`model:`, a hub id or a folder",
            why="what is measured are the stages that begin with one",
            todo="name a model; `base:` is not measured",
        )
    return open_language_model(config.model, config.template, lora=config.lora, seed=config.seed)


def _as_sft(config: Config, run: Run) -> LanguageModel:
    """The config's model in the place where later stages look for the SFT model."""
    speaker = _speaker(config)
    write_folder(run.layout.model("sft"), partial(save_model, model=speaker.model, tokenizer=speaker.tokenizer))
    return speaker


def _read(section: Any, config: Config, want: Any) -> Sequence[Any]:
    paths = section.prompts if want == "prompts" else section.data
    records: Sequence[Any] = read(paths, want=want, columns=section.columns, max_bad_rows=config.max_bad_rows).records
    return records


def _prompts(config: Config) -> Sequence[Prompt]:
    if config.rl is not None:
        return list(_read(config.rl, config, "prompts"))
    records: Sequence[Demonstration] = _read(required_section(config.sft, "sft"), config, "demonstrations")
    return [record.prompt for record in records]


def _require(records: Sequence[Any], what: str, has: str) -> None:
    if not records:
        raise ConfigError(
            f"no {what} has {has}",
            expected=f"a {what} to measure with",
            todo="give other data or a model that reads more tokens",
        )
