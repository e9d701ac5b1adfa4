"""Answer the comparison's prompts with every model of the run under every setting, and judge the answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from sawyer.config import Config, Start, left_out, required_section
from sawyer.errors import DataError
from sawyer.models import (
    Completion,
    LanguageModel,
    RewardScorer,
    beam_search,
    freeze_for_inference,
    open_language_model,
    open_tokenizer,
    policy_logprobs,
    read_extra,
    sample,
)
from sawyer.records import Prompt, once_each, prompt_of
from sawyer.runs import Run, write_text
from sawyer.stages.compare.comparison_gates import compare_gates
from sawyer.stages.compare.comparison_rows import Compared, Job, ModelAnswer, Setting
from sawyer.stages.compare.win_rates import figures_of
from sawyer.text import Row, batches
from sawyer.train import (
    Placement,
    choose_device,
    distributed,
    generator,
    read_data,
    readable,
    record_fast_paths,
    report_remarks,
    run_steps,
)
from sawyer.worlds import find_task, gold, questions

STAGE = "compare"
ANSWERS_A_STEP = 512
BEST_OF = 8  # the control that trains nothing: the best of so many SFT samples by reward
TEMPERATURES: Mapping[str, float] = {"t1": 1.0, "t07": 0.7, "greedy": 1.0, "best_of_8": 1.0}
SAMPLED = ("t1", "t07")  # plain samples of the model itself: of these there is a KL
OWN_TEMPLATE = "auto"  # a model from elsewhere is asked as its makers mean it


def compare(config: Config, run: Run) -> dict[str, Any]:
    """Write `compare.jsonl`, a row for each prompt, model and setting; returns the key figures."""
    scorer = _scorer(config, run)
    work = CompareLoop(config, run, scorer)
    if words := left_out(config, STAGE):
        run.journal.event(STAGE, "left_out", message=words)
    run.journal.event(
        STAGE,
        "plan",
        message=f"{len(work.prompts):,} prompts to {', '.join(work.models)} in {work.steps} batches of answers",
    )
    run_steps(run, STAGE, work, save_every_seconds=config.save_every_seconds, show="length")
    rows = _judged(config, run, work, scorer)
    text = "".join(json.dumps(row.row(), ensure_ascii=False) + "\n" for row in rows)
    distributed.on_rank_zero(lambda: write_text(run.layout.compare, text))
    figures = figures_of(rows, seed=config.seed)
    kept_start = "rl" in work.models and read_extra(run.layout.model("rl")).get("best_step") == 0
    for gate in compare_gates(figures, work.start, config, kept_start=kept_start):
        run.journal.gate(gate)
    return figures


class CompareLoop:
    """Answers in steps: one model, one setting, some prompts."""

    def __init__(self, config: Config, run: Run, scorer: RewardScorer | None) -> None:
        self.config, self.run, self.asked = config, run, required_section(config.compare, "compare")
        self.models, self.step_tokens = _models(config, run), 0
        self.start = "base" if config.sft is None else "sft"  # what RL starts from
        # How many answers the RL model gives to choose one of: where RL trained nothing, it is the SFT model and that choice.
        self.best_of = config.rl.group_size if config.rl is not None and config.rl.algorithm == "best_of_n" else 1
        self.prompts = _prompts(config, run, self.models, scorer)
        self.jobs = [
            Job(model=model, setting=setting, start=start, end=min(start + each_step, count))
            for model in self.models
            for setting, count in self._settings(model)
            for each_step in (max(1, ANSWERS_A_STEP // self._each(model, setting)),)
            for start in range(0, count, each_step)
        ]
        self.steps = len(self.jobs)
        self.rows: list[ModelAnswer] = []
        self.opened: tuple[str, LanguageModel, Placement] | None = None
        self._check_room()

    def _check_room(self) -> None:
        """Prompts that leave no room for an answer are not answered: how many is said. The run's models share a tokenizer."""
        prompt_encoder = self.open(next(iter(self.models)))[0].prompt_encoder
        long = sum(not prompt_encoder.fits(prompt) for prompt in self.prompts)
        if long == len(self.prompts):
            raise DataError("compare.prompts has no prompt that fits the models", todo="give shorter prompts")
        if long:
            self.run.journal.event(
                STAGE,
                "warning",
                message=f"{long:,} of {len(self.prompts):,} prompts leave no room for an answer in the models' "
                f"{prompt_encoder.context} tokens and are left out",
            )

    def _settings(self, model: str) -> list[tuple[Setting, int]]:
        """(setting, number of prompts): beam search is slow, so at most `deliberate_limit` prompts get it."""
        everyone = len(self.prompts)
        if model == "rl" and self.best_of > 1:  # the best of several greedy answers is that answer
            return [("t1", everyone), ("t07", everyone)]
        settings: list[tuple[Setting, int]] = [("t1", everyone), ("t07", everyone), ("greedy", everyone)]
        settings.append(("deliberate", min(everyone, self.asked.deliberate_limit)))
        judged = self.config.reward is not None or self.asked.reward is not None
        if model == self.start and judged and self.config.has_policy:
            settings.append(("best_of_8", everyone))
        return settings

    def _each(self, model: str, setting: Setting) -> int:
        """How many answers a prompt gets, of which one is kept."""
        return BEST_OF if setting == "best_of_8" else self.best_of if model == "rl" else 1

    def step(self, index: int) -> Mapping[str, float]:
        job = self.jobs[index]
        speaker, place = self.open(job.model)
        prompts = self.prompts[job.start : job.end]
        fitting = [prompt for prompt in prompts if speaker.prompt_encoder.fits(prompt)]
        if len(fitting) < len(prompts) and job.model in self.asked.models and job.setting == "t1":
            words = f"{len(prompts) - len(fitting):,} of {len(prompts):,} prompts leave no room for an answer in its "
            self.run.journal.event(
                STAGE, "warning", message=f"{job.model}: {words}{speaker.prompt_encoder.context} tokens: left out"
            )
        fitting = [prompt for prompt in fitting for _ in range(self._each(job.model, job.setting))]
        draw = generator(self.config.seed, STAGE, job.setting, job.start)
        completions = self._answer(speaker, place, fitting, job.setting, draw)
        numbers = {id(prompt): job.start + i for i, prompt in enumerate(prompts)}
        for prompt, completion in zip(fitting, completions, strict=True):
            self.rows.append(
                ModelAnswer(
                    number=numbers[id(prompt)],
                    prompt=prompt.text,
                    model=job.model,
                    setting=job.setting,
                    response=speaker.prompt_encoder.decode(completion.ids),
                    ids=tuple(completion.ids),
                    ended=completion.ended,
                )
            )
        drawn = sum(len(completion.ids) for completion in completions)
        self.step_tokens = drawn + sum(len(speaker.prompt_encoder.prompt(prompt)) for prompt in fitting)
        return {"length": drawn / max(1, len(completions))}

    def _answer(
        self, speaker: LanguageModel, place: Placement, prompts: Sequence[Prompt], setting: Setting, draw: torch.Generator
    ) -> list[Completion]:
        encoded = [speaker.prompt_encoder.prompt(prompt) for prompt in prompts]
        if not encoded:
            return []
        with place.autocast():
            if setting == "deliberate":
                return beam_search(
                    speaker.model,
                    encoded,
                    prompt_encoder=speaker.prompt_encoder,
                    max_new_tokens=self.asked.max_new_tokens,
                    generator=draw,
                    map_rows=distributed.map_sharded,
                )
            return sample(
                speaker.model,
                encoded,
                prompt_encoder=speaker.prompt_encoder,
                max_new_tokens=self.asked.max_new_tokens,
                temperature=TEMPERATURES[setting],
                generator=draw,
                greedy=setting == "greedy",
                map_rows=distributed.map_sharded,
            )

    def open(self, model: str) -> tuple[LanguageModel, Placement]:
        """The model by its name in the comparison; one at a time is held."""
        if self.opened is None or self.opened[0] != model:
            self.opened = None
            start = self.models[model]
            speaker = open_language_model(start.path(self.run.layout.model), start.template)
            place = choose_device(self.config.device, self.config.precision, width=speaker.width, vocabulary=speaker.vocabulary)
            speaker.model.to(place.device)
            record_fast_paths(self.run, STAGE, {model: speaker.model})
            freeze_for_inference(speaker.model)
            self.opened = (model, speaker, place)
        return self.opened[1], self.opened[2]

    def state(self) -> dict[str, Any]:
        return {"rows": [row.state() for row in self.rows]}

    def load(self, state: Mapping[str, Any]) -> None:
        self.rows = [ModelAnswer.load(row) for row in state["rows"]]


def _judged(config: Config, run: Run, work: CompareLoop, scorer: RewardScorer | None) -> list[Compared]:
    """Reward, gold and KL beside each answer; of the best-of-8 samples the best rewarded one stays, the others are dropped."""
    prompts = [work.prompts[row.number] for row in work.rows]
    rewards = scorer(prompts, [row.response for row in work.rows]) if scorer else None
    if scorer and scorer.cut:
        run.journal.event(
            STAGE,
            "warning",
            message=f"{scorer.cut:,} of {len(work.rows):,} answers did not fit the reward model's "
            f"{scorer.prompt_encoder.context} "
            "tokens beside their prompts and were scored without their end",
        )
    kls = _kls(config, work)
    rows: list[Compared] = []
    for i, row in enumerate(work.rows):
        true = gold(row.prompt, row.response) if config.world is not None else None
        rows.append(
            Compared(
                number=row.number,
                prompt=row.prompt,
                model=row.model,
                setting=row.setting,
                response=row.response,
                length=len(row.ids),
                ended=row.ended,
                reward=rewards[i] if rewards is not None else None,
                gold=true.score if true is not None else None,
                parts=tuple(true.reasons) if true is not None else None,
                kl=kls.get(i),
            )
        )
    return _best_of(rows, config.rl.missing_eos_penalty if config.rl is not None else 0.0)


def _best_of(rows: Sequence[Compared], penalty: float) -> list[Compared]:
    """One row a prompt, model and setting: of several the one with the highest reward, the first of equals; RL's, as RL
    chooses, less the penalty of an answer that did not end."""
    kept: dict[tuple[int, str, str], tuple[float, Compared]] = {}
    for row in rows:
        key = (row.number, row.model, row.setting)
        worth = (row.reward or 0.0) - (penalty if row.model == "rl" and not row.ended else 0.0)
        if key not in kept or worth > kept[key][0]:
            kept[key] = worth, row
    return [row for _, row in kept.values()]


@torch.no_grad()
def _kls(config: Config, work: CompareLoop) -> dict[int, float]:
    """log pi_rl - log pi_start of the RL model's plain samples, at the temperature that they were drawn at: its mean is the KL
    of the two models under that setting. Greedy and beam answers are no samples, so that they have none."""
    if "rl" not in work.models or work.best_of > 1:  # the best of several answers is no sample of a model
        return {}
    work.opened = None  # both are read as they were saved: one laid out for its answers rounds otherwise
    sums: dict[str, dict[int, float]] = {"rl": {}, work.start: {}}
    for model, setting in ((model, setting) for model in sums for setting in SAMPLED):
        speaker, place = work.open(model)
        drawn = [i for i, row in enumerate(work.rows) if (row.model, row.setting) == ("rl", setting) and row.ids]
        rows = [
            speaker.prompt_encoder.answer_ids(
                speaker.prompt_encoder.prompt(work.prompts[work.rows[i].number]), work.rows[i].ids
            )
            for i in drawn
        ]
        read = partial(_logprobs, speaker, place, rows, TEMPERATURES[setting], config.micro_batch_tokens)
        sums[model] |= dict(zip(drawn, distributed.map_sharded([len(row.ids) for row in rows], read), strict=True))
    return {i: value - sums[work.start][i] for i, value in sums["rl"].items()}


def _logprobs(
    speaker: LanguageModel, place: Placement, rows: Sequence[Row], temperature: float, token_budget: int, mine: Sequence[int]
) -> list[float]:
    """log pi of the answer in each of the rows `mine`."""
    found = [0.0] * len(mine)
    for indices, batch in batches([rows[i] for i in mine], pad_id=speaker.prompt_encoder.pad_id, token_budget=token_budget):
        with place.autocast():
            told = policy_logprobs(speaker.model, batch.to(place.device), temperature=temperature)
        for i, value in zip(indices, told.logprobs.sum(1).tolist(), strict=True):
            found[i] = value
    return found


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
            message="RL is left out: its best of several answers are chosen by rl.rewards, which are asked in RL alone",
        )
    elif config.rl is not None:
        models["rl"] = Start(stage="rl")
    named = required_section(config.compare, "compare").models
    return models | {name: Start(source=source, template=OWN_TEMPLATE) for name, source in named.items()}


def _scorer(config: Config, run: Run) -> RewardScorer | None:
    named = required_section(config.compare, "compare").reward
    if config.reward is None and named is None:
        return None
    device = choose_device(config.device, config.precision, width=0).device
    if named is None:
        return RewardScorer.load(run.layout.model("reward"), device=device, map_rows=distributed.map_sharded)
    scorer = RewardScorer.load(named, device=device, fallback=config.template, map_rows=distributed.map_sharded)
    if scorer.note:
        run.journal.event(STAGE, "warning", message=f"compare.reward: {scorer.note}")
    return scorer


def _prompts(config: Config, run: Run, models: Mapping[str, Start], scorer: RewardScorer | None) -> list[Prompt]:
    """Those that every model can be compare and whose answers can be scored: a row that one template refuses is left out."""
    compare = required_section(config.compare, "compare")
    if not compare.prompts:
        found = [prompt_of(question) for question in questions()]
    else:
        read_in = read_data(
            run, STAGE, compare.prompts, want="prompts", columns=compare.columns, max_bad_rows=config.max_bad_rows
        )
        read_in = once_each(read_in)
        report_remarks(run, STAGE, "compare.prompts", read_in)
        readers: dict[str, Any] = {
            f"`{name}`": open_tokenizer(start.path(run.layout.model), start.template)[0] for name, start in models.items()
        }
        readers |= {"the reward model": scorer.prompt_encoder} if scorer is not None else {}
        read_in = readable(run, STAGE, read_in, readers, config.max_bad_rows)
        found = [prompt for prompt in read_in.records if isinstance(prompt, Prompt)]
    if not found:
        raise DataError("compare.prompts has no prompt", expected="at least one")
    found = found[: compare.limit]
    if config.world is not None:
        for prompt in found:
            find_task(prompt.text)  # one that the world does not know is told before anything is answered
    return found
