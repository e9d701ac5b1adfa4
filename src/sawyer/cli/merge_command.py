"""`sawyer merge`: LoRA adapters and their base model as one model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sawyer.cli.console import say, stdout
from sawyer.cli.options import RemoteCode
from sawyer.errors import ModelError, RunError

LATEST = ("rl", "sft")  # tried in this order where no stage is named


def merge(
    source: Annotated[str, typer.Argument(help="A run's folder, or a folder of adapters.", metavar="RUN")],
    stage: Annotated[
        str | None,
        typer.Option(help="The stage whose adapters are merged: sft, reward, rl or classify; by default the last policy's."),
    ] = None,
    out: Annotated[str | None, typer.Option(help="The folder to write; by default one beside the adapters.")] = None,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Merge LoRA adapters into their base model and write a folder that transformers loads by itself."""
    folder, beside = _adapters(source, stage)
    target = beside if out is None else Path(out)
    if os.path.exists(target) and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(
            f"{target} exists already",
            expected="a folder that does not exist yet, or is empty",
            todo="name another with --out, or delete it",
        )
    from sawyer.models import remote_code, save_merged
    from sawyer.runs import replace_folder

    with replace_folder(target) as new, remote_code(trust_remote_code):
        save_merged(folder, new)
    say(stdout(), ("Wrote ", "dim"), str(target))


def _adapters(source: str, stage: str | None) -> tuple[Path, Path]:
    """(the folder of adapters, the default folder for the merged model)"""
    from sawyer.runs import Layout, is_adapter, is_complete

    if is_adapter(source):
        return Path(source), Path(source).with_name(f"{Path(source).name}-merged")
    layout = Layout(Path(source))
    if not os.path.exists(layout.config):
        raise ModelError(
            f"{source} is neither a run nor a folder of adapters",
            expected="what a run with `lora:` leaves",
            todo="check the path; a whole model needs no merging",
        )
    name = next((name for name in ((stage,) if stage else LATEST) if is_complete(layout.model(name))), None)
    if name is None:
        raise RunError(
            f"{source} has no {stage or 'fine-tuned'} model yet",
            expected="a finished stage",
            todo="run it first, or name another with --stage",
        )
    if not is_adapter(layout.model(name)):
        raise ModelError(f"{layout.model(name)} is a whole model already", todo="use it as it is: transformers loads it")
    return layout.model(name), layout.merged_model(name)
