"""A user's own function, named in a config as `module:function`.

A config is code: what it names is imported and run. So a module is taken from the folder that the command runs in alone, where
its user can see it, and never from what happens to be installed: a config of somebody else's could name `pty:spawn`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sawyer.errors import ConfigError

BUILT_IN = ("sawyer.worlds",)  # modules of the package whose functions a config may name
OURS = "part of SAWYER"  # what `own_source` says of those
# Module -> hash of the files that it was imported from: one whose files are as they were is not executed again.
_imported_from: dict[str, str] = {}
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
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if os.path.isfile(file)), None)


def own_files(name: str) -> list[Path]:
    """The function's file and all that it imports from the working directory, however deep: they decide what it returns.

    Read off the files' text, without running them. What they import otherwise, or read, is not known here.
    """
    names = own_names(name)
    found: list[Path] = []
    todo = list(_files_of(tuple(names[0].split(".")))) if names is not None else []
    while todo:
        file = todo.pop()
        if file not in found:
            found.append(file)
            todo += [path for module in _imported(file) for path in _files_of(module)]
    return found


def _imported(file: Path) -> Iterator[tuple[str, ...]]:
    """The dotted names that a file's imports may mean, by the working directory. Of a file that is no Python: none."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = file.parts[: -node.level] if node.level else ()
            base = (*package, *(node.module.split(".") if node.module else ()))
            yield base
            yield from ((*base, alias.name) for alias in node.names)  # a function's name, or a module's


def _files_of(module: tuple[str, ...]) -> Iterator[Path]:
    """The files here that importing `a.b.c` runs: those of its packages, and its own."""
    for length in range(1, len(module) + 1):
        path = Path(*module[:length])
        candidates = (path / "__init__.py", path.with_name(f"{path.name}.py"))
        yield from (file for file in candidates if os.path.isfile(file))


def own_function(name: str, setting: str) -> Callable[..., Any]:
    """The function that `module:function` names, of the module as its file is now. `setting` is where it was named.

    Raises ConfigError where it is not spelt so, where there is no such module or function, and where the module fails.
    """
    names = own_names(name)
    if names is None:
        raise ConfigError(f"{setting}: {name!r} names no function", expected="module:function, such as my_rewards:short")
    module = importlib.import_module(names[0]) if names[0] in BUILT_IN else _module(name, names[0], setting)
    function = getattr(module, names[1], None)
    if not callable(function):
        there = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == names[0] and callable(value)]
        raise ConfigError(
            f"{names[0]} ({getattr(module, '__file__', 'built in')}) has no function {names[1]}",
            expected=f"one of its functions: {', '.join(there) or 'none yet'}",
            todo="check the spelling after the colon",
        )
    found: Callable[..., Any] = function
    return found


def own_source(name: str) -> str:
    """Where the function comes from, in words, without running anything: a file here, or SAWYER itself."""
    names = own_names(name)
    if names is not None and names[0] in BUILT_IN:
        return OURS
    return str(own_file(name) or "not there")


def _module(name: str, module: str, setting: str) -> Any:
    """Import it with the working directory first on the path; where its files are as they were, it is not executed again."""
    file, here = own_file(name), os.getcwd()
    if file is None:
        raise ConfigError(
            f"there is no module {module} in {here} to take {name} from",
            expected=f"a file {module.replace('.', '/')}.py there",
            why="a config may come from others, and must not run whatever is installed",
            todo="check the spelling before the colon, or start the command in the folder that holds the file; to use an "
            "installed package's function, import it in a file of yours and name it there",
        )
    sys.path.insert(0, here)
    try:
        importlib.invalidate_caches()
        _check_name(module, file, setting)
        content, known = _content(own_files(name)), sys.modules.get(module)
        if known is not None and _imported_from.get(module) == content:
            return known
        if module in _imported_from:  # changed since, perhaps in what it imports: that first, it may take functions from there
            for helper in reversed(own_files(name)[1:]):
                _reload(helper)
        found = importlib.import_module(module) if known is None else importlib.reload(known)
        _imported_from[module] = content
        return found
    except ConfigError:
        raise
    except Exception as error:  # a user's module may raise anything
        raise _unreadable(name, file, error) from error
    finally:
        sys.path.remove(here)


def _check_name(module: str, file: Path, setting: str) -> None:
    """Nothing else may be called so: what is built in, installed or imported before would be run in place of the file."""
    known, top = sys.modules.get(module), Path(module.split(".")[0])
    if known is not None:
        taken, ours = getattr(known, "__file__", None), [file]
    else:
        spec = importlib.util.find_spec(top.name)  # of the first name alone, which runs nothing
        taken = None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), None)
        ours = [top, top.with_suffix(".py"), top / "__init__.py"]
    if taken is None or Path(taken).resolve() not in [path.resolve() for path in ours]:
        raise ConfigError(
            f"{file}: another module is called {module} ({taken or 'built in'})",
            expected="a name of its own",
            todo=f"rename the file, e.g. my_{module.split('.')[-1]}.py, and name it so in {setting}",
        )


def _reload(file: Path) -> None:
    """Read a module here once more, if it was imported."""
    parts = file.parent.parts if file.name == "__init__.py" else file.with_suffix("").parts
    known = sys.modules.get(".".join(parts))
    if known is not None and Path(getattr(known, "__file__", None) or "").resolve() == file.resolve():
        importlib.reload(known)


def _content(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"\0{file.resolve()}\0".encode("utf-8", "backslashreplace") + file.read_bytes())
    return digest.hexdigest()


def _unreadable(name: str, file: Path | None, error: Exception) -> ConfigError:
    line = error.lineno if isinstance(error, SyntaxError) else _line_in(file, error)
    where = f"{file}:{line}" if file is not None and line else str(file or name)
    return ConfigError(
        f"{where}: {type(error).__name__}: {error}",
        why=f"it must be imported for {name}",
        todo="mend the module",
    )


def _line_in(file: Path | None, error: Exception) -> int:
    """The line of the user's file at which it went wrong; 0 where none of the traceback is in it."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if file is not None and Path(trace.tb_frame.f_code.co_filename).resolve() == file.resolve():
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
