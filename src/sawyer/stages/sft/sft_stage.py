"""Train the SFT model: demonstrations -> rows -> response loss, then judge it on held-out prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sawyer.config import Config, Sft, required_section
from sawyer.errors import DataError
from sawyer.models import (
    LanguageModel,
    freeze,
    lora_summary,
    open_language_model,
    row_losses,
    sample,
    save_model,
    without_adapters,
)
from sawyer.records import Demonstration, Prompt, split
from sawyer.runs import Gate, Run, is_adapter
from sawyer.stats import PairedInterval, paired_interval
from sawyer.text import PromptEncoder, Row, limit_tokens
from sawyer.train import (
    NextTokenLoop,
    Placement,
    choose_device,
    distributed,
    encode_rows,
    generator,
    learned_gate,
    lengths_in_words,
    losses_of,
    read_data,
    record_fast_paths,
    run_steps,
    stop_if_asked,
    write_folder,
)

STAGE = "sft"
EOS_RATE = 0.9  # below this the model has not learnt to stop
MANY_CUT = 0.1  # of the rows: with more of them cut the model sees too few ends to learn to stop


def train(config: Config, run: Run) -> dict[str, Any]:
    """Fine-tune the base model on `config.sft.data`, save it, judge it; returns its key figures."""
    asked = required_section(config.sft, "sft")
    base = config.model or run.layout.model("base")
    speaker = open_language_model(base, config.template, lora=config.lora, seed=config.seed)
    place = choose_device(config.device, config.precision, width=speaker.width, vocabulary=speaker.vocabulary)
    speaker.model.to(place.device)
    record_fast_paths(run, STAGE, {"the model": speaker.model})
    found = read_data(
        run,
        STAGE,
        asked.data,
        want="demonstrations",
        columns=asked.columns,
        max_bad_rows=config.max_bad_rows,
        prompt_encoder=speaker.prompt_encoder,
    )
    train_records, held_records = split(found.records, asked.eval_fraction)
    prompt_encoder = limit_tokens(speaker.prompt_encoder, asked.max_tokens)

    def row_of(record: Demonstration) -> Row | None:
        return prompt_encoder.demonstration(record) if prompt_encoder.fits(record.prompt) else None

    every = encode_rows(run, STAGE, [*train_records, *held_records], row_of)
    encoded = _usable(prompt_encoder, train_records, every[: len(train_records)], asked, run)
    held = _usable(prompt_encoder, held_records, every[len(train_records) :], asked, run)
    rows, held_rows = encoded.rows, held.rows
    if not rows:
        raise DataError(
            "sft.data has no row to train on",
            expected="at least one demonstration that fits the model",
            todo="give shorter prompts or a model that reads more tokens, or lower sft.eval_fraction",
        )
    frozen = (
        f", {freeze(speaker.model, asked.freeze, setting='sft.freeze').told}" if asked.freeze else lora_summary(speaker.model)
    )
    work = SftLoop(config, place, speaker, rows)
    run.journal.event(
        STAGE,
        "plan",
        message=f"{len(rows):,} rows ({found.format}), {len(held_rows):,} held out, "
        f"{lengths_in_words(rows)}, {work.steps:,} steps, "
        f"{speaker.parameters / 1e6:.1f} M parameters{frozen}, {place.reason}; written with {speaker.reads}"
        f"{found.remarks()}{encoded.remark}",
        unread=dict(found.unread),
    )
    steps = run_steps(run, STAGE, work, save_every_seconds=config.save_every_seconds)
    # Saved before anything is asked of it: what follows may fail, and must not keep the model from its user.
    write_folder(run.layout.model(STAGE), lambda new: save_model(new, speaker.model, speaker.tokenizer))
    judged = (held_rows, held.records) if held_rows else (rows, encoded.records)
    figures, change = _evaluate(config, run, speaker, place, *judged, steps)
    figures |= losses_of(run, STAGE)
    _reward_model(
        run,
        figures,
        change,
        held_out=bool(held_rows),
        cut=_advice_of_cut(encoded, by_setting=prompt_encoder.context == asked.max_tokens),
    )
    return figures


class SftLoop(NextTokenLoop):
    """The optimizer steps of SFT, one batch of rows each."""

    def __init__(self, config: Config, place: Placement, speaker: LanguageModel, rows: Sequence[Row]) -> None:
        sft = required_section(config.sft, "sft")
        super().__init__(
            speaker.model,
            rows,
            place,
            stage=STAGE,
            total=max(1, round(sft.epochs * len(rows))),
            batch_size=sft.batch_size,
            learning_rate=sft.learning_rate,
            warmup_fraction=sft.warmup_fraction,
            pad_id=speaker.prompt_encoder.pad_id,
            token_budget=config.micro_batch_tokens,
            seed=config.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoded:
    """Records that leave room for an answer, each with its row, and what `max_tokens` cost, for the plan."""

    records: tuple[Demonstration, ...]
    rows: tuple[Row, ...]
    remark: str


def _usable(
    prompt_encoder: PromptEncoder, records: Sequence[Demonstration], found: Sequence[Row | None], asked: Sft, run: Run
) -> _Encoded:
    """Records with their rows. One whose prompt leaves no room for a response has none and is left out, a response that is cut
    loses its end: both said, in the plan where `max_tokens` asks for it, as a warning where the model reads no more, or where
    many rows lose their end.

    An earlier answer of a conversation may fit where the last prompt does not: such a row is left out as well.
    """
    usable = [(record, row) for record, row in zip(records, found, strict=True) if row is not None]
    cut, left_out = sum(row.cut for _, row in usable), len(records) - len(usable)
    told = ""
    if cut or left_out:
        told = (
            f"{cut:,} of {len(records):,} rows are longer than {prompt_encoder.context:,} tokens "
            "and lose the end of their response; "
            f"{left_out:,} have a prompt that leaves no room for one and are left out"
        )
    by_setting = prompt_encoder.context == asked.max_tokens
    many = cut > MANY_CUT * len(records)
    if told and not by_setting:
        run.journal.event(STAGE, "warning", message=f"{told}: the model reads no more")
    elif many:
        run.journal.event(STAGE, "warning", message=f"sft.max_tokens: {told}: what is cut teaches no end")
    return _Encoded(
        records=tuple(record for record, _ in usable),
        rows=tuple(row for _, row in usable),
        remark=f"; sft.max_tokens: {told}" if told and by_setting and not many else "",
    )


def _advice_of_cut(found: _Encoded, *, by_setting: bool) -> str:
    """What to do about rows without their end, where so many are cut that the model may not stop for it; else nothing."""
    cut = sum(row.cut for row in found.rows)
    if cut <= MANY_CUT * len(found.rows):
        return ""
    todo = "raise sft.max_tokens" if by_setting else "give shorter rows or a model that reads more tokens"
    return f"{cut:,} of {len(found.rows):,} rows were cut and have no end to learn from: {todo}; "


def _evaluate(
    config: Config,
    run: Run,
    speaker: LanguageModel,
    place: Placement,
    rows: Sequence[Row],
    records: Sequence[Demonstration],
    steps: int,
) -> tuple[dict[str, Any], PairedInterval]:
    """The figures of the trained model, and by how much the rows' loss is less than the base model's, in nats a token."""
    sft = required_section(config.sft, "sft")

    def losses_of_rows(model: nn.Module) -> list[float]:
        budget, pad_id = config.micro_batch_tokens, speaker.prompt_encoder.pad_id
        with place.autocast():
            return row_losses(
                model, rows, pad_id=pad_id, token_budget=budget, device=place.device, map_rows=distributed.map_sharded
            )

    after = losses_of_rows(speaker.model)
    source = config.model or run.layout.model("base")
    if config.lora is not None and not is_adapter(source):
        with without_adapters(speaker.model):
            before = losses_of_rows(speaker.model)
    else:
        before = losses_of_rows(open_language_model(source, config.template).model.to(place.device))
    # A row's share of the tokens weighs it: the mean over rows is the mean over tokens, and so is that of the changes.
    tokens = sum(sum(row.trained) for row in rows) / len(rows)
    change = paired_interval([loss / tokens for loss in before], [loss / tokens for loss in after])
    loss, base_loss = (math.fsum(losses) / tokens / len(rows) for losses in (after, before))
    stop_if_asked(run, STAGE)
    # A prompt that leaves no room for an answer, left out of the rows too, could not be answered to an end.
    prompts = [prompt for prompt in _distinct_prompts(records) if speaker.prompt_encoder.fits(prompt)][: sft.eval_prompts]
    encoded = [speaker.prompt_encoder.prompt(prompt) for prompt in prompts]
    with place.autocast():
        completions = sample(
            speaker.model,
            encoded,
            prompt_encoder=speaker.prompt_encoder,
            max_new_tokens=sft.max_new_tokens,
            temperature=1.0,
            generator=generator(config.seed, STAGE, "evaluate"),
            map_rows=distributed.map_sharded,
        )
    eos_rate = sum(c.ended for c in completions) / len(completions)
    run.journal.samples(
        STAGE,
        steps,
        [
            {"prompt": p.text, "response": speaker.prompt_encoder.decode(c.ids), "length": len(c.ids), "ended": c.ended}
            for p, c in zip(prompts, completions, strict=True)
        ],
    )
    run.journal.metrics(
        STAGE,
        steps,
        {
            "eval_loss": loss,
            "eval_perplexity": math.exp(min(loss, 50.0)),
            "base_eval_loss": base_loss,
            "eos_rate": eos_rate,
        },
    )
    return {"eval_loss": loss, "base_eval_loss": base_loss, "eos_rate": eos_rate}, change


def _reward_model(run: Run, figures: Mapping[str, float], change: PairedInterval, *, held_out: bool, cut: str = "") -> None:
    """The gates of SFT (method section 2). `change` is of the loss in nats a token, row by row; `cut` is advice on cut rows."""
    noise = change.is_noise and not math.isnan(change.value)
    where = "held-out" if held_out else "training (no row was held out)"
    gates = (
        Gate(
            stage=STAGE,
            name="sft_stops",
            verdict="ok" if figures["eos_rate"] >= EOS_RATE else "warn" if figures["eos_rate"] >= 0.5 else "fail",
            value=figures["eos_rate"],
            threshold=EOS_RATE,
            message=f"{figures['eos_rate']:.0%} of answers to {where} prompts end by themselves",
            advice=f"{cut}train longer, raise sft.max_new_tokens if good answers are longer, or look for cut responses",
        ),
        Gate(
            stage=STAGE,
            name="sft_beats_base",
            verdict="ok" if change.high < 0 else "warn" if noise else "fail",
            value=figures["eval_loss"],
            threshold=figures["base_eval_loss"],
            message=f"{where} loss {figures['base_eval_loss']:.3f} -> {figures['eval_loss']:.3f} nats a token"
            + (f", which is within noise; a change of {change.detectable:.2g} would probably be seen" if noise else ""),
            advice="the learning rate is too high or the epochs too many, if the training loss fell and this did not",
        ),
        learned_gate(STAGE, figures),
    )
    for gate in gates:
        run.journal.gate(gate)


def _distinct_prompts(records: Sequence[Demonstration]) -> list[Prompt]:
    return list({record.prompt.messages: record.prompt for record in records}.values())
