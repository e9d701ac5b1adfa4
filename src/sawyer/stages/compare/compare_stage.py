"""Answer the comparison's prompts with every model of the run under every setting, and judge the answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from sawyer.config import Config, Start, left_out, required_section
from sawyer.errors import DataError
from sawyer.models import RewardScorer, open_tokenizer, policy_logprobs, read_extra
from sawyer.records import Prompt, once_each, prompt_of
from sawyer.runs import Run, round_before, write_text
from sawyer.stages.compare.comparison_gates import STAGE, compare_gates
from sawyer.stages.compare.comparison_rows import ComparedAnswer, Job, ModelAnswer, Setting
from sawyer.stages.compare.win_rates import comparison_figures
from sawyer.text import Row, batches
from sawyer.train import (
    Answerer,
    StepAnswers,
    answer_in_steps,
    choose_device,
    chunks_of,
    distributed,
    generator,
    read_data,
    readable,
    report_remarks,
)
from sawyer.worlds import find_task, gold, questions

ANSWERS_A_STEP = 512
BEST_OF = 8  # the control that trains nothing: the best of so many SFT samples by reward
TEMPERATURES: Mapping[str, float] = {"t1": 1.0, "t07": 0.7, "greedy": 1.0, "deliberate": 1.0, "best_of_8": 1.0}
SAMPLE_SETTINGS = ("t1", "t07")  # plain samples of the model itself: only these have a KL
FOREIGN_TEMPLATE = "auto"  # a model from elsewhere is prompted as its makers mean it


def compare(config: Config, run: Run) -> dict[str, Any]:
    """Write `compare.jsonl`, a row for each prompt, model and setting; returns the key figures."""
    scorer = _open_scorer(config, run)
    comparison = Comparison(config, run, scorer)
    if words := left_out(config, STAGE):
        run.journal.event(STAGE, "left_out", message=words)
    run.journal.event(
        STAGE,
        "plan",
        message=f"{len(comparison.prompts):,} prompts to {', '.join(comparison.models)} in {len(comparison.jobs)} batches of "
        "answers",
    )
    rows = answer_in_steps(run, STAGE, comparison.jobs, comparison.answer, save_every_seconds=config.save_every_seconds)
    answers = _judge(comparison, [ModelAnswer(**row) for row in rows], scorer)
    text = "".join(json.dumps(answer.row(), ensure_ascii=False) + "\n" for answer in answers)
    distributed.on_rank_zero(lambda: write_text(run.layout.compare, text))
    figures = comparison_figures(answers, seed=config.seed)
    kept_start = "rl" in comparison.models and read_extra(run.layout.model("rl")).get("best_step") == 0
    for gate in compare_gates(figures, comparison.start, config, kept_start=kept_start):
        run.journal.gate(gate)
    return figures


class Comparison:
    """Which models answer which prompts under which settings; `jobs` are the steps."""

    def __init__(self, config: Config, run: Run, scorer: RewardScorer | None) -> None:
        self.config, self.run, self.settings = config, run, required_section(config.compare, "compare")
        self.models = _models(config, run)
        self.start = "base" if config.sft is None else "sft"  # what RL starts from
        # How many answers the RL model gives to choose one of: where RL trained nothing, it is the SFT model and that choice.
        self.best_of = config.rl.group_size if config.rl is not None and config.rl.algorithm == "best_of_n" else 1
        self.prompts = _read_prompts(config, run, self.models, scorer)
        self.jobs = [
            Job(model=model, setting=setting, start=numbers[0], end=numbers[-1] + 1)
            for model in self.models
            for setting, count in self._settings_of(model)
            for numbers in chunks_of(range(count), ANSWERS_A_STEP // self._answers_a_prompt(model, setting))
        ]
        self._answerer: tuple[str, Answerer] | None = None
        self._opened_before: set[str] = set()
        self._check_room()

    def _check_room(self) -> None:
        """Warn of prompts that leave no room for an answer: they are not answered. The run's models share a tokenizer."""
        answerer = self.open(next(iter(self.models)))
        long = sum(not answerer.fits(prompt) for prompt in self.prompts)
        if long == len(self.prompts):
            raise DataError("compare.prompts has no prompt that fits the models", todo="give shorter prompts")
        if long:
            self._warn_of_long(long, len(self.prompts), "the models'", answerer, " and are left out")

    def _warn_of_long(self, long: int, count: int, whose: str, answerer: Answerer, words: str, model: str = "") -> None:
        message = f"{long:,} of {count:,} prompts leave no room for an answer in {whose} "
        self.run.journal.event(
            STAGE, "warning", message=f"{model}{message}{answerer.policy.prompt_encoder.context} tokens{words}"
        )

    def _settings_of(self, model: str) -> list[tuple[Setting, int]]:
        """(setting, number of prompts): beam search is slow, so at most `deliberate_limit` prompts get it."""
        count = len(self.prompts)
        if model == "rl" and self.best_of > 1:  # the best of several greedy answers is that answer
            return [("t1", count), ("t07", count)]
        settings: list[tuple[Setting, int]] = [("t1", count), ("t07", count), ("greedy", count)]
        settings.append(("deliberate", min(count, self.settings.deliberate_limit)))
        has_judge = self.config.reward is not None or self.settings.reward is not None
        if model == self.start and has_judge and self.config.has_policy:
            settings.append(("best_of_8", count))
        return settings

    def _answers_a_prompt(self, model: str, setting: Setting) -> int:
        """How many answers a prompt gets, of which the best stays."""
        return BEST_OF if setting == "best_of_8" else self.best_of if model == "rl" else 1

    def answer(self, _: int, job: Job) -> StepAnswers:
        """The answers of one step, as `ModelAnswer`'s fields."""
        answerer = self.open(job.model)
        short_enough = [i for i in range(job.start, job.end) if answerer.fits(self.prompts[i])]
        long = job.end - job.start - len(short_enough)
        if long and job.model in self.settings.models and job.setting == "t1":
            self._warn_of_long(long, job.end - job.start, "its", answerer, ": left out", f"{job.model}: ")
        numbers = [i for i in short_enough for _ in range(self._answers_a_prompt(job.model, job.setting))]
        completions, tokens = answerer.answer(
            [self.prompts[i] for i in numbers],
            max_new_tokens=self.settings.max_new_tokens,
            # Seeded by setting and prompts, not by model: every model answers with the same draws.
            generator=generator(self.config.seed, STAGE, job.setting, job.start),
            temperature=TEMPERATURES[job.setting],
            greedy=job.setting == "greedy",
            beams=job.setting == "deliberate",
        )
        rows = [
            ModelAnswer(
                number=number,
                prompt=self.prompts[number].text,
                model=job.model,
                setting=job.setting,
                response=answerer.decode(completion),
                ids=tuple(completion.ids),
                ended=completion.ended,
            )
            for number, completion in zip(numbers, completions, strict=True)
        ]
        length = sum(len(row.ids) for row in rows) / max(1, len(rows))
        return StepAnswers(rows=[asdict(row) for row in rows], metrics={"length": length}, tokens=tokens)

    def open(self, model: str) -> Answerer:
        """The model by its name in the comparison; one at a time is held."""
        if self._answerer is None or self._answerer[0] != model:
            self.close()
            start = self.models[model]
            answerer = Answerer.open(
                *(self.run, STAGE, model, start.path(self.run.layout.model), start.template),
                device=self.config.device,
                precision=self.config.precision,
                is_first=model not in self._opened_before,
            )
            self._opened_before.add(model)
            self._answerer = (model, answerer)
        return self._answerer[1]

    def close(self) -> None:
        """Release the model that is held."""
        self._answerer = None


def _judge(comparison: Comparison, answers: Sequence[ModelAnswer], scorer: RewardScorer | None) -> list[ComparedAnswer]:
    """Reward, gold and KL beside each answer; of several to a prompt the best stays, the others are dropped."""
    config = comparison.config
    prompts = [comparison.prompts[answer.number] for answer in answers]
    rewards = scorer(prompts, [answer.response for answer in answers]) if scorer else None
    if scorer and scorer.cut:
        comparison.run.journal.event(
            STAGE,
            "warning",
            message=f"{scorer.cut:,} of {len(answers):,} answers did not fit the reward model's "
            f"{scorer.prompt_encoder.context} tokens beside their prompts and were scored without their end",
        )
    kls = _kls(comparison, answers)
    rows: list[ComparedAnswer] = []
    for i, answer in enumerate(answers):
        score = gold(answer.prompt, answer.response) if config.world is not None else None
        rows.append(
            ComparedAnswer(
                number=answer.number,
                prompt=answer.prompt,
                model=answer.model,
                setting=answer.setting,
                response=answer.response,
                length=len(answer.ids),
                ended=answer.ended,
                reward=rewards[i] if rewards is not None else None,
                gold=score.score if score is not None else None,
                parts=tuple(score.reasons) if score is not None else None,
                kl=kls.get(i),
            )
        )
    return _best_answers(rows, config.rl.missing_eos_penalty if config.rl is not None else 0.0)


def _best_answers(rows: Sequence[ComparedAnswer], penalty: float) -> list[ComparedAnswer]:
    """One row a prompt, model and setting: of several the one with the highest reward, the first of equals; RL's, as RL
    chooses, less the penalty of an answer that did not end."""
    best: dict[tuple[int, str, str], tuple[float, ComparedAnswer]] = {}
    for row in rows:
        key = (row.number, row.model, row.setting)
        value = (row.reward or 0.0) - (penalty if row.model == "rl" and not row.ended else 0.0)
        if key not in best or value > best[key][0]:
            best[key] = value, row
    return [row for _, row in best.values()]


@torch.no_grad()
def _kls(comparison: Comparison, answers: Sequence[ModelAnswer]) -> dict[int, float]:
    """log pi_rl - log pi_start of the RL model's plain samples, at the temperature that they were drawn at: its mean is the KL
    of the two models under that setting. Greedy and beam answers are no samples, so that they have none."""
    if "rl" not in comparison.models or comparison.best_of > 1:  # the best of several answers is no sample of a model
        return {}
    comparison.close()  # both are read as they were saved: weights packed for sampling round differently
    sums: dict[str, dict[int, float]] = {"rl": {}, comparison.start: {}}
    for model, setting in ((model, setting) for model in sums for setting in SAMPLE_SETTINGS):
        answerer = comparison.open(model)
        encoder = answerer.policy.prompt_encoder
        indices = [i for i, answer in enumerate(answers) if (answer.model, answer.setting) == ("rl", setting) and answer.ids]
        prompts = [encoder.prompt(comparison.prompts[answers[i].number]) for i in indices]
        rows = [encoder.answer_ids(prompt, answers[i].ids) for prompt, i in zip(prompts, indices, strict=True)]
        read = partial(_logprob_sums, answerer, rows, TEMPERATURES[setting], comparison.config.micro_batch_tokens)
        sums[model] |= dict(zip(indices, distributed.map_sharded([len(row.ids) for row in rows], read), strict=True))
    return {i: value - sums[comparison.start][i] for i, value in sums["rl"].items()}


def _logprob_sums(
    answerer: Answerer, rows: Sequence[Row], temperature: float, token_budget: int, indices: Sequence[int]
) -> list[float]:
    """log pi of the answer in each of the rows at `indices`."""
    sums = [0.0] * len(indices)
    policy, placement = answerer.policy, answerer.placement
    chosen = [rows[i] for i in indices]
    for positions, batch in batches(chosen, pad_id=policy.prompt_encoder.pad_id, token_budget=token_budget):
        with placement.autocast():
            tokens = policy_logprobs(policy.model, batch.to(placement.device), temperature=temperature)
        for position, value in zip(positions, tokens.logprobs.sum(1).tolist(), strict=True):
            sums[position] = value
    return sums


def _models(config: Config, run: Run) -> dict[str, Start]:
    """The models there are, by name: the one that the run starts from, the stages that the config names, those it names beside
    them."""
    models: dict[str, Start] = {}
    if config.model is not None:
        models["base"] = Start(source=config.model, template=config.template)
    elif config.base is not None:
        models["base"] = Start(stage="base", template=config.template)
    if config.sft is not None:
        models["sft"] = Start(stage="sft")
    if config.rl is not None and config.rl.algorithm == "best_of_n" and config.rl.rewards:
        run.journal.event(
            STAGE,
            "warning",
            message="RL is left out: best_of_n chooses its answers by rl.rewards, which only the RL stage loads",
        )
    elif config.rl is not None:
        models["rl"] = Start(stage="rl")
        # What the last round's people gained: the model from before their judgements answers, too. A best-of-n is no model.
        before = round_before(run.layout) if config.rl.algorithm != "best_of_n" else None
        models |= {} if before is None else {before[0]: Start(source=str(before[1]))}
    others = required_section(config.compare, "compare").models
    return models | {name: Start(source=source, template=FOREIGN_TEMPLATE) for name, source in others.items()}


def _open_scorer(config: Config, run: Run) -> RewardScorer | None:
    source = required_section(config.compare, "compare").reward
    if config.reward is None and source is None:
        return None
    device = choose_device(config.device, config.precision, width=0).device
    if source is None:
        return RewardScorer.load(run.layout.model("reward"), device=device, map_rows=distributed.map_sharded)
    scorer = RewardScorer.load(source, device=device, fallback=config.template, map_rows=distributed.map_sharded)
    if scorer.note:
        run.journal.event(STAGE, "warning", message=f"compare.reward: {scorer.note}")
    return scorer


def _read_prompts(config: Config, run: Run, models: Mapping[str, Start], scorer: RewardScorer | None) -> list[Prompt]:
    """The prompts that every model and the scorer can read: a row that one template refuses is left out."""
    settings = required_section(config.compare, "compare")
    if not settings.prompts:
        prompts = [prompt_of(question) for question in questions()]
    else:
        read = once_each(
            read_data(run, STAGE, settings.prompts, want="prompts", columns=settings.columns, max_bad_rows=config.max_bad_rows)
        )
        report_remarks(run, STAGE, "compare.prompts", read)
        readers: dict[str, Any] = {
            f"`{name}`": open_tokenizer(start.path(run.layout.model), start.template)[0] for name, start in models.items()
        }
        readers |= {"the reward model": scorer.prompt_encoder} if scorer is not None else {}
        read = readable(run, STAGE, read, readers, config.max_bad_rows)
        prompts = [prompt for prompt in read.records if isinstance(prompt, Prompt)]
    if not prompts:
        raise DataError("compare.prompts has no prompt", expected="at least one")
    prompts = prompts[: settings.limit]
    if config.world is not None:
        for prompt in prompts:
            find_task(prompt.text)  # raises for a prompt outside the world before anything is answered
    return prompts
