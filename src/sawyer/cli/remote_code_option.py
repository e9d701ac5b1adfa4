"""The option of commands that open a model without a config: whether code that lies with it may run."""

from __future__ import annotations

from typing import Annotated

import typer

TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let Python that lies with the model run; it can do whatever you can.")
]
