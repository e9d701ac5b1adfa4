"""A user's own function, named in a config as `module:function`."""

from __future__ import annotations

import re
from pathlib import Path

OWN = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")


def own_names(name: str) -> tuple[str, str] | None:
    """(module, function) of `my_module:my_loss`; None for a name that is not spelt so."""
    found = OWN.fullmatch(name)
    return (found[1], found[2]) if found else None


def own_file(name: str) -> Path | None:
    """The file that the function is looked for in, from the working directory; None where the module is not there."""
    names = own_names(name)
    if names is None:
        return None
    path = Path(*names[0].split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
