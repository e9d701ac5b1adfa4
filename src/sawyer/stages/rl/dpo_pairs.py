"""What DPO learns from: the judgements that the reward model learns from, as pairs of answers to one prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sawyer.config import Config, judged_sources, pairs_of, required_section
from sawyer.errors import DataError
from sawyer.records import Pair, Prompt, ScoredAnswers, pairs, split
from sawyer.runs import Run
from sawyer.text import Batch, PromptEncoder, Row, limit_tokens, pad_right
from sawyer.train import encode_all, read_data

STAGE = "rl"
CUT = "answers cut"


@dataclass(frozen=True, slots=True, kw_only=True)
class DpoPair:
    """One prompt's answers that are part of a pair, each encoded once.

    Example: of answers with scores 6, 2, 2 the pairs `((0, 1), (0, 2))`: the first is preferred to each of the others.
    """

    rows: tuple[Row, ...]
    pairs: tuple[tuple[int, int], ...]  # (preferred, other), places in `rows`


@dataclass(frozen=True, slots=True, kw_only=True)
class DpoMinibatch:
    """Some prompts of a batch: N answers, each once, as one padded batch, and which of them are pairs."""

    batch: Batch  # (N, T)
    chosen: tuple[int, ...]  # (P,) rows
    rejected: tuple[int, ...]  # (P,)


def load_pairs(config: Config, run: Run, prompt_encoder: PromptEncoder, held_out: Sequence[Prompt]) -> tuple[DpoPair, ...]:
    """The training side of `rl.data`, else of `reward.data` and of the collected answers: all pairs with different scores.

    Prompts on which the policy will be evaluated are left out. What cannot teach is counted and told. Raises DataError where
    no pair is left.
    """
    kept = {prompt.messages for prompt in held_out}
    left: Counter[str] = Counter()
    name, share = pairs_of(config)
    records, aside = split(_records(config, run, prompt_encoder), share)
    told = [record for record in records if record.prompt.messages not in kept]
    left["prompts that the policy is evaluated on"] = len(records) - len(told)
    most = required_section(config.rl, "rl").max_tokens
    found = _encoded(run, told, limit_tokens(prompt_encoder, most), left)
    cut = left.pop(CUT)
    if words := [f"{count:,} {what}" for what, count in left.items() if count]:
        run.journal.event(STAGE, "data", message=f"pairs: left out {', '.join(words)}")
    if cut and most is not None and most <= prompt_encoder.context:
        run.journal.event(STAGE, "data", message=f"rl.max_tokens: {cut:,} answers are cut to {most:,} tokens")
    elif cut:
        told_cut = f"{cut:,} answers are longer than the model's {prompt_encoder.context:,} tokens and lose their end"
        run.journal.event(STAGE, "warning", message=told_cut)
    if not found:
        raise DataError(
            f"rl.algorithm: dpo has nothing to learn: no prompt of {name}.data has two answers of which one is better",
            expected=f"at least one pair outside {name}.eval_fraction and outside the prompts held out in rl"
            + f" ({len(aside):,} prompts are held out by {name}.eval_fraction: {share:g})" * bool(aside),
            todo=f"score the answers, name another file in {name}.data, or take another algorithm",
        )
    return found


def eval_pairs(config: Config, run: Run, prompt_encoder: PromptEncoder) -> tuple[DpoPair, ...]:
    """The pairs that are kept from training, by which dpo is judged where nobody scores its answers; those it learns from where
    none are kept."""
    records, aside = split(_records(config, run, prompt_encoder), pairs_of(config)[1])
    prompt_encoder = limit_tokens(prompt_encoder, required_section(config.rl, "rl").max_tokens)
    return _encoded(run, aside, prompt_encoder, Counter()) or _encoded(run, records, prompt_encoder, Counter())


def _encoded(
    run: Run, records: Sequence[ScoredAnswers | Pair], prompt_encoder: PromptEncoder, left: Counter[str]
) -> tuple[DpoPair, ...]:
    """The records that have a pair and room for it, as tokens; what is left out is counted in `left`."""

    def rows_of(record: ScoredAnswers | Pair) -> tuple[list[Row], list[tuple[int, int]]]:
        responses, better = _judged(record, left)
        return [prompt_encoder.answer(record.prompt, response) for response in responses], better

    found: list[DpoPair] = []
    for rows, better in encode_all(run, STAGE, records, rows_of, "pairs encoded"):
        if not all(any(row.trained) for row in rows):
            left["prompts that leave no room for an answer"] += 1
            continue
        left[CUT] += sum(row.cut for row in rows)
        apart = [(j, k) for j, k in better if rows[j].ids != rows[k].ids]
        left["pairs of the same tokens, as they are read"] += len(better) - len(apart)
        if apart:
            found.append(_kept(rows, apart))
    return tuple(found)


def _records(config: Config, run: Run, prompt_encoder: PromptEncoder) -> list[ScoredAnswers | Pair]:
    records: list[ScoredAnswers | Pair] = []
    for source in judged_sources(config, STAGE, run.layout.answers):
        found = read_data(
            run,
            STAGE,
            source.paths,
            want=source.want,
            columns=source.columns,
            max_bad_rows=source.max_bad_rows,
            prompt_encoder=prompt_encoder,
            unrendered=config.max_bad_rows,
        )
        records += [record for record in found.records if isinstance(record, ScoredAnswers | Pair)]
    return records


def _judged(record: ScoredAnswers | Pair, left: Counter[str]) -> tuple[list[str], list[tuple[int, int]]]:
    """(responses, pairs of their places). Ties, and one text preferred to itself, say nothing."""
    if isinstance(record, Pair):
        responses, better = [record.chosen, record.rejected], [(0, 1)]
    else:
        scored, ties = pairs(record)
        responses = [answer.response for answer in record.answers if answer.score is not None]
        better = [(j, k) for j, k, _ in scored]
        left["tied pairs"] += ties
    apart = [(j, k) for j, k in better if responses[j] != responses[k]]
    left["pairs of one and the same text"] += len(better) - len(apart)
    left["prompts without a pair"] += not apart
    return responses, apart


def _kept(rows: Sequence[Row], better: Sequence[tuple[int, int]]) -> DpoPair:
    """Without the answers that no pair speaks of."""
    used = sorted({place for pair in better for place in pair})
    places = {old: new for new, old in enumerate(used)}
    return DpoPair(rows=tuple(rows[i] for i in used), pairs=tuple((places[j], places[k]) for j, k in better))


def longest(group: DpoPair) -> int:
    """Tokens of the longest of its answers, the prompt included."""
    return max(len(row.ids) for row in group.rows)


def paired_parts(groups: Sequence[DpoPair], pad_id: int, token_budget: int) -> Iterator[DpoMinibatch]:
    """Cut a batch between prompts, never inside one: the two answers of a pair share a part. At most `token_budget` padded
    tokens a part, unless a single prompt's answers exceed it."""
    taken: list[DpoPair] = []
    for group in sorted(groups, key=longest):
        rows = sum(len(one.rows) for one in taken) + len(group.rows)
        if taken and rows * longest(group) > token_budget:
            yield _part(taken, pad_id)
            taken = []
        taken.append(group)
    if taken:
        yield _part(taken, pad_id)


def _part(groups: Sequence[DpoPair], pad_id: int) -> DpoMinibatch:
    starts = [sum(len(one.rows) for one in groups[:i]) for i in range(len(groups))]
    found = [(start + j, start + k) for start, group in zip(starts, groups, strict=True) for j, k in group.pairs]
    return DpoMinibatch(
        batch=pad_right([row for group in groups for row in group.rows], pad_id),
        chosen=tuple(j for j, _ in found),
        rejected=tuple(k for _, k in found),
    )
