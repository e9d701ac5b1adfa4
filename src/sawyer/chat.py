"""Talking to a run: the same question to its base, SFT and RL model, with the reward model's verdict on each answer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from sawyer.config import Config, load
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
from sawyer.records import Message, Prompt, prompt_of
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """How answers are sampled."""

    temperature: float
    greedy: bool
    max_new_tokens: int
    seed: int


class Chat:
    """The models of the run in `folder`, loaded once.

    Example: `[reply.response for reply in Chat("runs/demo").ask('What is the opposite of "up"?')]`. `ask` answers a question by
    itself; `say` goes on with a conversation, of which each model has its own answers, until `reset`. With `trust_remote_code`
    Python that lies with the models may run.

    Raises RunError where the folder holds no run or no model yet. A given base model that is no longer there is left out, and
    `missing` says why.
    """

    def __init__(self, folder: str | Path, *, trust_remote_code: bool = False) -> None:
        self.layout = Layout(Path(folder))
        if not os.path.exists(self.layout.config):
            raise RunError(
                f"there is no run in {folder}",
                expected="a folder that `sawyer run` or `sawyer demo` wrote",
                todo="check the path; `sawyer runs` lists the runs",
            )
        self.config: Config = load(self.layout.config)
        self.missing: dict[str, str] = {}
        self._speakers: dict[str, LanguageModel] = {}
        self._said: dict[str, tuple[Message, ...]] = {}  # by model: what was said and answered so far
        with remote_code(trust_remote_code):
            for name in MODELS:
                self._open(name)
        if not self._speakers and not self.config.has_policy and self.config.base is None:
            judges = is_complete(self.layout.model("reward"))
            raise RunError(
                f"the run in {folder} has no model that answers" + "".join(f" ({why})" for why in self.missing.values()),
                expected="a run with sft or rl, or one that starts from a model that answers",
                todo=f"`sawyer score {folder} FILE` scores answers with its reward model" if judges else "name another run",
            )
        if not self._speakers:
            raise RunError(
                f"no model of {folder} can be talked to yet",
                expected="at least one stage that is done",
                todo="run `sawyer run` with its config first",
            )
        sizes = {name: max(getattr(s, name) for s in self._speakers.values()) for name in ("width", "vocabulary")}
        self.place = choose_device(self.config.device, self.config.precision, **sizes)
        for speaker in self._speakers.values():
            speaker.model.to(self.place.device)
            freeze_for_inference(speaker.model)
        scorer = self.layout.model("reward")
        with remote_code(trust_remote_code):
            self.scorer = RewardScorer.load(scorer, device=self.place.device) if is_complete(scorer) else None

    @property
    def models(self) -> tuple[str, ...]:
        """The models that answer, in order."""
        return tuple(self._speakers)

    @property
    def cache_kwargs(self) -> bool:
        """Whether the run's models were made for conversations; the built-in world's know single questions alone."""
        return self.config.world is None

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
        put before it.

        The same seed gives the same answers. Raises DataError for a conversation that does not end with a user's message, and
        for one that leaves a model no room to answer.
        """
        prompt = _prompt(question, system)
        how = _How(temperature=temperature, greedy=greedy, max_new_tokens=max_new_tokens, seed=seed)
        return self._answers(dict.fromkeys(self._speakers, prompt), how)

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
        """Every model's answer to the conversation's next turn, as `ask`: each has read its own earlier answers."""
        turn = _prompt(text).messages
        before = {name: self._said.get(name, ()) for name in self._speakers}
        prompts = {name: _prompt((*said, *turn), system) for name, said in before.items()}
        how = _How(temperature=temperature, greedy=greedy, max_new_tokens=max_new_tokens, seed=seed)
        replies = self._answers(prompts, how)
        for reply in replies:
            answer = Message(role="assistant", content=reply.response)
            self._said[reply.model] = (*before[reply.model], *turn, answer)
        return replies

    def reset(self) -> None:
        """The next turn begins a conversation."""
        self._said.clear()

    def _answers(self, prompts: Mapping[str, Prompt], how: _How) -> list[Reply]:
        texts: list[str] = []
        completions: list[Completion] = []
        for name, speaker in self._speakers.items():
            prompt = prompts[name]
            for problem in find_unrenderable(speaker.prompt_encoder, [prompt]):
                raise DataError(
                    f"the {name} model: {problem.message}",
                    expected="a conversation that its chat template takes",
                    todo="leave the system prompt out, or put it into the question"
                    if prompt.messages[0].role == "system"
                    else "",
                )
            if not speaker.prompt_encoder.fits(prompt):
                what = "question" if len(prompt.messages) == 1 else "conversation"
                raise DataError(
                    f"the {what} has {len(speaker.prompt_encoder.prompt(prompt)):,} tokens",
                    expected=f"fewer than the {speaker.prompt_encoder.context:,} that the {name} model reads",
                    todo="ask something shorter" + (", or begin anew (/reset)" if name in self._said else ""),
                )
            with self.place.autocast():
                found = sample(
                    speaker.model,
                    [speaker.prompt_encoder.prompt(prompt)] * (self.best_of if name == "rl" and not how.greedy else 1),
                    prompt_encoder=speaker.prompt_encoder,
                    max_new_tokens=how.max_new_tokens,
                    temperature=how.temperature,
                    generator=generator(how.seed, "chat", 0),
                    greedy=how.greedy,
                )
            completions.append(self._chosen(prompt, found, speaker))
            texts.append(speaker.prompt_encoder.decode(completions[-1].ids))
        asked = [prompts[name] for name in self._speakers]
        rewards: Sequence[float | None] = self.scorer(asked, texts) if self.scorer else [None] * len(texts)
        return [
            Reply(
                model=model,
                response=text,
                reward=reward,
                gold=self._gold(prompt, text),
                length=len(completion.ids),
                ended=completion.ended,
            )
            for model, prompt, text, reward, completion in zip(self._speakers, asked, texts, rewards, completions, strict=True)
        ]

    @property
    def best_of(self) -> int:
        """How many answers the RL model gives to choose one of; 1 unless RL was best_of_n."""
        asked = self.config.rl
        return asked.group_size if asked is not None and asked.algorithm == "best_of_n" else 1

    def _chosen(self, prompt: Prompt, found: Sequence[Completion], speaker: LanguageModel) -> Completion:
        """The answer that is worth most to RL, the first of equals."""
        if len(found) == 1 or self.scorer is None or self.config.rl is None:
            return found[0]
        rewards = self.scorer([prompt] * len(found), [speaker.prompt_encoder.decode(one.ids) for one in found])
        penalty = self.config.rl.missing_eos_penalty
        worth = [r - (0.0 if one.ended else penalty) for r, one in zip(rewards, found, strict=True)]
        return found[worth.index(max(worth))]

    def _open(self, name: str) -> None:
        """Load a model if the run has it. Only a given base model lies outside the run and may have gone."""
        if name == "rl" and self.best_of > 1 and self.config.rl is not None and self.config.rl.rewards:
            self.missing[name] = "its best of several answers are chosen by rl.rewards, which are asked in RL alone"
            return
        given = self.config.model if name == "base" else None
        if given is None and not is_complete(self.layout.model(name)):
            return
        try:
            template = self.config.template if name == "base" else None
            with self._as_dated():
                self._speakers[name] = open_language_model(given or self.layout.model(name), template)
        except ModelError as error:
            if given is None:
                raise
            self.missing[name] = error.given

    def _as_dated(self) -> AbstractContextManager[None]:
        """A template that prints the date prints the run's."""
        with suppress(RunError):
            day = read_manifest(self.layout.manifest).get("date")
            return nullcontext() if day is None else fix_date(date.fromisoformat(day))
        return nullcontext()

    def _gold(self, prompt: Prompt, text: str) -> float | None:
        if self.config.world is None:
            return None
        try:
            return gold(prompt.text, text).score
        except WorldError:
            return None


def _prompt(question: str | Sequence[Message | Mapping[str, str]], system: str = "") -> Prompt:
    before = (Message(role="system", content=system),) if system else ()
    if isinstance(question, str):
        if not question.strip():
            raise DataError("the question is empty", todo="ask something")
        return Prompt(messages=(*before, *prompt_of(question).messages))
    messages = tuple(m if isinstance(m, Message) else Message(role=m["role"], content=m["content"]) for m in question)  # type: ignore[arg-type]
    if not messages or messages[-1].role != "user":
        raise DataError("the conversation does not wait for an answer", expected="messages of which the last one is the user's")
    if before and messages[0].role == "system":
        raise DataError("the conversation has a system prompt already", expected="one", todo="leave `system` out")
    return Prompt(messages=(*before, *messages))
