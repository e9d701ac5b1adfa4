"""Many answers of the SFT model to each prompt, judged by what RL is paid for and by the truth: all that best-of-n needs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Literal

from sawyer.config import Config
from sawyer.pipeline import fingerprint, product
from sawyer.runs import Listener, Run, damaged, handle_signals, open_run, read_rows, remove_folder, write_text
from sawyer.worlds import gold

STAGE = "best_of_n"
ANSWERS_A_STEP = 1024
Measure = Literal["proxy", "gold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """P prompts with N answers each: what RL is paid for them, and the truth."""

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
        found: list[float] = best_of_n_mean(proxy, values, n).tolist()
        return found

    def deviation(self, measure: Measure) -> float:
        """Standard deviation over all answers."""
        rows = self.proxy if measure == "proxy" else self.gold
        return pstdev([value for row in rows for value in row])


def draw(own: Config, answers: int, listeners: Sequence[Listener]) -> Samples:
    """`answers` of the SFT model to each of RL's held-out prompts; `own` is a run that has an SFT and a reward model.

    It can be interrupted; what was drawn before under the same settings is read. Raises SawyerError.
    """
    with open_run(Path(own.out)) as opened, handle_signals(opened.stop):
        opened.journal.listeners.extend(listeners)
        asked = (
            fingerprint(own, "rl")
            + f" {answers} "
            + " ".join(opened.manifest.content_hash(stage, product(opened.layout, stage)) for stage in ("sft", "reward"))
        )
        state = opened.manifest.stage(STAGE)
        if state.fingerprint == asked and state.status == "done" and opened.layout.drawn.exists():
            opened.journal.event(STAGE, "skip", message="already done")
            return _read(opened.layout.drawn)
        if state.fingerprint != asked:
            remove_folder(opened.layout.checkpoint(STAGE))
        opened.manifest.update(STAGE, status="running", fingerprint=asked)
        opened.journal.event(STAGE, "start")
        from sawyer.models import remote_code
        from sawyer.train import run_steps

        began = time.monotonic()
        with remote_code(own.trust_remote_code):
            work = SampleLoop(own, opened, answers)
        run_steps(opened, STAGE, work, save_every_seconds=own.save_every_seconds, show="gold")
        write_text(opened.layout.drawn, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in work.rows))
        opened.manifest.update(STAGE, status="done", seconds=state.seconds + time.monotonic() - began)
        opened.journal.event(STAGE, "done", seconds=round(time.monotonic() - began, 1))
        remove_folder(opened.layout.checkpoint(STAGE))
        return _read(opened.layout.drawn)


class SampleLoop:
    """Some prompts a step: their answers at RL's temperature, what RL is paid for them, and the truth."""

    def __init__(self, config: Config, run: Run, answers: int) -> None:
        from sawyer.models import open_language_model
        from sawyer.stages.rl import RolloutSettings, load_prompts, open_scorer
        from sawyer.train import choose_device

        self.config, self.answers = config, answers
        self.speaker = open_language_model(run.layout.model("sft"))
        speaker = self.speaker
        self.place = choose_device(config.device, config.precision, width=speaker.width, vocabulary=speaker.vocabulary)
        self.speaker.model.to(self.place.device)
        self.scorer = open_scorer(config, run, self.place.device)
        self.settings = RolloutSettings.of(config, self.place)
        self.prompts = load_prompts(config, run, self.speaker, self.scorer)[1]
        self.each, self.step_tokens = max(1, ANSWERS_A_STEP // answers), 0
        self.steps = -(-len(self.prompts) // self.each)
        self.rows: list[dict[str, Any]] = []

    def step(self, index: int) -> Mapping[str, float]:
        from sawyer.stages.rl import collect_rollout
        from sawyer.train import generator

        chosen = self.prompts[index * self.each : (index + 1) * self.each]
        repeated = [prompt for prompt in chosen for _ in range(self.answers)]
        draws = generator(self.config.seed, STAGE, index)
        episodes = collect_rollout(self.speaker, repeated, self.scorer, self.settings, draws)
        self.step_tokens = episodes.tokens
        proxy = episodes.scores.tolist()
        truth = [gold(prompt.text, text).score for prompt, text in zip(repeated, episodes.texts, strict=True)]
        for place, prompt in enumerate(chosen):
            part = slice(place * self.answers, (place + 1) * self.answers)
            self.rows.append({"prompt": prompt.text, "proxy": proxy[part], "gold": truth[part]})
        return {"proxy": fmean(proxy), "gold": fmean(truth)}

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load(self, state: Mapping[str, Any]) -> None:
        self.rows = [dict(row) for row in state["rows"]]


def _read(path: Path) -> Samples:
    rows = read_rows(path)
    try:
        return Samples(
            prompts=tuple(row["prompt"] for row in rows),
            proxy=tuple(tuple(map(float, row["proxy"])) for row in rows),
            gold=tuple(tuple(map(float, row["gold"])) for row in rows),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise damaged(path, error, f"delete {path}, then run the same command again") from error
