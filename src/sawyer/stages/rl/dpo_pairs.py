"""What DPO learns from: the judgements that the reward model learns from, as pairs of answers to one prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sawyer.config import Config, judged_sources, pairs_of, required_section
from sawyer.errors import DataError
from sawyer.records import JudgedPrompt, Pair, Prompt, split
from sawyer.runs import Run
from sawyer.stages.rl.rl_prompts import STAGE
from sawyer.text import PromptEncoder, limit_tokens
from sawyer.train import EncodedPrompt, encode_all, encode_judged, read_judged_files

CUT = "answers cut"
# What is left out, in the order in which it is reported.
ON_EVAL_PROMPTS = "prompts that the policy is evaluated on"
TIED, SAME_TEXT, NO_PAIR = "tied pairs", "pairs of one and the same text", "prompts without a pair"
NO_ROOM, SAME_TOKENS = "prompts that leave no room for an answer", "pairs of the same tokens, as they are read"
REASONS = (ON_EVAL_PROMPTS, TIED, SAME_TEXT, NO_PAIR, NO_ROOM, SAME_TOKENS)


def load_pairs(
    config: Config, run: Run, prompt_encoder: PromptEncoder, eval_prompts: Sequence[Prompt]
) -> tuple[EncodedPrompt, ...]:
    """The training side of `rl.data`, else of `reward.data` and of the collected answers: all pairs with different scores.

    Prompts on which the policy will be evaluated are left out. What cannot teach is counted and logged. Raises DataError where
    no pair is left.
    """
    name, share = pairs_of(config)
    train, evaluation = split(_read_prompts(config, run, prompt_encoder), share)
    eval_messages = {prompt.messages for prompt in eval_prompts}
    records = [record for record in train if record.prompt.messages not in eval_messages]
    counts = Counter(dict.fromkeys(REASONS, 0))
    counts[ON_EVAL_PROMPTS] = len(train) - len(records)
    most = required_section(config.rl, "rl").max_tokens
    prompts = _encode(run, records, limit_tokens(prompt_encoder, most), counts)
    cut = counts.pop(CUT, 0)
    if reasons := [f"{count:,} {what}" for what, count in counts.items() if count]:
        run.journal.event(STAGE, "data", message=f"pairs: left out {', '.join(reasons)}")
    if cut and most is not None and most <= prompt_encoder.context:
        run.journal.event(STAGE, "data", message=f"rl.max_tokens: {cut:,} answers are cut to {most:,} tokens")
    elif cut:
        message = f"{cut:,} answers are longer than the model's {prompt_encoder.context:,} tokens and lose their end"
        run.journal.event(STAGE, "warning", message=message)
    if not prompts:
        raise DataError(
            f"rl.algorithm: dpo has nothing to learn: no prompt of {name}.data has two answers of which one is better",
            expected=f"at least one pair outside {name}.eval_fraction and outside the prompts held out in rl"
            + f" ({len(evaluation):,} prompts are held out by {name}.eval_fraction: {share:g})" * bool(evaluation),
            todo=f"score the answers, name another file in {name}.data, or take another algorithm",
        )
    return prompts


def load_eval_pairs(config: Config, run: Run, prompt_encoder: PromptEncoder) -> tuple[EncodedPrompt, ...]:
    """The pairs that are kept from training, by which dpo is judged where no scorer is configured; the training pairs where
    none are kept."""
    train, evaluation = split(_read_prompts(config, run, prompt_encoder), pairs_of(config)[1])
    prompt_encoder = limit_tokens(prompt_encoder, required_section(config.rl, "rl").max_tokens)
    return _encode(run, evaluation, prompt_encoder, Counter()) or _encode(run, train, prompt_encoder, Counter())


def _read_prompts(config: Config, run: Run, prompt_encoder: PromptEncoder) -> tuple[JudgedPrompt, ...]:
    sources = judged_sources(config, STAGE, run.layout.judged_files())
    return read_judged_files(run, STAGE, sources, prompt_encoder, config.max_bad_rows).prompts


def _encode(
    run: Run, records: Sequence[JudgedPrompt], prompt_encoder: PromptEncoder, counts: Counter[str]
) -> tuple[EncodedPrompt, ...]:
    """The records that have a pair and room for it, as tokens; what is left out is counted in `counts`."""
    prompts: list[EncodedPrompt] = []
    for prompt in encode_all(run, STAGE, records, lambda record: encode_judged(record, prompt_encoder), "pairs encoded"):
        pairs = prompt.record.pairs()
        counts[TIED] += pairs.ties
        counts[SAME_TEXT] += pairs.same_text
        if not pairs.preferences:
            counts[NO_PAIR] += 1
        elif not prompt.has_room:
            counts[NO_ROOM] += 1
        else:
            counts[CUT] += prompt.cut
            counts[SAME_TOKENS] += len(pairs.preferences) - len(prompt.pairs)
            if prompt.pairs:
                prompts.append(_only_paired(prompt))
    return tuple(prompts)


def _only_paired(prompt: EncodedPrompt) -> EncodedPrompt:
    """Without the answers of no pair: each would cost a pass through two networks and teach nothing."""
    used = sorted({index for pair in prompt.pairs for index in (pair.better, pair.worse)})
    index_of = {old: new for new, old in enumerate(used)}
    return EncodedPrompt(
        record=replace(prompt.record, answers=tuple(prompt.record.answers[i] for i in used)),
        rows=tuple(prompt.rows[i] for i in used),
        pairs=tuple(Pair(index_of[j], index_of[k], difference) for j, k, difference in prompt.pairs),
    )
