"""Train the base model: text -> windows of tokens -> next-token loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from sawyer.config import Config, required_section
from sawyer.errors import DataError, TrainingError
from sawyer.models import mean_loss, new_policy, save_model, train_tokenizer
from sawyer.runs import Gate, Run, remove_folder
from sawyer.text import Row, set_template, template_text, windows
from sawyer.train import NextTokenLoop, Placement, choose_device, distributed, read_data, run_steps, write_folder

STAGE = "base"
WARMUP = 0.05  # share of the steps; a young model's first gradients are large and point nowhere in particular
HELD_OUT_EVERY = 50  # one window in so many, over all of the text: its beginning need not be like the rest


def train(config: Config, run: Run) -> dict[str, Any]:
    """Train and save the base model of `config.base`; returns its key figures."""
    asked = required_section(config.base, "base")
    found = read_data(run, STAGE, asked.text, want="text", columns={}, max_bad_rows=config.max_bad_rows)
    texts = [str(text) for text in found.records]
    # The template's own words recur in every later row: seen by the tokenizer, each costs few tokens.
    tokenizer = train_tokenizer([*texts, *[template_text(config.template)] * len(texts)], asked.vocab_size, asked.context)
    set_template(tokenizer, config.template)
    every = windows(texts, tokenizer, asked.window or asked.context)
    held_out = every[::HELD_OUT_EVERY]
    rows = [window for place, window in enumerate(every) if place % HELD_OUT_EVERY]
    if not rows:
        raise DataError(
            f"base.text holds too little for two windows of {asked.window or asked.context} tokens",
            why="a model cannot learn from, and be checked on, the same few words",
            todo="give more text, or a smaller base.context or base.window",
        )
    model = new_policy(
        vocab_size=len(tokenizer),
        layers=asked.layers,
        width=asked.width,
        heads=asked.heads,
        context=asked.context,
        seed=config.seed,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    )
    place = choose_device(config.device, config.precision, width=asked.width, vocabulary=len(tokenizer))
    model.to(place.device)
    work = BaseWork(config, place, model, rows)
    run.journal.event(
        STAGE,
        "plan",
        message=f"{len(rows):,} windows of {len(rows[0].ids)} tokens from {len(texts):,} texts, {work.steps:,} steps, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {place.reason}",
    )
    with place.autocast():
        before = mean_loss(
            model,
            held_out,
            pad_id=0,
            token_budget=config.micro_batch_tokens,
            device=place.device,
            map_rows=distributed.map_sharded,
        )
    steps = run_steps(run, STAGE, work, save_every_seconds=config.save_every_seconds)
    # Saved before anything is asked of it: what follows may fail, and must not keep the model from its user.
    write_folder(run.layout.model(STAGE), lambda new: save_model(new, model, tokenizer))
    with place.autocast():
        after = mean_loss(
            model,
            held_out,
            pad_id=0,
            token_budget=config.micro_batch_tokens,
            device=place.device,
            map_rows=distributed.map_sharded,
        )
    if not math.isfinite(after):
        distributed.on_rank_zero(lambda: remove_folder(run.layout.model(STAGE)))
        raise TrainingError(
            f"base: after its last update the held-out loss is {after}",
            expected="a finite number",
            why="training has destroyed the model's weights",
            todo="lower base.learning_rate",
        )
    run.journal.metrics(STAGE, steps, {"eval_loss": after, "eval_perplexity": math.exp(min(after, 50.0))})
    run.journal.gate(
        Gate(
            stage=STAGE,
            name="base_learned",
            verdict="ok" if after < before else "fail",
            value=after,
            threshold=before,
            message=f"held-out loss {before:.2f} -> {after:.2f} nats a token",
            advice="more tokens, a higher learning rate, or text that resembles what comes later",
        )
    )
    return {"eval_loss": after, "loss_before": before}


class BaseWork(NextTokenLoop):
    """The optimizer steps of the base model, one batch of windows each."""

    def __init__(self, config: Config, place: Placement, model: nn.Module, rows: Sequence[Row]) -> None:
        base = required_section(config.base, "base")
        super().__init__(
            model,
            rows,
            place,
            stage=STAGE,
            total=math.ceil(base.tokens / len(rows[0].ids)),
            batch_size=base.batch_size,
            learning_rate=base.learning_rate,
            warmup_fraction=WARMUP,
            pad_id=0,
            token_budget=config.micro_batch_tokens,
            seed=config.seed,
        )
