"""Prompts that ask nearly the same: of judgements about them the first prompt's are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sawyer.config import Config, required_section
from sawyer.models import LanguageModel, RewardModel, near_duplicates
from sawyer.records import Message
from sawyer.runs import Run
from sawyer.stages.reward.judged_groups import STAGE, Judgements, standard_of
from sawyer.text import plain_row
from sawyer.train import Placement


def thinned(
    config: Config, run: Run, reader: LanguageModel | RewardModel, place: Placement, judgements: Judgements
) -> Judgements:
    """The training prompts without near-duplicates by a model's states, where `reward.dedup_threshold` is given; it is said.

    A prompt that is judged several times, word for word, keeps all its judgements: it is the prompts that are thinned.
    """
    reward = required_section(config.reward, "reward")
    if reward.dedup_threshold is None:
        return judgements
    prompts = list(dict.fromkeys(group.prompt.messages for group in judgements.train))
    texts = [_text(messages) for messages in prompts]
    reader.model.to(place.device)
    with place.autocast():
        found = near_duplicates(
            reader.model,
            [plain_row(reader.tokenizer, text, reader.prompt_encoder.context) for text in texts],
            reward.dedup_threshold,
            pad_id=reader.prompt_encoder.pad_id,
            token_budget=config.micro_batch_tokens,
        )
    kept = {prompts[place] for place in found.kept}
    run.journal.event(STAGE, "deduplicated", message=f"prompts: {found.told(texts, reward.dedup_threshold)}")
    train = tuple(group for group in judgements.train if group.prompt.messages in kept)
    return replace(judgements, train=train, standard=standard_of(train))


def _text(messages: Sequence[Message]) -> str:
    """A conversation without its template, which all have alike."""
    return "\n".join(message.content for message in messages)
