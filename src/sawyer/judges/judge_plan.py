"""What a judge's work will take and what it came to, in words: said before the first call and after the last."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sawyer.judges.judge_prompts import Messages
from sawyer.judges.judge_settings import JudgeSettings
from sawyer.judges.verdict_parsing import Problem

BYTES_A_TOKEN = 3.5  # of UTF-8 text, for an estimate: 4 in English, 3 in other languages and code
TOKENS_A_MESSAGE = 6  # that a chat template adds
PROBLEM_WORDS: Mapping[Problem, str] = {
    "refusal": "refused",
    "unreadable": "no verdict in the reply",
    "out_of_range": "out of range",
    "rejected": "not taken by the endpoint",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgePlan:
    """Calls to come. Tokens are estimates: of input by the text's size, of output the most that is allowed."""

    model: str
    host: str
    questions: int
    calls: int  # questions less those whose reply is in the cache; one more for each reply that is no verdict
    prompt_tokens: int
    completion_tokens: int
    price: float | None  # at most, in the currency of price_per_million

    @property
    def words(self) -> str:
        """One sentence."""
        num_cached = self.questions - self.calls
        text = f"the judge {self.model} ({self.host}): {self.calls:,} call{'s' * (self.calls != 1)}"
        text += f", {num_cached:,} more are answered already" if num_cached else ""
        if not self.calls:
            return text
        text += f"; about {self.prompt_tokens:,} tokens in, at most {self.completion_tokens:,} out"
        return text + (f", at most {money(self.price)} by price_per_million" if self.price is not None else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeTally:
    """What came of all questions, those from the cache included; `calls` counts what was asked now."""

    verdicts: int
    calls: int
    second_tries: int
    problems: Mapping[Problem, int] = field(default_factory=dict)  # questions without a judgement, by why
    examples: Mapping[Problem, str] = field(default_factory=dict)  # the first reply of each kind
    prompt_tokens: int = 0  # as the server counts
    completion_tokens: int = 0

    @property
    def num_unjudged(self) -> int:
        """Questions without a judgement."""
        return sum(self.problems.values())

    @property
    def words(self) -> str:
        """What a reader should know of the judge's replies."""
        text = f"{self.verdicts:,} verdicts"
        text += f"; {self.second_tries:,} asked again" if self.second_tries else ""
        if self.num_unjudged:
            kinds = [
                f"{count:,} {PROBLEM_WORDS[kind]} (such as {self.examples[kind]!r})" for kind, count in self.problems.items()
            ]
            text += f"; without a judgement {self.num_unjudged:,}: {', '.join(kinds)}"
        if self.prompt_tokens or self.completion_tokens:
            text += f"; {self.prompt_tokens:,} tokens in, {self.completion_tokens:,} out"
        return text


def plan_calls(settings: JudgeSettings, questions: int, new: Sequence[Messages]) -> JudgePlan:
    """The plan of asking `new`, of so many questions in all."""
    prompt_tokens = sum(map(estimate_tokens, new))
    completion_tokens = settings.max_tokens * len(new)
    price = None
    if settings.price_per_million is not None:
        price_in, price_out = settings.price_per_million
        price = (prompt_tokens * price_in + completion_tokens * price_out) / 1e6
    return JudgePlan(
        model=settings.model,
        host=urlsplit(settings.url).netloc,
        questions=questions,
        calls=len(new),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        price=price,
    )


def estimate_tokens(messages: Messages) -> int:
    """About how many tokens the messages have."""
    return sum(
        math.ceil(len(message.content.encode("utf-8", "replace")) / BYTES_A_TOKEN) + TOKENS_A_MESSAGE for message in messages
    )


def money(amount: float) -> str:
    """0.0123 -> 0.012; 12.3 -> 12.30."""
    return f"{amount:.2f}" if amount >= 1 or amount == 0 else f"{amount:.2g}"
