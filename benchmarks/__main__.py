"""`python -m benchmarks --size small`: what `sawyer bench` measures, on what `given` makes for the size, or on yours.

A model of your own goes in by `--model`, rows by `--sft`, `--reward` and `--prompts`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.given import config, parsed


def main() -> None:
    """Make the model, write the world's files, measure, show."""
    asked = _arguments()
    from sawyer.bench import bench
    from sawyer.cli.bench_command import show
    from sawyer.errors import SawyerError

    found = []
    try:
        with TemporaryDirectory() as folder:
            for width in asked.widths or [None]:
                resize_embeddings = [] if width else asked.resize_embeddings
                run = config(asked, Path(folder), width)
                found += bench(
                    run, stages=asked.stages, resize_embeddings=resize_embeddings, steps=asked.steps, out=Path(asked.out)
                )
    except SawyerError as error:
        raise SystemExit(str(error)) from error
    show(found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="How fast each stage is on this machine.")
    parser.add_argument("--grow", nargs="*", default=[], help="batch length answers processes")
    parser.add_argument("--widths", nargs="*", type=int, default=[], help="models of these widths, heads of 64, instead of one")
    parser.add_argument("--out", default="bench")
    return parsed(parser)


if __name__ == "__main__":
    main()
