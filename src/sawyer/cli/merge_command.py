"""`sawyer merge`: one whole model of adapters and the model that they belong to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sawyer.cli.console import say, stdout
from sawyer.cli.remote_code_option import TrustRemoteCode
from sawyer.errors import ModelError, RunError

LATEST = ("rl", "sft")  # the stage whose model is meant where none is named


def merge(
    source: Annotated[str, typer.Argument(help="A run's folder, or a folder of adapters.", metavar="RUN")],
    stage: Annotated[
        str | None, typer.Option(help="Of a run: sft, reward, rl or classify; none given: the last policy.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="The folder to write; none given: one beside the adapters.")] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write the model that LoRA's adapters make of their base model, as a plain folder that transformers loads alone."""
    folder, beside = _adapters(source, stage)
    target = beside if out is None else Path(out)
    if os.path.exists(target) and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(
            f"{target} is there already",
            expected="a folder that is not there yet, or is empty",
            todo="name another with --out, or delete it",
        )
    from sawyer.models import remote_code, save_merged
    from sawyer.runs import replace_folder

    with replace_folder(target) as new, remote_code(trust_remote_code):
        save_merged(folder, new)
    say(stdout(), ("Wrote ", "dim"), str(target))


def _adapters(source: str, stage: str | None) -> tuple[Path, Path]:
    """(the folder of adapters, where the whole model goes if nobody says where)"""
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
    found = next((name for name in ((stage,) if stage else LATEST) if is_complete(layout.model(name))), None)
    if found is None:
        raise RunError(
            f"{source} has no {stage or 'fine-tuned'} model yet",
            expected="a stage that is done",
            todo="run it first, or name another with --stage",
        )
    if not is_adapter(layout.model(found)):
        raise ModelError(f"{layout.model(found)} is a whole model already", todo="use it as it is: transformers loads it alone")
    return layout.model(found), layout.merged(found)
