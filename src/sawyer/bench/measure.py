"""One stage's real steps on a user's model and data: how many of its units a second, in which phases, in how much memory."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from sawyer.bench.ceiling import ceiling, finish
from sawyer.bench.phases import phases
from sawyer.config import Config, wanted
from sawyer.engine import batch_indices, choose_place, generator
from sawyer.errors import ConfigError
from sawyer.models import Speaker, load_tokenizer, new_reward, open_speaker, sample, save_model
from sawyer.records import Demonstration, Prompt, read
from sawyer.runs import Run, open_run
from sawyer.stages.reward.data import Group, load
from sawyer.stages.reward.train import RewardWork, opened
from sawyer.stages.rl.train import RlWork
from sawyer.stages.sft.train import SftWork
from sawyer.text import Row

MEASURED = ("sft", "reward", "rl", "sampling")
GROWTH = {"batch": ("sft", "reward", "rl", "sampling"), "length": ("sft", "reward", "sampling"), "answers": ("reward",)}
NEW = 48  # tokens an answer where `sampling` is measured
BATCH = 32  # prompts answered at once there
NEVER = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What is set otherwise than the config says. None: as it says."""

    batch: int | None = None  # rows, prompts or episodes an optimizer step
    length: int | None = None  # tokens to which rows are cut (of sampling: new tokens)
    answers: int | None = None  # of each prompt, the first so many

    @property
    def told(self) -> str:
        """`batch 16`, or nothing."""
        named = ((name, getattr(self, name)) for name in GROWTH)
        return ", ".join(f"{name} {value}" for name, value in named if value is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Example: `Measured(stage="sft", variant=Variant(batch=8), units="tokens", per_second=140.0, ...)`"""

    stage: str
    variant: Variant
    units: str  # what is counted: tokens without padding, pairs, episodes, new tokens
    per_second: float  # the median over the steps
    tokens_per_second: float  # tokens without padding (of rl: prompt and response), whatever the units are
    seconds: float  # a step's, the median
    phases: Mapping[str, float]  # seconds a step, on average, in each phase; "else" is what remains
    peak_mb: float  # of the process (on a card: of the card's memory), the libraries included
    share: float  # of the measured matrix-product rate, counting `operations` a token
    operations: float  # counted a token: 6 a weight where it is trained, 2 where it is only read
    parameters: int  # weights of the model
    precision: str
    gflops: float  # the machine's measured rate in that precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a step did: its units, and its tokens without padding."""

    units: float
    tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A stage ready to be measured: `step(i)` for i = 0, 1, ..."""

    step: Callable[[int], Step]
    units: str
    passes: float  # operations a weight and token
    parameters: int
    width: int


def measure(config: Config, stage: str, variant: Variant | None = None, *, steps: int = 3) -> Measured:
    """Do `steps` real steps of a stage, after one that does not count, in this process, and tell how fast they were.

    Later stages are measured on the model the config names in the place of what earlier ones would make of it: the same work,
    however well it answers. Raises ConfigError where the config does not name what the stage needs.
    """
    variant = variant or Variant()
    with TemporaryDirectory(prefix="sawyer-bench-") as folder, open_run(Path(folder)) as run:
        asked = config.model_copy(update={"out": folder})
        work = BUILD[stage](asked, variant, run, steps + 1)
        place = choose_place(config.device, config.precision, width=work.width)
        work.step(0)
        times, done = [], []
        with phases(place.device) as clock:
            for index in range(1, steps + 1):
                finish(place.device)
                start = time.perf_counter()
                done.append(work.step(index))
                finish(place.device)
                times.append(time.perf_counter() - start)
        peak = peak_mb(place.device)  # before the ceiling's own tensors
    rates = ceiling(place.device)
    rate = rates.bf16_gflops if place.precision == "bf16" else rates.fp32_gflops
    tokens = statistics.median(step.tokens / took for step, took in zip(done, times, strict=True))
    spent = {name: seconds / steps for name, seconds in clock.seconds.items()}
    operations = work.passes * work.parameters
    return Measured(
        stage=stage,
        variant=variant,
        units=work.units,
        per_second=statistics.median(step.units / took for step, took in zip(done, times, strict=True)),
        tokens_per_second=tokens,
        seconds=statistics.median(times),
        phases={**spent, "else": max(0.0, sum(times) / steps - sum(spent.values()))},
        peak_mb=peak,
        share=tokens * operations / (rate * 1e9),
        operations=operations,
        parameters=work.parameters,
        precision=place.precision,
        gflops=rate,
    )


def peak_mb(device: torch.device) -> float:
    """The most memory held so far: by this process, or on the card."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows does not tell
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _sft(config: Config, variant: Variant, run: Run, steps: int) -> Work:
    asked = wanted(config.sft, "sft")
    speaker, records = _speaker(config), _read(asked, config, "demonstrations")
    rows = [speaker.codec.demonstration(r) for r in records if speaker.codec.fits(r.prompt)]
    rows = [row for row in (_cut(row, variant.length) for row in rows) if any(row.trained)]
    _some(rows, "row", "a response within the length")
    batch = variant.batch or asked.batch_size
    epochs = (steps + 1) * batch / len(rows)
    config = config.model_copy(update={"sft": asked.model_copy(update={"batch_size": batch, "epochs": epochs})})
    place = choose_place(config.device, config.precision, width=speaker.width)
    speaker.model.to(place.device)
    work = SftWork(config, place, speaker, rows)

    def step(index: int) -> Step:
        chosen = batch_indices(len(rows), batch, index, total=work.total, seed=config.seed, stage="sft")
        work.step(index)
        tokens = sum(len(rows[i].ids) for i in chosen)
        return Step(units=tokens, tokens=tokens)

    return Work(step=step, units="tokens", passes=6, parameters=speaker.parameters, width=speaker.width)


def _reward(config: Config, variant: Variant, run: Run, steps: int) -> Work:
    asked = wanted(config.reward, "reward")
    _as_sft(config, run)
    reader = opened(config, run, 0)
    place = choose_place(config.device, config.precision, width=reader.width)
    config = config.model_copy(update={"reward": asked.model_copy(update={"held_out": 0.0})})
    groups = [_fewer(group, variant) for group in load(config, run, reader).train]
    groups = [group for group in groups if group.pairs]
    _some(groups, "prompt", "a pair among its first answers")
    batch = variant.batch or asked.batch_size
    update = {"batch_size": batch, "epochs": (steps + 1) * batch / len(groups)}
    config = config.model_copy(update={"reward": asked.model_copy(update=update)})
    work = RewardWork(config, place, reader.model.to(place.device), reader.codec.pad_id, groups)

    def step(index: int) -> Step:
        chosen = batch_indices(len(groups), batch, index, total=work.total, seed=config.seed, stage="reward")
        told = work.step(index)
        return Step(units=told["pairs"], tokens=sum(len(row.ids) for i in chosen for row in groups[i].rows))

    return Work(step=step, units="pairs", passes=6, parameters=reader.parameters, width=reader.width)


def _rl(config: Config, variant: Variant, run: Run, steps: int) -> Work:
    asked = wanted(config.rl, "rl")
    speaker = _as_sft(config, run)
    save_model(
        _made(run.layout.model("reward")),
        new_reward(run.layout.model("sft"), load_tokenizer(run.layout.model("sft")), seed=config.seed, lora=config.lora),
        speaker.tokenizer,
        {"reward_shift": 0.0, "reward_scale": 1.0},
    )
    batch = variant.batch or asked.batch_size
    update = {"batch_size": batch, "episodes": (steps + 2) * batch, "eval_every": NEVER, "held_out": 0.0}
    asked = asked.model_copy(update={**update, "minibatches": min(asked.minibatches, batch)})
    config = config.model_copy(update={"rl": asked})
    work = RlWork(config, run)

    def step(index: int) -> Step:
        number = index + 1  # update 0 evaluates first
        told = work.step(number)
        tokens = sum(len(speaker.codec.prompt(prompt)) for prompt in work.asked_at(number))
        return Step(units=batch, tokens=tokens + (told or {"length": 0.0})["length"] * batch)

    # Read by the policy (sampling, log-probs), its reference, the reward model and what values; the policy and, if it has a
    # trunk of its own, what values are trained.
    values, networks = (0, 1) if work.critic is None else (1, 1) if work.value is None else (1, 2)
    passes = 2 * (4 + values) + 6 * networks * asked.epochs
    return Work(step=step, units="episodes", passes=passes, parameters=speaker.parameters, width=speaker.width)


def _sampling(config: Config, variant: Variant, run: Run, steps: int) -> Work:
    speaker = _speaker(config)
    place = choose_place(config.device, config.precision, width=speaker.width)
    speaker.model.to(place.device)
    new, batch = variant.length or min(NEW, speaker.codec.context // 2), variant.batch or BATCH
    prompts = [ids for ids in map(speaker.codec.prompt, _prompts(config)) if len(ids) + new <= speaker.codec.context]
    _some(prompts, "prompt", f"room for {new} new tokens")

    def step(index: int) -> Step:
        chosen = [prompts[(index * batch + i) % len(prompts)] for i in range(batch)]
        with place.autocast():
            found = sample(
                speaker.model,
                chosen,
                codec=speaker.codec,
                max_new_tokens=new,
                temperature=1.0,
                generator=generator(config.seed, "bench", "sampling", index),
            )
        drawn = sum(len(completion.ids) for completion in found)
        return Step(units=drawn, tokens=drawn + sum(map(len, chosen)))

    return Work(step=step, units="new tokens", passes=2, parameters=speaker.parameters, width=speaker.width)


BUILD: Mapping[str, Callable[[Config, Variant, Run, int], Work]] = {
    "sft": _sft,
    "reward": _reward,
    "rl": _rl,
    "sampling": _sampling,
}


def _speaker(config: Config) -> Speaker:
    if config.model is None:
        raise ConfigError(
            "the config names no model",
            expected="`model:`, a hub id or a folder",
            why="what is measured are the stages that begin with one",
            todo="name a model; `base:` is not measured",
        )
    return open_speaker(config.model, config.template, lora=config.lora, seed=config.seed)


def _as_sft(config: Config, run: Run) -> Speaker:
    """The config's model in the place where later stages look for the SFT model."""
    speaker = _speaker(config)
    save_model(_made(run.layout.model("sft")), speaker.model, speaker.tokenizer)
    return speaker


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _read(asked: Any, config: Config, want: Any) -> Sequence[Any]:
    found: Sequence[Any] = read(asked.prompts if want == "prompts" else asked.data, want=want, columns=asked.columns).records
    return found


def _prompts(config: Config) -> Sequence[Prompt]:
    if config.rl is not None:
        return list(_read(config.rl, config, "prompts"))
    found: Sequence[Demonstration] = _read(wanted(config.sft, "sft"), config, "demonstrations")
    return [record.prompt for record in found]


def _some(found: Sequence[Any], what: str, has: str) -> None:
    if not found:
        raise ConfigError(
            f"no {what} has {has}",
            expected=f"a {what} to measure with",
            todo="give other data or a model that reads more tokens",
        )


def _cut(row: Row, length: int | None) -> Row:
    if length is None or len(row.ids) <= length:
        return row
    return dataclasses.replace(row, ids=row.ids[:length], trained=row.trained[:length], types=row.types[:length], cut=True)


def _fewer(group: Group, variant: Variant) -> Group:
    """The group's first answers alone, each cut to the length."""
    most = variant.answers or len(group.rows)
    return dataclasses.replace(
        group,
        responses=group.responses[:most],
        rows=tuple(_cut(row, variant.length) for row in group.rows[:most]),
        pairs=tuple(pair for pair in group.pairs if max(pair[:2]) < most),
        sources=group.sources[:most],
        scores=group.scores[:most],
    )
