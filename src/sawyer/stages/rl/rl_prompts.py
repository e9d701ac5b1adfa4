"""The prompts of RL: those that the policy answers to learn, and the held-out ones that it is evaluated on."""

from __future__ import annotations

from collections.abc import Sequence

from sawyer.config import Config, required_section
from sawyer.errors import DataError
from sawyer.models import LanguageModel, RewardScorer, Scorer
from sawyer.records import Prompt, leave_out, once_each, prompt_in, read, split
from sawyer.runs import Run
from sawyer.stages.rl.reward_sources import STAGE, parts_of
from sawyer.text import find_unrenderable
from sawyer.train import read_data, readable, report_remarks


def load_prompts(
    config: Config, run: Run, policy: LanguageModel, scorer: Scorer
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """(prompts to train on, prompts to evaluate on) that the policy and every reward model can read.

    What is left out is counted in the journal. Raises DataError where no prompt is left.
    """
    rl = required_section(config.rl, "rl")
    prompts = _readable_prompts(config, run, policy, scorer)
    encoder = policy.prompt_encoder
    if (limit := rl.max_prompt_tokens) is not None:
        short = [prompt for prompt in prompts if len(encoder.prompt(prompt)) <= limit]
        if len(short) < len(prompts):
            message = f"{len(prompts) - len(short):,} of {len(prompts):,} prompts are longer than {limit:,}"
            run.journal.event(STAGE, "data", message=f"rl.max_prompt_tokens: {message} tokens and are left out")
        prompts = short
    with_room = [prompt for prompt in prompts if encoder.fits(prompt, room=rl.max_new_tokens)]
    if len(with_room) < len(prompts):
        message = f"{len(prompts) - len(with_room)} of {len(prompts)} prompts leave no room for {rl.max_new_tokens} new tokens"
        run.journal.event(STAGE, "warning", message=f"{message} in the model's {encoder.context} and are left out")
    training, held_out = split(with_room, rl.eval_fraction)
    if not training:
        raise DataError(
            f"rl.{'prompts' if rl.prompts else 'data'} has no prompt to train on",
            expected="prompts that fit the model beside their answer",
            todo="give shorter prompts, lower rl.max_new_tokens, or lower rl.eval_fraction",
        )
    if not held_out:
        run.journal.event(STAGE, "warning", message="no prompt is held out: the best model is chosen on training prompts")
    return tuple(training), tuple((held_out or training)[: rl.eval_prompts])


def _readable_prompts(config: Config, run: Run, policy: LanguageModel, scorer: Scorer) -> Sequence[Prompt]:
    rl = required_section(config.rl, "rl")
    if rl.prompts:
        rows = read_data(
            run,
            STAGE,
            rl.prompts,
            want="prompts",
            columns=rl.columns,
            max_bad_rows=config.max_bad_rows,
            prompt_encoder=policy.prompt_encoder,
        )
        rows = rows if rl.has_functions else once_each(rows)  # a function may compare with a row's other fields
        report_remarks(run, STAGE, "rl.prompts", rows)
    else:  # dpo answers its pairs' prompts; what is wrong with the pairs is reported where they are loaded
        rows = read(rl.data, want="comparisons", columns=rl.columns, max_bad_rows=config.max_bad_rows)
        rows = leave_out(rows, find_unrenderable(policy.prompt_encoder, rows.records), config.max_bad_rows)
    encoders = {name: part.prompt_encoder for name, part in parts_of(scorer) if isinstance(part, RewardScorer)}
    rows = readable(run, STAGE, rows, encoders, config.max_bad_rows)
    prompts = [prompt_in(record) for record in rows.records]
    # One prompt may have many pairs.
    return prompts if rl.prompts else list({prompt.messages: prompt for prompt in prompts}.values())
