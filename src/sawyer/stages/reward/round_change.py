"""What the new judgements changed: the reward model of the round before and the new one, on the same held-out prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from sawyer.errors import SawyerError
from sawyer.models import RewardScorer, Scorer
from sawyer.records import JudgedPrompt, Message
from sawyer.runs import Run
from sawyer.stages.reward.reward_data import STAGE, RewardData
from sawyer.stats import paired_interval
from sawyer.train import distributed


def compare_with_last_round(run: Run, data: RewardData, scorer: Scorer, device: torch.device) -> dict[str, Any]:
    """`round_change` of the figures: accuracy by prompt before and after, and the paired change. Empty in the first round,
    without held-out prompts, and where the earlier model cannot be read, which is logged.

    Prompts are held out by a hash of their text, so neither model was trained on them.
    """
    earlier = [layout.model(STAGE) for layout in run.layout.earlier_rounds() if layout.model(STAGE).exists()]
    if not earlier or not data.eval_prompts:
        return {}
    try:
        before = RewardScorer.load(earlier[-1], device=device, map_rows=distributed.map_sharded)
    except SawyerError as error:
        message = f"the reward model of the round before is not compared with this one: {error.given}"
        run.journal.event(STAGE, "warning", message=message)
        return {}
    records = [prompt.record for prompt in data.eval_prompts]
    change = round_change(ranks_by_prompt(before, records), ranks_by_prompt(scorer, records))
    return {"round_change": change}


def ranks_by_prompt(scorer: Scorer, records: Sequence[JudgedPrompt]) -> list[tuple[int, int]]:
    """(pairs ranked as the judges did, pairs) of each prompt with a pair, all judgements of it together; equal rewards are
    wrong."""
    prompts = [record.prompt for record in records for _ in record.answers]
    rewards = iter(scorer(prompts, [text for record in records for text in record.responses]))
    by_prompt: dict[tuple[Message, ...], tuple[int, int]] = {}
    for record in records:
        of_answers = [next(rewards) for _ in record.answers]
        pairs = record.pairs().preferences
        right, count = by_prompt.get(record.prompt.messages, (0, 0))
        right += sum(of_answers[pair.better] > of_answers[pair.worse] for pair in pairs)
        by_prompt[record.prompt.messages] = (right, count + len(pairs))
    return [(right, count) for right, count in by_prompt.values() if count]


def round_change(before: Sequence[tuple[int, int]], after: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Two models' (right, pairs) of the same prompts: the means of each prompt's share, and their paired difference.

    Of a single prompt there is no interval and no detectable change.
    """
    shares = [[right / pairs for right, pairs in prompts] for prompts in (before, after)]
    change = paired_interval(*shares)
    figures = {
        "before": math.fsum(shares[0]) / len(shares[0]),
        "after": math.fsum(shares[1]) / len(shares[1]),
        "value": change.value,
        "prompts": change.prompts,
        "pairs": sum(pairs for _, pairs in after),
    }
    if change.prompts > 1:
        figures |= {"low": change.low, "high": change.high, "detectable": change.detectable}
    return figures
