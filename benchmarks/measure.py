"""One stage's real steps: how many of its units a second, in which phases, in how much memory."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.ceiling import finish, product_rate
from benchmarks.phases import phases
from benchmarks.variant import WHOLE, BatchPart, Variant
from benchmarks.work import BUILD
from sawyer.config import Config
from sawyer.models import remote_code
from sawyer.train import distributed, open_shared_run

PACE = 1.0  # seconds of steps after which the machine's rate is measured again: a shared machine's is another by then


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Example: `Measurement(stage="sft", variant=Variant(batch=8), units="tokens", per_second=140.0, ...)`"""

    stage: str
    variant: Variant
    units: str  # what is counted: tokens without padding, pairs, episodes, new tokens
    per_second: float  # the median over the steps
    tokens_per_second: float  # tokens without padding (of rl: prompt and response), whatever the units are
    seconds: float  # a step's, the median
    done: float  # units of all steps together
    took: float  # seconds of all steps together
    phases: Mapping[str, float]  # seconds a step, on average, in each phase; "else" is what remains; of the first process
    peak_mb: float  # of the process (on a card: of the card's memory), the libraries included; of several: the largest
    share: float  # of the matrix-product rate measured before and after a step, counting `operations` a token; the median
    operations: float  # counted a token: 6 a weight where it is trained, 2 where it is only read
    parameters: int  # weights of the model
    precision: str
    gflops: float  # the machine's measured rate in that precision; of several processes the sum of their rates side by side


def measure(
    config: Config,
    stage: str,
    folder: Path,
    variant: Variant | None = None,
    *,
    steps: int = 3,
    part: BatchPart = WHOLE,
    ready: Callable[[], object] = lambda: None,
) -> Measurement:
    """Do `steps` real steps of a stage, after one that does not count, and tell how fast they were.

    In this process; started by a launcher, in step with the others, each of which gets the same figures but for the clock's.
    `folder` becomes a run's. Before the steps that count `ready` is called. Later stages are measured on the model the config
    names in the place of what earlier ones would make of it: the same work, however well it answers. Raises ConfigError where
    the config does not name what the stage needs.
    """
    variant = variant or Variant()
    with remote_code(config.trust_remote_code), open_shared_run(folder) as run:
        run_config = config.model_copy(update={"out": str(folder)})
        work = BUILD[stage](run_config, variant, run, part.batches(steps + 1))
        placement = work.placement
        work.step(part.index(0))
        ready()
        dtype = torch.bfloat16 if placement.precision == "bf16" else torch.float32
        times, done, since = [], [], 0.0
        rates = [_rate(placement.device, dtype)]
        beside: list[float] = []  # the rate before and after each step
        with phases(placement.device) as clock:
            for number in range(1, steps + 1):
                finish(placement.device)
                start = time.perf_counter()
                done.append(work.step(part.index(number)))
                finish(placement.device)
                times.append(time.perf_counter() - start)
                (since,) = distributed.all_reduce_max(since + times[-1])  # all measure the rate, or none
                if since > PACE or number == steps:
                    rates.append(_rate(placement.device, dtype))
                    beside += [statistics.mean(rates[-2:])] * (number - len(beside))
                    since = 0.0
        (peak,) = distributed.all_reduce_max(peak_mb(placement.device))
    tokens = [step.tokens / took for step, took in zip(done, times, strict=True)]
    phase_seconds = {name: seconds / steps for name, seconds in clock.seconds.items()}
    operations = work.passes * work.parameters
    return Measurement(
        stage=stage,
        variant=variant,
        units=work.units,
        per_second=statistics.median(step.units / took for step, took in zip(done, times, strict=True)),
        tokens_per_second=statistics.median(tokens),
        seconds=statistics.median(times),
        done=sum(step.units for step in done),
        took=sum(times),
        phases={**phase_seconds, "else": max(0.0, sum(times) / steps - sum(phase_seconds.values()))},
        peak_mb=peak,
        share=statistics.median(a * operations / (rate * 1e9) for a, rate in zip(tokens, beside, strict=True)),
        operations=operations,
        parameters=work.parameters,
        precision=placement.precision,
        gflops=statistics.median(beside),
    )


def _rate(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s; of several processes the sum, each beside the others."""
    (rate,) = distributed.all_reduce_sum(product_rate(device, dtype))
    return rate


def peak_mb(device: torch.device) -> float:
    """The most memory held so far: by this process, or on the card."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows does not tell
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
