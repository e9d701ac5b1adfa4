"""Many answers of the SFT model to each prompt with their rewards and the truth: all that best-of-n needs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Literal

from sawyer.config import Config
from sawyer.pipeline import fingerprint, product
from sawyer.records import Prompt
from sawyer.runs import Listener, Run, damage_error, handle_signals, open_run, read_rows, remove_folder, write_text
from sawyer.worlds import gold

STAGE = "best_of_n"
ANSWERS_A_STEP = 1024
Measure = Literal["proxy", "gold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """P prompts with N answers each: their rewards and the truth."""

    prompts: tuple[str, ...]  # (P,)
    proxy: tuple[tuple[float, ...], ...]  # (P, N)
    gold: tuple[tuple[float, ...], ...]  # (P, N)

    @property
    def answers(self) -> int:
        """N."""
        return len(self.proxy[0])

    @property
    def numbers(self) -> list[int]:
        """1, 2, 4, ... N."""
        powers = [2**power for power in range(self.answers.bit_length()) if 2**power <= self.answers]
        return powers if powers[-1] == self.answers else [*powers, self.answers]

    def best(self, n: int, measure: Measure) -> list[float]:
        """(P,): what the answer with the highest proxy of n has on average, over all choices of n of the N."""
        import torch

        from sawyer.maths import best_of_n_mean

        proxy = torch.tensor(self.proxy, dtype=torch.float64)
        values = proxy if measure == "proxy" else torch.tensor(self.gold, dtype=torch.float64)
        means: list[float] = best_of_n_mean(proxy, values, n).tolist()
        return means

    def deviation(self, measure: Measure) -> float:
        """Standard deviation over all answers."""
        rows = self.proxy if measure == "proxy" else self.gold
        return pstdev([value for row in rows for value in row])


def sample_answers(config: Config, count: int, listeners: Sequence[Listener]) -> Samples:
    """`count` answers of the SFT model to each of RL's held-out prompts, in a run that has an SFT and a reward model.

    It can be interrupted; what was sampled before under the same settings is read. Raises SawyerError.
    """
    with open_run(Path(config.out)) as run, handle_signals(run.stop):
        run.journal.listeners.extend(listeners)
        parents = (run.manifest.content_hash(stage, product(run.layout, stage)) for stage in ("sft", "reward"))
        request = " ".join([fingerprint(config, "rl"), str(count), *parents])
        state = run.manifest.stage(STAGE)
        if state.fingerprint == request and state.status == "done" and run.layout.best_of_n_samples.exists():
            run.journal.event(STAGE, "skip", message="already done")
            return _read_samples(run.layout.best_of_n_samples)
        if state.fingerprint != request:
            remove_folder(run.layout.checkpoint(STAGE))
        run.manifest.update(STAGE, status="running", fingerprint=request)
        run.journal.event(STAGE, "start")
        from sawyer.models import remote_code

        began = time.monotonic()
        with remote_code(config.trust_remote_code):
            rows = _score_answers(config, run, count)
        write_text(run.layout.best_of_n_samples, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        seconds = time.monotonic() - began
        run.manifest.update(STAGE, status="done", seconds=state.seconds + seconds)
        run.journal.event(STAGE, "done", seconds=round(seconds, 1))
        remove_folder(run.layout.checkpoint(STAGE))
        return _read_samples(run.layout.best_of_n_samples)


def _score_answers(config: Config, run: Run, count: int) -> list[dict[str, Any]]:
    """A row a prompt: its answers' rewards and gold, sampled at RL's temperature."""
    from sawyer.models import open_language_model
    from sawyer.stages.rl import RolloutSettings, collect_rollout, load_prompts, open_scorer
    from sawyer.train import StepAnswers, answer_in_steps, choose_device, chunks_of, generator

    policy = open_language_model(run.layout.model("sft"))
    placement = choose_device(config.device, config.precision, width=policy.width, vocabulary=policy.vocabulary)
    policy.model.to(placement.device)
    scorer = open_scorer(config, run, placement.device)
    settings = RolloutSettings.of(config, placement)

    def answer(index: int, chunk: Sequence[Prompt]) -> StepAnswers:
        prompts = [prompt for prompt in chunk for _ in range(count)]
        rollout = collect_rollout(policy, prompts, scorer, settings, generator(config.seed, STAGE, index))
        proxy = rollout.scores.tolist()
        golds = [gold(prompt.text, text).score for prompt, text in zip(prompts, rollout.texts, strict=True)]
        groups = zip(chunk, chunks_of(proxy, count), chunks_of(golds, count), strict=True)
        rows = [{"prompt": prompt.text, "proxy": proxies, "gold": truths} for prompt, proxies, truths in groups]
        return StepAnswers(rows=rows, metrics={"proxy": fmean(proxy), "gold": fmean(golds)}, tokens=rollout.tokens)

    chunks = chunks_of(load_prompts(config, run, policy, scorer)[1], ANSWERS_A_STEP // count)
    return answer_in_steps(run, STAGE, chunks, answer, save_every_seconds=config.save_every_seconds, show="gold")


def _read_samples(path: Path) -> Samples:
    rows = read_rows(path)
    try:
        return Samples(
            prompts=tuple(row["prompt"] for row in rows),
            proxy=tuple(tuple(map(float, row["proxy"])) for row in rows),
            gold=tuple(tuple(map(float, row["gold"])) for row in rows),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise damage_error(path, error, f"delete {path}, then run the same command again") from error
