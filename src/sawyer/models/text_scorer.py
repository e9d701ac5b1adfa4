"""A reward model for those who have texts: `sawyer.Scorer`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from sawyer.errors import DataError, RunError
from sawyer.models.pretrained import remote_code
from sawyer.models.scoring import RewardScorer, ScoreDetails
from sawyer.records import Message, Prompt, prompt_from_messages, prompt_of
from sawyer.runs import Layout, is_complete

PromptLike = str | Prompt | Sequence[Message | Mapping[str, str]]


class TextScorer:
    """A trained reward model: `Scorer("runs/mine")(["What is up?"], ["Not down."])` -> `[0.7]`.

    `source` is a run's folder, or the folder or hub id of a reward model: ours, an ensemble, or one that plain transformers
    wrote, decoder or encoder. Rewards of our own are in standard deviations of the SFT model's answers, others as they are.
    `template` (question, chatml, a Jinja file) replaces what a decoder's tokenizer brings. With `trust_remote_code` Python that
    lies with the model may run. Raises ModelError, or RunError for a
    run without a reward model.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        template: str | None = None,
        device: torch.device | str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        with remote_code(trust_remote_code):
            self.inner = RewardScorer.load(reward_folder(source), template=template, device=torch.device(device))

    @property
    def note(self) -> str:
        """What to know about how the model is read; empty where there is nothing to say."""
        return self.inner.note

    @property
    def cut(self) -> int:
        """The answers so far that were longer than the model's context and were scored without their end."""
        return self.inner.cut

    def __call__(self, prompts: Sequence[PromptLike], responses: Sequence[str]) -> list[float]:
        """One reward for each (prompt, response). A prompt is a question, or a conversation whose last turn is the user's."""
        return [answer.reward for answer in self.score_details(prompts, responses)]

    def score_details(self, prompts: Sequence[PromptLike], responses: Sequence[str]) -> list[ScoreDetails]:
        """The same with each member's score and their disagreement, where the model is an ensemble."""
        if len(prompts) != len(responses):
            raise DataError(
                f"{len(prompts):,} prompts and {len(responses):,} responses",
                expected="as many of each",
                todo="give the prompt again for each of its responses",
            )
        return self.inner.score_details([_prompt(prompt) for prompt in prompts], responses)


def reward_folder(source: str | Path) -> str | Path:
    """The reward model's folder of a run, or `source` itself where it is no run."""
    layout = Layout(Path(source))
    if not any(map(os.path.exists, (layout.manifest, layout.config))) or os.path.exists(Path(source) / "config.json"):
        return source
    if not is_complete(layout.model("reward")):
        raise RunError(
            f"{source} has no reward model yet",
            expected="a run whose reward stage is done",
            todo="run `sawyer reward` with its config first, or name a model's folder",
        )
    return layout.model("reward")


def _prompt(prompt: PromptLike) -> Prompt:
    if isinstance(prompt, Prompt):
        return prompt
    return prompt_of(prompt) if isinstance(prompt, str) else prompt_from_messages(prompt)
