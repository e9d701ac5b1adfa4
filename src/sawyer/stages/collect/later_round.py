"""A later round: answers of the RL model and the SFT model to the prompts of which the reward model is least sure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from sawyer.config import Collect, Config, required_section, start_of
from sawyer.errors import DataError, RunError
from sawyer.models import RewardScorer, score_details
from sawyer.records import Answer, JudgedPrompt, Prompt, json_lines, once_each, scored_row
from sawyer.runs import Run, write_text
from sawyer.stages.collect.judge_votes import judge_collected
from sawyer.train import (
    Answerer,
    StepAnswers,
    add_answer_rewards,
    answer_in_steps,
    answer_reward_row,
    chunks_of,
    distributed,
    generator,
    read_data,
)

ANSWERS_A_STEP = 512
RANDOM_SHARE = 0.2  # of the prompts, drawn whatever their uncertainty: figures on them are unbiased
POOL_FACTOR = 4  # prompts that are answered for each one that people will judge


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundAnswer:
    """One answer and what the run's reward model says of it."""

    response: str
    source: str  # rl or sft
    reward: float
    disagreement: float | None  # of an ensemble; None: a single model


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptChoice:
    """Which prompts are kept: indices into those that were answered, in their order."""

    uncertain: tuple[int, ...]
    by_chance: tuple[int, ...]

    @property
    def indices(self) -> tuple[int, ...]:
        return tuple(sorted({*self.uncertain, *self.by_chance}))


def collect_round(config: Config, run: Run, number: int) -> dict[str, Any]:
    """Write the answers of round `number` (2 or more), all waiting for a score; returns the round's key figures.

    Half of a prompt's answers come from the RL model (of an odd number one more), the others from the SFT model. Of the prompts
    in `collect.prompts` up to `POOL_FACTOR` times `collect.limit` are answered. Kept are those of which the reward model is
    least sure, and `RANDOM_SHARE` at random; without a limit, all. Its rewards go to `reward/answer_rewards.jsonl`, not to
    those who judge. Raises RunError where a model is missing, or the round's file is there already.
    """
    settings, stage = required_section(config.collect, "collect"), run.layout.collection(number)
    _check_round(run, number)
    answerers = _open_models(config, run, stage)
    device = answerers["rl"].placement.device
    scorer = RewardScorer.load(run.layout.model("reward"), device=device, map_rows=distributed.map_sharded)
    prompts = _prompts_to_consider(config, run, stage, settings, list(answerers.values()))
    shares = {"rl": settings.answers - settings.answers // 2, "sft": settings.answers // 2}
    run.journal.event(
        stage,
        "plan",
        message=f"{len(prompts):,} prompts x ({shares['rl']} answers of the RL model and {shares['sft']} of the SFT model)",
    )

    def answer(index: int, chunk: Sequence[Prompt]) -> StepAnswers:
        """The chunk's answers with their rewards: a list a prompt, different texts only."""
        texts: list[dict[str, str]] = [{} for _ in chunk]  # text -> source
        lengths, total = list[int](), 0
        for source, count in shares.items():
            completions, tokens = answerers[source].answer(
                [prompt for prompt in chunk for _ in range(count)],
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                generator=generator(config.seed, stage, source, index),
            )
            total += tokens
            lengths += [len(completion.ids) for completion in completions]
            for of_prompt, completions_of_prompt in zip(texts, chunks_of(completions, count), strict=True):
                for completion in completions_of_prompt:
                    of_prompt.setdefault(answerers[source].decode(completion), source)
        rows = _answer_rows(scorer, chunk, texts)
        return StepAnswers(rows=rows, metrics={"length": sum(lengths) / len(lengths)}, tokens=total)

    chunks = chunks_of(prompts, ANSWERS_A_STEP // settings.answers)
    rows = answer_in_steps(run, stage, chunks, answer, save_every_seconds=config.save_every_seconds)
    answers = [[RoundAnswer(**fields) for fields in row] for row in rows]
    choice = choose_prompts(answers, settings.limit, random.Random(f"{config.seed}/{stage}"))
    if not choice.indices:
        raise DataError(
            f"the models gave every one of {len(prompts):,} prompts a single answer",
            expected="two different answers to compare",
            todo="raise collect.temperature or collect.answers, or name other prompts",
        )
    distributed.on_rank_zero(lambda: _write(run, number, prompts, answers, choice))
    figures = round_figures(number, answers, choice)
    run.journal.event(stage, "chosen", message=_in_words(figures), **figures)
    if settings.judge is not None:
        return figures | judge_collected(config, run, number) | {"waiting": 0}
    return figures


def choose_prompts(answers: Sequence[Sequence[RoundAnswer]], limit: int | None, rng: random.Random) -> PromptChoice:
    """Up to `limit` prompts: the least sure ones, then `RANDOM_SHARE` of the limit from the others at random.

    A prompt with a single answer has nothing to compare and is never kept.
    """
    open_prompts = [i for i, prompt_answers in enumerate(answers) if len(prompt_answers) > 1]
    if limit is None or limit >= len(open_prompts):
        return PromptChoice(uncertain=(), by_chance=tuple(open_prompts))
    number_by_chance = round(RANDOM_SHARE * limit)
    by_uncertainty = sorted(
        open_prompts, key=lambda i: prompt_uncertainty(answers[i]), reverse=True
    )  # stable: ties in file order
    uncertain, others = by_uncertainty[: limit - number_by_chance], by_uncertainty[limit - number_by_chance :]
    return PromptChoice(uncertain=tuple(uncertain), by_chance=tuple(rng.sample(others, number_by_chance)))


def prompt_uncertainty(answers: Sequence[RoundAnswer]) -> float:
    """How unsure the reward model is of two or more answers to one prompt; compared only with others of the same model.

    An ensemble's mean disagreement, else minus the smallest gap between two rewards.
    """
    spreads = [answer.disagreement for answer in answers if answer.disagreement is not None]
    if spreads:
        return sum(spreads) / len(spreads)
    rewards = sorted(answer.reward for answer in answers)
    return -min(high - low for low, high in pairwise(rewards))


def round_figures(number: int, answers: Sequence[Sequence[RoundAnswer]], choice: PromptChoice) -> dict[str, Any]:
    """The round's key figures; means of the rewards are over all answers, kept or not."""
    every = [answer for prompt_answers in answers for answer in prompt_answers]
    num_answers = sum(len(answers[i]) for i in choice.indices)
    figures: dict[str, Any] = {
        "round": number,
        "considered": len(answers),
        "single_answer_prompts": sum(len(prompt_answers) < 2 for prompt_answers in answers),
        "prompts": len(choice.indices),
        "random_prompts": len(choice.by_chance),
        "answers": num_answers,
        "waiting": num_answers,
        "uncertainty": "disagreement" if any(answer.disagreement is not None for answer in every) else "reward gap",
    }
    for source in ("rl", "sft"):
        rewards = [answer.reward for answer in every if answer.source == source]
        figures |= {f"reward_{source}": sum(rewards) / len(rewards)} if rewards else {}
    return figures


def _in_words(figures: Mapping[str, Any]) -> str:
    by = "the members' disagreement" if figures["uncertainty"] == "disagreement" else "the smallest gap between two rewards"
    same = (
        f"; {figures['single_answer_prompts']:,} prompts got one answer only and are left out"
        if figures["single_answer_prompts"]
        else ""
    )
    if figures["random_prompts"] == figures["prompts"]:
        return f"all {figures['prompts']:,} prompts are kept{same}"
    uncertain = figures["prompts"] - figures["random_prompts"]
    return (
        f"{figures['prompts']:,} of {figures['considered']:,} prompts are kept: {uncertain:,} of which the reward model is "
        f"least sure ({by}), and {figures['random_prompts']:,} at random ({RANDOM_SHARE:.0%}){same}"
    )


def _check_round(run: Run, number: int) -> None:
    layout = run.layout
    if number < 2:
        raise RunError(f"round {number} is no later round", expected="2 or more", todo="round 1 is `sawyer collect`")
    if not layout.answers_of(number - 1).exists():
        raise RunError(
            f"{layout.answers_of(number - 1)} does not exist",
            expected="the answers of the round before",
            why="rounds are counted without gaps",
            todo=f"collect round {number - 1} first",
        )
    if layout.answers_of(number).exists():
        raise RunError(
            f"{layout.answers_of(number)} exists: round {number} is collected already",
            why="people may have judged its answers",
            todo=f"rate them (`sawyer rate {layout.root}`), or collect round {number + 1}",
        )


def _open_models(config: Config, run: Run, stage: str) -> dict[str, Answerer]:
    """The RL model and the SFT model, or else the model that RL starts from."""
    start = start_of(config, "collect")
    assert start is not None
    sources: dict[str, tuple[str | Path, str | None]] = {
        "rl": (run.layout.model("rl"), None),
        "sft": (start.path(run.layout.model), start.template),
    }
    for name in ("rl", "reward"):
        if not run.layout.model(name).exists():
            raise RunError(
                f"{run.layout.model(name)} does not exist",
                expected="a finished run with a reward model and an RL model",
                why="a later round asks the RL model, and the reward model says where it is least sure",
                todo="run `sawyer run` first",
            )
    names = {"rl": "the RL model", "sft": "the SFT model"}
    return {
        name: Answerer.open(run, stage, names[name], source, template, device=config.device, precision=config.precision)
        for name, (source, template) in sources.items()
    }


def _prompts_to_consider(
    config: Config, run: Run, stage: str, settings: Collect, answerers: Sequence[Answerer]
) -> list[Prompt]:
    """The prompts that fit every model, in the file's order: all, or a seeded sample of `POOL_FACTOR` times the limit."""
    read = read_data(
        run,
        stage,
        settings.prompts,
        want="prompts",
        columns=settings.columns,
        max_bad_rows=config.max_bad_rows,
        prompt_encoder=answerers[0].policy.prompt_encoder,
    )
    records = once_each(read).records
    prompts = [p for p in records if isinstance(p, Prompt) and all(one.fits(p) for one in answerers)]
    if not prompts:
        raise DataError("collect.prompts has no prompt that fits the models", todo="give shorter prompts")
    count = len(prompts) if settings.limit is None else min(len(prompts), POOL_FACTOR * settings.limit)
    indices = sorted(random.Random(f"{config.seed}/{stage}/prompts").sample(range(len(prompts)), count))
    return [prompts[i] for i in indices]


def _answer_rows(
    scorer: RewardScorer, chunk: Sequence[Prompt], texts: Sequence[Mapping[str, str]]
) -> list[list[dict[str, Any]]]:
    """Each prompt's texts with source and reward, as plain values."""
    every = [(prompt, text, source) for prompt, sources in zip(chunk, texts, strict=True) for text, source in sources.items()]
    details = score_details(scorer, [prompt for prompt, _, _ in every], [text for _, text, _ in every])
    rows = (
        asdict(RoundAnswer(response=text, source=source, reward=detail.reward, disagreement=detail.disagreement))
        for (_, text, source), detail in zip(every, details, strict=True)
    )
    return [list(islice(rows, len(sources))) for sources in texts]


def _write(
    run: Run, number: int, prompts: Sequence[Prompt], answers: Sequence[Sequence[RoundAnswer]], choice: PromptChoice
) -> None:
    """The answers for those who judge, last: once that file is there, the round is collected."""
    rewards = [
        answer_reward_row(prompts[i], answer.response, answer.reward, answer.disagreement)
        for i in choice.indices
        for answer in answers[i]
    ]
    records = [
        JudgedPrompt(
            prompt=prompts[i],
            answers=tuple(Answer(response=answer.response, score=None, source=answer.source) for answer in answers[i]),
        )
        for i in choice.indices
    ]
    add_answer_rewards(run.layout, rewards)
    write_text(run.layout.answers_of(number), json_lines(scored_row(record) for record in records))
