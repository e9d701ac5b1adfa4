"""`python -m benchmarks --size small`: what `sawyer bench` measures, on a model of random weights made for it.

A model's speed does not depend on what its weights say. The vocabulary is GPT-2's in size, so that the output projection costs
what it costs there; the tokenizer is trained on the built-in world. A model of your own goes in by `--model`, rows by `--sft`,
`--reward` and `--prompts`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SIZES = {"tiny": (2, 128, 2), "mini": (4, 256, 4), "small": (12, 768, 12)}  # layers, width, heads
VOCABULARY, CONTEXT = 50257, 1024


def main() -> None:
    """Make the model, write the world's files, measure, show."""
    asked = _arguments()
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    from sawyer.bench import bench
    from sawyer.cli.bench import show
    from sawyer.config import checked
    from sawyer.worlds import write

    with TemporaryDirectory() as folder:
        place = Path(folder)
        if not (asked.sft and asked.reward and asked.prompts):
            write(place / "data", seed=0)
        found = []
        for width in asked.widths or [None]:
            model = asked.model or _model(place / f"model-{width}", asked.size, width)
            config = checked(_config(asked, place, str(model)))
            grow = [] if width else asked.grow
            found += bench(config, stages=asked.stages, grow=grow, steps=asked.steps, out=Path(asked.out))
    show(found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="How fast each stage is on this machine.")
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--model", help="a folder instead of a model made for the size")
    parser.add_argument("--stages", nargs="*", default=[], help="sft reward rl sampling; none: all")
    parser.add_argument("--grow", nargs="*", default=[], help="batch length answers processes")
    parser.add_argument("--widths", nargs="*", type=int, default=[], help="models of these widths, heads of 64, instead of one")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--sft", help="a file of demonstrations; none: the world's")
    parser.add_argument("--reward", help="a file of scored answers or pairs")
    parser.add_argument("--prompts", help="a file of prompts")
    parser.add_argument("--batch", type=int, default=8, help="rows, and prompts of the reward model, a step")
    parser.add_argument("--episodes", type=int, default=32, help="answers an update of PPO")
    parser.add_argument("--new", type=int, default=48, help="tokens an answer in PPO")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--out", default="bench")
    return parser.parse_args()


def _model(folder: Path, size: str, width: int | None) -> Path:
    from sawyer.models import new_policy, save_model, train_tokenizer
    from sawyer.text import set_template
    from sawyer.worlds import statements

    layers, wide, heads = SIZES[size]
    if width:
        wide, heads = width, max(1, width // 64)
    tokenizer = train_tokenizer(statements(0, 2000), 4096, CONTEXT)
    set_template(tokenizer, "question")
    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    model = new_policy(vocab_size=VOCABULARY, layers=layers, width=wide, heads=heads, context=CONTEXT, seed=0, **ids)
    folder.mkdir()
    save_model(folder, model, tokenizer)
    return folder


def _config(asked: argparse.Namespace, place: Path, model: str) -> dict[str, Any]:
    data = place / "data"
    return {
        "model": model,
        "out": str(place / "run"),
        "precision": asked.precision,
        "sft": {"data": [asked.sft or str(data / "instructions.json")], "batch_size": asked.batch},
        "reward": {"data": [asked.reward or str(data / "comparisons.json")], "batch_size": asked.batch},
        "rl": {
            "prompts": [asked.prompts or str(data / "prompts.jsonl")],
            "batch_size": asked.episodes,
            "episodes": asked.episodes,
            "minibatches": 1,
            "epochs": 4,
            "max_new_tokens": asked.new,
            "temperature": 1.0,
        },
    }


if __name__ == "__main__":
    main()
