"""Chat with a run: the same question to its base, SFT and RL model, with the reward model's score of each answer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from sawyer.config import Config, load_config
from sawyer.errors import DataError, ModelError, RunError, WorldError
from sawyer.models import (
    Completion,
    LanguageModel,
    RewardScorer,
    freeze_for_inference,
    open_language_model,
    remote_code,
    sample,
)
from sawyer.records import Message, Prompt, prompt_from_messages, prompt_of
from sawyer.runs import Layout, is_complete, read_manifest
from sawyer.text import find_unrenderable, fix_date
from sawyer.train import choose_device, generator
from sawyer.worlds import gold

MODELS = ("base", "sft", "rl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One model's answer.

    Example: `Reply(model="rl", response="Down.", reward=1.3, gold=None, length=3, ended=True)`
    """

    model: str  # base | sft | rl
    response: str
    reward: float | None  # standard deviations of the SFT model's answers; None without a reward model
    gold: float | None  # 0 .. 10; None outside the built-in world
    length: int  # tokens, EOS among them
    ended: bool  # False: the length limit cut it


class Chat:
    """The models of the run in `folder`, loaded once.

    Example: `[reply.response for reply in Chat("runs/demo").ask('What is the opposite of "up"?')]`. `ask` answers one question;
    `say` continues a conversation, in which each model has its own answers, until `reset`. `trust_remote_code` lets Python that
    lies with the models run.

    Raises RunError where the folder holds no run or no model yet. If the configured base model no longer exists, the chat goes
    without it and `missing` has the reason.
    """

    def __init__(self, folder: str | Path, *, trust_remote_code: bool = False) -> None:
        self.layout = Layout(Path(folder))
        if not os.path.exists(self.layout.config):
            raise RunError(
                f"there is no run in {folder}",
                expected="a folder that `sawyer run` or `sawyer demo` wrote",
                todo="check the path; `sawyer runs` lists the runs",
            )
        self.config: Config = load_config(self.layout.config)
        self.missing: dict[str, str] = {}
        self._language_models: dict[str, LanguageModel] = {}
        self._history: dict[str, tuple[Message, ...]] = {}  # by model: the conversation so far
        with remote_code(trust_remote_code):
            for name in MODELS:
                self._open(name)
        if not self._language_models:
            raise self._no_model_error(folder)
        sizes = {name: max(getattr(m, name) for m in self._language_models.values()) for name in ("width", "vocabulary")}
        self.placement = choose_device(self.config.device, self.config.precision, **sizes)
        for language_model in self._language_models.values():
            language_model.model.to(self.placement.device)
            freeze_for_inference(language_model.model)
        reward_folder = self.layout.model("reward")
        with remote_code(trust_remote_code):
            has_scorer = is_complete(reward_folder)
            self.scorer = RewardScorer.load(reward_folder, device=self.placement.device) if has_scorer else None

    @property
    def models(self) -> tuple[str, ...]:
        """The models that answer, in order."""
        return tuple(self._language_models)

    @property
    def is_conversational(self) -> bool:
        """Whether the run's models were trained on conversations. The built-in world has single questions only."""
        return self.config.world is None

    @property
    def best_of(self) -> int:
        """How many answers the RL model samples to choose one of; 1 unless RL was best_of_n."""
        rl = self.config.rl
        return rl.group_size if rl is not None and rl.algorithm == "best_of_n" else 1

    def ask(
        self,
        question: str | Sequence[Message | Mapping[str, str]],
        *,
        system: str = "",
        temperature: float = 0.7,
        greedy: bool = False,
        max_new_tokens: int = 128,
        seed: int = 0,
    ) -> list[Reply]:
        """Every model's answer to a question, or to a conversation (messages, or mappings with role and content); `system` is
        the system prompt. The same seed gives the same answers.

        Raises DataError for a conversation that does not end with a user's message, and for one that leaves no room to answer.
        """
        prompts = dict.fromkeys(self._language_models, _to_prompt(question, system))
        return self._answer(prompts, temperature=temperature, greedy=greedy, max_new_tokens=max_new_tokens, seed=seed)

    def say(
        self,
        text: str,
        *,
        system: str = "",
        temperature: float = 0.7,
        greedy: bool = False,
        max_new_tokens: int = 128,
        seed: int = 0,
    ) -> list[Reply]:
        """Every model's answer to the conversation's next turn, as `ask`: each reads its own earlier answers."""
        turn = _to_prompt(text).messages
        turns = {name: (*self._history.get(name, ()), *turn) for name in self._language_models}
        prompts = {name: _to_prompt(messages, system) for name, messages in turns.items()}
        replies = self._answer(prompts, temperature=temperature, greedy=greedy, max_new_tokens=max_new_tokens, seed=seed)
        for reply in replies:
            self._history[reply.model] = (*turns[reply.model], Message(role="assistant", content=reply.response))
        return replies

    def reset(self) -> None:
        """Forget the conversation."""
        self._history.clear()

    def _answer(
        self, prompts: Mapping[str, Prompt], *, temperature: float, greedy: bool, max_new_tokens: int, seed: int
    ) -> list[Reply]:
        texts: list[str] = []
        completions: list[Completion] = []
        for name, language_model in self._language_models.items():
            prompt, encoder = prompts[name], language_model.prompt_encoder
            self._check_prompt(name, prompt)
            with self.placement.autocast():
                candidates = sample(
                    language_model.model,
                    [encoder.prompt(prompt)] * (self.best_of if name == "rl" and not greedy else 1),
                    prompt_encoder=encoder,
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    generator=generator(seed, "chat", 0),
                    greedy=greedy,
                )
            completions.append(self._choose_best(prompt, candidates, language_model))
            texts.append(encoder.decode(completions[-1].ids))
        rewards: Sequence[float | None] = [None] * len(texts)
        if self.scorer:
            rewards = self.scorer([prompts[name] for name in self._language_models], texts)
        return [
            Reply(
                model=model,
                response=text,
                reward=reward,
                gold=self._gold_score(prompts[model], text),
                length=len(completion.ids),
                ended=completion.ended,
            )
            for model, text, reward, completion in zip(self._language_models, texts, rewards, completions, strict=True)
        ]

    def _check_prompt(self, name: str, prompt: Prompt) -> None:
        """Raise DataError where the model's chat template refuses the prompt, or its context leaves no room for an answer."""
        encoder = self._language_models[name].prompt_encoder
        for problem in find_unrenderable(encoder, [prompt]):
            has_system = prompt.messages[0].role == "system"
            raise DataError(
                f"the {name} model: {problem.message}",
                expected="a conversation that its chat template takes",
                todo="leave the system prompt out, or put it into the question" if has_system else "",
            )
        if not encoder.fits(prompt):
            noun = "question" if len(prompt.messages) == 1 else "conversation"
            raise DataError(
                f"the {noun} has {len(encoder.prompt(prompt)):,} tokens",
                expected=f"fewer than the {encoder.context:,} that the {name} model reads",
                todo="ask something shorter" + (", or begin anew (/reset)" if name in self._history else ""),
            )

    def _choose_best(self, prompt: Prompt, candidates: Sequence[Completion], language_model: LanguageModel) -> Completion:
        """The answer with the highest reward, less the penalty of one without an end as in RL; the first of equals."""
        if len(candidates) == 1 or self.scorer is None or self.config.rl is None:
            return candidates[0]
        texts = [language_model.prompt_encoder.decode(candidate.ids) for candidate in candidates]
        rewards = self.scorer([prompt] * len(texts), texts)
        penalty = self.config.rl.missing_eos_penalty
        values = [r - (0.0 if c.ended else penalty) for r, c in zip(rewards, candidates, strict=True)]
        return candidates[values.index(max(values))]

    def _open(self, name: str) -> None:
        """Load a model if the run has it. Only a configured base model lies outside the run and may be gone."""
        if name == "rl" and self.best_of > 1 and self.config.rl is not None and self.config.rl.rewards:
            self.missing[name] = "best-of-n answers are chosen by rl.rewards, which a chat does not load"
            return
        source = self.config.model if name == "base" else None
        if source is None and not is_complete(self.layout.model(name)):
            return
        try:
            template = self.config.template if name == "base" else None
            with self._date_of_run():
                self._language_models[name] = open_language_model(source or self.layout.model(name), template)
        except ModelError as error:
            if source is None:
                raise
            self.missing[name] = error.given

    def _no_model_error(self, folder: str | Path) -> RunError:
        if self.config.has_policy or self.config.base is not None:
            return RunError(
                f"no model of {folder} can be talked to yet",
                expected="at least one stage that is done",
                todo="run `sawyer run` with its config first",
            )
        has_scorer = is_complete(self.layout.model("reward"))
        return RunError(
            f"the run in {folder} has no model that answers" + "".join(f" ({reason})" for reason in self.missing.values()),
            expected="a run with sft or rl, or one that starts from a model that answers",
            todo=f"`sawyer score {folder} FILE` scores answers with its reward model" if has_scorer else "name another run",
        )

    def _date_of_run(self) -> AbstractContextManager[None]:
        """Chat templates that print the date print the run's: with today's, the prompts would not be those trained on."""
        with suppress(RunError):
            day = read_manifest(self.layout.manifest).get("date")
            return nullcontext() if day is None else fix_date(date.fromisoformat(day))
        return nullcontext()

    def _gold_score(self, prompt: Prompt, text: str) -> float | None:
        if self.config.world is None:
            return None
        try:
            return gold(prompt.text, text).score
        except WorldError:  # not a question of the built-in world
            return None


def _to_prompt(question: str | Sequence[Message | Mapping[str, str]], system: str = "") -> Prompt:
    before = (Message(role="system", content=system),) if system else ()
    if isinstance(question, str):
        if not question.strip():
            raise DataError("the question is empty", todo="ask something")
        return Prompt(messages=(*before, *prompt_of(question).messages))
    messages = prompt_from_messages(question).messages
    if before and messages[0].role == "system":
        raise DataError("the conversation has a system prompt already", expected="one", todo="leave `system` out")
    return Prompt(messages=(*before, *messages))
