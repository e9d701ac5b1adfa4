"""Judged answers with the model's rewards beside them: what every figure is counted from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from sawyer.models import Scorer
from sawyer.records import Pair, Prompt, ScoredAnswers, judgement

OWN = "sft"  # the source that collected answers name


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedAnswer:
    """One judging of a prompt's K answers; the tuples have one entry an answer."""

    prompt: Prompt
    responses: tuple[str, ...]
    scores: tuple[float, ...]  # the judges'; of a ready-made pair its margin (1 where none is given) and 0
    sources: tuple[str, ...]  # "" where nobody says who wrote it
    rewards: tuple[float, ...] = ()
    truths: tuple[float, ...] = ()  # the true scores, where they are known

    def pairs(self) -> Iterator[tuple[int, int, float]]:
        """(j, k, d): answer j was judged better than k by d > 0. Pairs of one and the same text are not among them."""
        for i in range(len(self.scores)):
            for j in range(i + 1, len(self.scores)):
                apart = self.scores[i] - self.scores[j]
                if apart and self.responses[i] != self.responses[j]:
                    yield (i, j, apart) if apart > 0 else (j, i, -apart)

    def by(self, required_section: Callable[[str], bool]) -> JudgedAnswer:
        """The answers whose source is wanted."""
        kept = [i for i, source in enumerate(self.sources) if required_section(source)]

        def some(values: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(values[i] for i in kept) if values else ()

        return replace(
            self,
            responses=tuple(self.responses[i] for i in kept),
            sources=tuple(self.sources[i] for i in kept),
            scores=some(self.scores),
            rewards=some(self.rewards),
            truths=some(self.truths),
        )

    @property
    def best(self) -> int:
        """The answer that wins its pairs by most in sum (the first of equals)."""
        won = [0.0] * len(self.responses)
        for j, _, apart in self.pairs():
            won[j] += apart
        return won.index(max(won))


def judged(records: Sequence[ScoredAnswers | Pair]) -> list[JudgedAnswer]:
    """Records as judgings; answers that nobody has scored yet are left out, and prompts with none that is."""
    told = [(record.prompt, judgement(record)) for record in records]
    return [
        JudgedAnswer(prompt=prompt, responses=found.responses, scores=found.scores, sources=found.sources)
        for prompt, found in told
        if found.responses
    ]


def scored(
    rows: Sequence[JudgedAnswer], scorer: Scorer, truth: Callable[[Prompt, str], float] | None = None
) -> tuple[JudgedAnswer, ...]:
    """The same with the scorer's rewards, and with the true scores where `truth` knows them."""
    flat = scorer([row.prompt for row in rows for _ in row.responses], [text for row in rows for text in row.responses])
    found, at = [], 0
    for row in rows:
        rewards = tuple(map(float, flat[at : at + len(row.responses)]))
        at += len(row.responses)
        truths = tuple(truth(row.prompt, text) for text in row.responses) if truth is not None else ()
        found.append(replace(row, rewards=rewards, truths=truths))
    return tuple(found)
