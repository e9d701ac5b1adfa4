"""Train the SFT model: demonstrations -> rows -> response loss, then evaluate it on held-out prompts."""

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
from sawyer.records import Demonstration, split
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
    stop_if_requested,
    write_folder,
)

STAGE = "sft"
EOS_RATE = 0.9  # below this the model has not learnt to stop
MANY_CUT = 0.1  # of the rows: with more of them cut the model sees too few ends to learn to stop


def train(config: Config, run: Run) -> dict[str, Any]:
    """Fine-tune the base model on `config.sft.data`, save it, evaluate it; returns its key figures."""
    settings = required_section(config.sft, "sft")
    base = config.model or run.layout.model("base")
    language_model = open_language_model(base, config.template, lora=config.lora, seed=config.seed)
    model, encoder = language_model.model, language_model.prompt_encoder
    placement = choose_device(config.device, config.precision, width=language_model.width, vocabulary=language_model.vocabulary)
    model.to(placement.device)
    record_fast_paths(run, STAGE, {"the model": model})
    data = read_data(
        run,
        STAGE,
        settings.data,
        want="demonstrations",
        columns=settings.columns,
        max_bad_rows=config.max_bad_rows,
        prompt_encoder=encoder,
    )
    training, held_out = _encode_split(run, *split(data.records, settings.eval_fraction), encoder, settings)
    if not training.rows:
        raise DataError(
            "sft.data has no row to train on",
            expected="at least one demonstration that fits the model",
            todo="give shorter prompts or a model that reads more tokens, or lower sft.eval_fraction",
        )
    trainable = lora_summary(model)
    if settings.freeze:
        trainable = f", {freeze(model, settings.freeze, setting='sft.freeze').summary}"
    loop = SftLoop(config, placement, language_model, training.rows)
    run.journal.event(
        STAGE,
        "plan",
        message=f"{len(training.rows):,} rows ({data.format}), {len(held_out.rows):,} held out, "
        f"{lengths_in_words(training.rows)}, {loop.steps:,} steps, "
        f"{language_model.parameters / 1e6:.1f} M parameters{trainable}, {placement.reason}; "
        f"written with {language_model.reads}{data.remarks()}{training.remark}",
        unread=dict(data.unread),
    )
    steps = run_steps(run, STAGE, loop, save_every_seconds=config.save_every_seconds)
    # Saved first: an evaluation that fails must not cost the user the trained model.
    write_folder(run.layout.model(STAGE), lambda folder: save_model(folder, model, language_model.tokenizer))
    figures, change = _evaluate(config, run, language_model, placement, held_out if held_out.rows else training, steps)
    figures |= losses_of(run, STAGE)
    for gate in sft_gates(figures, change, held_out=bool(held_out.rows), cut_advice=training.cut_advice):
        run.journal.gate(gate)
    return figures


class SftLoop(NextTokenLoop):
    """The optimizer steps of SFT, one batch of rows each."""

    def __init__(self, config: Config, placement: Placement, language_model: LanguageModel, rows: Sequence[Row]) -> None:
        sft = required_section(config.sft, "sft")
        super().__init__(
            language_model.model,
            rows,
            placement,
            stage=STAGE,
            total=max(1, round(sft.epochs * len(rows))),
            batch_size=sft.batch_size,
            learning_rate=sft.learning_rate,
            warmup_fraction=sft.warmup_fraction,
            pad_id=language_model.prompt_encoder.pad_id,
            token_budget=config.micro_batch_tokens,
            seed=config.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _EncodedDemonstrations:
    """The records that leave room for a response, with their rows; how many lose the end of theirs, how many have no room."""

    records: tuple[Demonstration, ...]
    rows: tuple[Row, ...]
    cut: int
    left_out: int
    limit: int  # tokens
    by_setting: bool  # the limit is sft.max_tokens, not the model's

    @property
    def summary(self) -> str:
        """What the limit costs, empty where it costs nothing."""
        if not self.cut and not self.left_out:
            return ""
        return (
            f"{self.cut:,} of {len(self.rows) + self.left_out:,} rows are longer than {self.limit:,} tokens "
            f"and lose the end of their response; {self.left_out:,} have a prompt that leaves no room for one and are left out"
        )

    @property
    def warning(self) -> str:
        """The summary, where the user did not ask for the limit or where it cuts many rows."""
        if self.summary and not self.by_setting:
            return f"{self.summary}: the model reads no more"
        if self.cut > MANY_CUT * (len(self.rows) + self.left_out):
            return f"sft.max_tokens: {self.summary}: what is cut teaches no end"
        return ""

    @property
    def remark(self) -> str:
        """The summary for the plan, where it is no warning."""
        return f"; sft.max_tokens: {self.summary}" if self.summary and not self.warning else ""

    @property
    def cut_advice(self) -> str:
        """What to do about cut rows, where they are so many that the model may not learn to stop for it."""
        if self.cut <= MANY_CUT * len(self.rows):
            return ""
        todo = "raise sft.max_tokens" if self.by_setting else "give shorter rows or a model that reads more tokens"
        return f"{self.cut:,} of {len(self.rows):,} rows were cut and have no end to learn from: {todo}; "


def _encode_split(
    run: Run, train: Sequence[Demonstration], held_out: Sequence[Demonstration], encoder: PromptEncoder, settings: Sft
) -> tuple[_EncodedDemonstrations, _EncodedDemonstrations]:
    """Both sides of the split with their rows. An earlier answer of a conversation may fit where the last prompt does not: such
    a record has no row either."""
    encoder = limit_tokens(encoder, settings.max_tokens)

    def encode(record: Demonstration) -> Row | None:
        return encoder.demonstration(record) if encoder.fits(record.prompt) else None

    def encoded_side(records: Sequence[Demonstration], rows: Sequence[Row | None]) -> _EncodedDemonstrations:
        usable = [(record, row) for record, row in zip(records, rows, strict=True) if row is not None]
        side = _EncodedDemonstrations(
            records=tuple(record for record, _ in usable),
            rows=tuple(row for _, row in usable),
            cut=sum(row.cut for _, row in usable),
            left_out=len(records) - len(usable),
            limit=encoder.context,
            by_setting=encoder.context == settings.max_tokens,
        )
        if side.warning:
            run.journal.event(STAGE, "warning", message=side.warning)
        return side

    rows = encode_rows(run, STAGE, [*train, *held_out], encode)
    return encoded_side(train, rows[: len(train)]), encoded_side(held_out, rows[len(train) :])


def _evaluate(
    config: Config, run: Run, language_model: LanguageModel, placement: Placement, data: _EncodedDemonstrations, steps: int
) -> tuple[dict[str, Any], PairedInterval]:
    """The figures of the trained model, and the change of the rows' loss from the base model's, in nats a token."""
    sft = required_section(config.sft, "sft")
    rows, encoder = data.rows, language_model.prompt_encoder

    def losses_of_rows(model: nn.Module) -> list[float]:
        budget, device = config.micro_batch_tokens, placement.device
        with placement.autocast():
            return row_losses(
                model, rows, pad_id=encoder.pad_id, token_budget=budget, device=device, map_rows=distributed.map_sharded
            )

    after = losses_of_rows(language_model.model)
    source = config.model or run.layout.model("base")
    if config.lora is not None and not is_adapter(source):
        with without_adapters(language_model.model):
            before = losses_of_rows(language_model.model)
    else:
        before = losses_of_rows(open_language_model(source, config.template).model.to(placement.device))
    # Weighted by its share of the tokens, the mean over rows is the mean over tokens, and so is that of the changes.
    tokens = sum(sum(row.loss_mask) for row in rows) / len(rows)
    change = paired_interval([loss / tokens for loss in before], [loss / tokens for loss in after])
    loss, base_loss = (math.fsum(losses) / tokens / len(rows) for losses in (after, before))
    stop_if_requested(run, STAGE)
    prompts = list({record.prompt.messages: record.prompt for record in data.records}.values())[: sft.eval_prompts]
    with placement.autocast():
        completions = sample(
            language_model.model,
            [encoder.prompt(prompt) for prompt in prompts],
            prompt_encoder=encoder,
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
            {"prompt": p.text, "response": encoder.decode(c.ids), "length": len(c.ids), "ended": c.ended}
            for p, c in zip(prompts, completions, strict=True)
        ],
    )
    figures = {"eval_loss": loss, "base_eval_loss": base_loss, "eos_rate": eos_rate}
    run.journal.metrics(STAGE, steps, {**figures, "eval_perplexity": math.exp(min(loss, 50.0))})
    return figures, change


def sft_gates(
    figures: Mapping[str, float], change: PairedInterval, *, held_out: bool, cut_advice: str = ""
) -> tuple[Gate, Gate, Gate]:
    """Does the model stop, is it better than its base, did training lower its own loss? `change` is of the loss, in nats a
    token, row by row."""
    noise = change.is_noise and not math.isnan(change.value)
    where = "held-out" if held_out else "training (no row was held out)"
    return (
        Gate(
            stage=STAGE,
            name="sft_stops",
            verdict="ok" if figures["eos_rate"] >= EOS_RATE else "warn" if figures["eos_rate"] >= 0.5 else "fail",
            value=figures["eos_rate"],
            threshold=EOS_RATE,
            message=f"{figures['eos_rate']:.0%} of answers to {where} prompts end by themselves",
            advice=f"{cut_advice}train longer, raise sft.max_new_tokens if good answers are longer, or look for cut responses",
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
