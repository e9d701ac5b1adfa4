"""Command-line arguments and the config of a measurement.

The model has random weights, made for a size, or is yours; the data are the built-in world's or yours.
A model's speed does not depend on what its weights say. The vocabulary is GPT-2's in size, so that the output projection costs
what it costs there; the tokenizer is trained on the built-in world.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sawyer.config import Config

SIZES = {"tiny": (2, 128, 2), "mini": (4, 256, 4), "small": (12, 768, 12)}  # layers, width, heads
VOCABULARY, CONTEXT = 50257, 1024


def parse_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line: the parser's own arguments, and those that say what is measured."""
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--model", help="a folder instead of a model made for the size")
    parser.add_argument("--stages", nargs="*", default=[], help="sft reward rl sampling; none: all")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--sft", help="a file of demonstrations; none: the world's")
    parser.add_argument("--reward", help="a file of scored answers or pairs")
    parser.add_argument("--prompts", help="a file of prompts")
    parser.add_argument("--batch", type=int, default=8, help="rows, and prompts of the reward model, a step")
    parser.add_argument("--episodes", type=int, default=32, help="answers an update of PPO")
    parser.add_argument("--new", type=int, default=48, help="tokens an answer in PPO")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of a run, such as rl.value_init=shared")
    return parser.parse_args()


def config(arguments: argparse.Namespace, folder: Path) -> Config:
    """A run of it. The world's files and the model made for the size are written into `folder`."""
    from sawyer.config import parse_config, with_settings
    from sawyer.worlds import write_world

    data = folder / "data"
    if not (data.exists() or (arguments.sft and arguments.reward and arguments.prompts)):
        write_world(data, seed=0)
    run = parse_config(
        {
            "model": str(arguments.model or _model(folder / "model", arguments.size)),
            "out": str(folder / "run"),
            "sft": {"data": [arguments.sft or str(data / "instructions.json")], "batch_size": arguments.batch},
            "reward": {"data": [arguments.reward or str(data / "comparisons.json")], "batch_size": arguments.batch},
            "rl": {
                "prompts": [arguments.prompts or str(data / "prompts.jsonl")],
                "batch_size": arguments.episodes,
                "episodes": arguments.episodes,
                "num_minibatches": 1,
                "epochs": 4,
                "max_new_tokens": arguments.new,
                "temperature": 1.0,
            },
        }
    )
    return with_settings(run, {}, arguments.set)


def _model(folder: Path, size: str) -> Path:
    from sawyer.models import new_policy, save_model, train_tokenizer
    from sawyer.text import set_template
    from sawyer.worlds import statements

    layers, width, heads = SIZES[size]
    tokenizer = train_tokenizer(statements(0, 2000), 4096, CONTEXT)
    set_template(tokenizer, "question")
    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    model = new_policy(vocab_size=VOCABULARY, layers=layers, width=width, heads=heads, context=CONTEXT, seed=0, **ids)
    folder.mkdir()
    save_model(folder, model, tokenizer)
    return folder
