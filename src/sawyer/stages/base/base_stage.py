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
from sawyer.train import (
    NextTokenLoop,
    Placement,
    choose_device,
    distributed,
    read_data,
    record_fast_paths,
    run_steps,
    write_folder,
)

STAGE = "base"
WARMUP = 0.05  # share of the steps: the first gradients of random weights are large and noisy
HELD_OUT_EVERY = 50  # one window in so many, from all of the text: its beginning may differ from the rest


def train(config: Config, run: Run) -> dict[str, Any]:
    """Train and save the base model of `config.base`; returns its key figures."""
    settings = required_section(config.base, "base")
    data = read_data(run, STAGE, settings.text, want="text", columns={}, max_bad_rows=config.max_bad_rows)
    texts = [str(text) for text in data.records]
    # The template's words are in every later row: a tokenizer that has seen them spends few tokens on each.
    tokenizer = train_tokenizer([*texts, *[template_text(config.template)] * len(texts)], settings.vocab_size, settings.context)
    set_template(tokenizer, config.template)
    every = windows(texts, tokenizer, settings.window or settings.context)
    held_out = every[::HELD_OUT_EVERY]
    rows = [window for index, window in enumerate(every) if index % HELD_OUT_EVERY]
    if not rows:
        raise DataError(
            f"base.text has too little text for two windows of {settings.window or settings.context} tokens",
            why="the model needs one window to train on and another to be evaluated on",
            todo="give more text, or a smaller base.context or base.window",
        )
    model = new_policy(
        vocab_size=len(tokenizer),
        layers=settings.layers,
        width=settings.width,
        heads=settings.heads,
        context=settings.context,
        seed=config.seed,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    )
    placement = choose_device(config.device, config.precision, width=settings.width, vocabulary=len(tokenizer))
    model.to(placement.device)
    record_fast_paths(run, STAGE, {"the model": model})
    loop = BaseLoop(config, placement, model, rows)
    run.journal.event(
        STAGE,
        "plan",
        message=f"{len(rows):,} windows of {len(rows[0].ids)} tokens from {len(texts):,} texts, {loop.steps:,} steps, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {placement.reason}",
    )

    def held_out_loss() -> float:
        budget, map_rows = config.micro_batch_tokens, distributed.map_sharded
        with placement.autocast():
            return mean_loss(model, held_out, pad_id=0, token_budget=budget, device=placement.device, map_rows=map_rows)

    before = held_out_loss()
    steps = run_steps(run, STAGE, loop, save_every_seconds=config.save_every_seconds)
    # Saved first: an evaluation that fails must not cost the user the trained model.
    write_folder(run.layout.model(STAGE), lambda folder: save_model(folder, model, tokenizer))
    after = held_out_loss()
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


class BaseLoop(NextTokenLoop):
    """The optimizer steps of the base model, one batch of windows each."""

    def __init__(self, config: Config, placement: Placement, model: nn.Module, rows: Sequence[Row]) -> None:
        base = required_section(config.base, "base")
        super().__init__(
            model,
            rows,
            placement,
            stage=STAGE,
            total=math.ceil(base.tokens / len(rows[0].ids)),
            batch_size=base.batch_size,
            learning_rate=base.learning_rate,
            warmup_fraction=WARMUP,
            pad_id=0,
            token_budget=config.micro_batch_tokens,
            seed=config.seed,
        )
