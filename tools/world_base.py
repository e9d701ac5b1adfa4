"""Train the base model that ships with the package: the world's prose, read by a small GPT-2-architecture model.

    python tools/world_base.py                  # about an hour on two cores; writes src/sawyer/worlds/base
    python tools/world_base.py --tokens 200000 --judged 80000 --out DIR    # a quick one, to see that it works

It reads the world's facts first, then judgements of what people say about them. The same command gives the same weights on the
same machine. What is written carries the world's version: a demo refuses a base model of another world.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import sawyer
from sawyer.cli.console import stdout
from sawyer.cli.progress import Watch
from sawyer.config import parse_config
from sawyer.models import open_language_model, save_model
from sawyer.runs import MARKER, Layout
from sawyer.text import windows
from sawyer.train import NextTokenLoop, choose_device
from sawyer.worlds import VERSION, judgements, statements

PACKAGE_FOLDER = Path(__file__).parent.parent / "src" / "sawyer" / "worlds" / "base"
PARAGRAPHS, JUDGED_PARAGRAPHS = 450_000, 180_000
SEED, CONTEXT, BATCH = 0, 128, 8
LOG_EVERY = 500  # steps


def main() -> None:
    """Write the prose, train on it, put the model in its place."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=PACKAGE_FOLDER, help="where the model goes (default: the package)")
    parser.add_argument("--tokens", type=int, default=20_000_000, help="tokens to train on")
    parser.add_argument("--judged", type=int, default=8_000_000, help="tokens of judgements after them")
    parser.add_argument("--work", type=Path, help="a folder for the run, to go on with after an interruption")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        text = work / "statements.txt"
        text.write_text("\n\n".join(statements(SEED, PARAGRAPHS)) + "\n", encoding="utf-8")
        config = parse_config(
            {
                "out": str(work / "run"),
                "seed": SEED,
                "precision": "bf16",
                "micro_batch_tokens": 4096,
                "base": {
                    "text": [str(text)],
                    "vocab_size": 1024,
                    "layers": 4,
                    "width": 160,
                    "heads": 4,
                    "context": CONTEXT,
                    "tokens": arguments.tokens,
                    "batch_size": BATCH,
                    "learning_rate": 2.0e-3,
                },
            }
        )
        with Watch(stdout()) as watch:
            sawyer.run(config, listeners=[watch])
        shutil.rmtree(arguments.out, ignore_errors=True)
        shutil.copytree(Layout(work / "run").model("base"), arguments.out, ignore=shutil.ignore_patterns(MARKER))
        judge(arguments.out, arguments.judged)
        (arguments.out / "world.txt").write_text(f"{VERSION}\n", encoding="utf-8")
    print(f"{arguments.out}: {sum(path.stat().st_size for path in arguments.out.iterdir()) / 1e6:.1f} MB")


def judge(folder: Path, tokens: int) -> None:
    """Go on training the model in `folder` on judgements, and write it back."""
    language_model = open_language_model(folder)
    device = choose_device("cpu", "bf16", width=language_model.width)
    rows = windows(list(judgements(SEED, JUDGED_PARAGRAPHS)), language_model.tokenizer, CONTEXT)
    loop = NextTokenLoop(
        language_model.model,
        rows,
        device,
        stage="base",
        total=tokens // CONTEXT,
        batch_size=BATCH,
        learning_rate=1.0e-3,
        warmup_fraction=0.05,
        pad_id=0,
        token_budget=4096,
        seed=SEED,
    )
    for index in range(loop.steps):
        metrics = loop.step(index)
        if index % LOG_EVERY == 0:
            print(f"judgements: step {index:,} of {loop.steps:,}, loss {metrics['loss']:.3f}", flush=True)
    save_model(folder, language_model.model, language_model.tokenizer)


if __name__ == "__main__":
    main()
