"""A user's own function, named in a config as `module:function`.

A config is code: its functions are imported and run. So a module is only taken from the working directory, where its user can
see it, and never from installed packages: somebody else's config could name `pty:spawn`.
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
BUILT_IN_SOURCE = "part of SAWYER"  # what `user_function_source` returns for them
FUNCTION_NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
# Module -> hash of the files that it was imported from. A module whose files are unchanged is not executed again.
_imported_hashes: dict[str, str] = {}


def parse_function_name(name: str) -> tuple[str, str] | None:
    """(module, function) of `my_module:my_loss`; None for a name in another form."""
    match = FUNCTION_NAME.fullmatch(name)
    return (match[1], match[2]) if match else None


def user_file(name: str) -> Path | None:
    """The file of the function's module in the working directory; None if there is none."""
    names = parse_function_name(name)
    if names is None:
        return None
    path = Path(*names[0].split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if os.path.isfile(file)), None)


def user_files(name: str) -> list[Path]:
    """The function's file and all that it imports from the working directory, however deep: they decide what it returns.

    They are parsed, not run. Files that they read or import in other ways are not among them.
    """
    names = parse_function_name(name)
    files: list[Path] = []
    queue = list(_files_of(tuple(names[0].split(".")))) if names is not None else []
    while queue:
        file = queue.pop()
        if file not in files:
            files.append(file)
            queue += [path for module in _imports_of(file) for path in _files_of(module)]
    return files


def _imports_of(file: Path) -> Iterator[tuple[str, ...]]:
    """The dotted names that a file's imports may mean, from the working directory; none for a file that is not Python."""
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


def load_user_function(name: str, setting: str) -> Callable[..., Any]:
    """The function `module:function`, from the module's file as it is now. `setting` is where it was named.

    Raises ConfigError for a name in another form, a missing module or function, and a module that fails to import.
    """
    names = parse_function_name(name)
    if names is None:
        raise ConfigError(f"{setting}: {name!r} names no function", expected="module:function, such as my_rewards:short")
    module = importlib.import_module(names[0]) if names[0] in BUILT_IN else _import_module(name, names[0], setting)
    function: Callable[..., Any] | None = getattr(module, names[1], None)
    if not callable(function):
        others = [
            key for key, value in vars(module).items() if getattr(value, "__module__", "") == names[0] and callable(value)
        ]
        raise ConfigError(
            f"{names[0]} ({getattr(module, '__file__', 'built in')}) has no function {names[1]}",
            expected=f"one of its functions: {', '.join(others) or 'none yet'}",
            todo="check the spelling after the colon",
        )
    return function


def user_function_source(name: str) -> str:
    """Where the function comes from, in words and without running it: a file here, or SAWYER itself."""
    names = parse_function_name(name)
    if names is not None and names[0] in BUILT_IN:
        return BUILT_IN_SOURCE
    return str(user_file(name) or "not there")


def _import_module(name: str, module: str, setting: str) -> Any:
    """Import it with the working directory first on the path. A module whose files are unchanged is not executed again."""
    file, folder = user_file(name), os.getcwd()
    if file is None:
        raise ConfigError(
            f"there is no module {module} in {folder} to take {name} from",
            expected=f"a file {module.replace('.', '/')}.py there",
            why="a config may come from others, and must not run whatever is installed",
            todo="check the spelling before the colon, or start the command in the folder that holds the file; to use an "
            "installed package's function, import it in a file of yours and name it there",
        )
    sys.path.insert(0, folder)
    try:
        importlib.invalidate_caches()
        _check_module_is_file(module, file, setting)
        files_hash, current = _hash_of(user_files(name)), sys.modules.get(module)
        if current is not None and _imported_hashes.get(module) == files_hash:
            return current
        # The module may take functions from modules that it imports: those are reloaded before it.
        if module in _imported_hashes:
            for helper in reversed(user_files(name)[1:]):
                _reload(helper)
        result = importlib.import_module(module) if current is None else importlib.reload(current)
        _imported_hashes[module] = files_hash
        return result
    except ConfigError:
        raise
    except Exception as error:  # a user's module may raise anything
        line = error.lineno if isinstance(error, SyntaxError) else _line_in(file, error)
        raise ConfigError(
            f"{file}:{line}: {type(error).__name__}: {error}" if line else f"{file}: {type(error).__name__}: {error}",
            why=f"it must be imported for {name}",
            todo="mend the module",
        ) from error
    finally:
        sys.path.remove(folder)


def _check_module_is_file(module: str, file: Path, setting: str) -> None:
    """Raise ConfigError if another module has this name: it would run in place of the file."""
    current, top = sys.modules.get(module), Path(module.split(".")[0])
    if current is not None:
        origin, expected = getattr(current, "__file__", None), [file]
    else:
        spec = importlib.util.find_spec(top.name)  # of the first part alone, which runs nothing
        origin = None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), None)
        expected = [top, top.with_suffix(".py"), top / "__init__.py"]
    if origin is None or Path(origin).resolve() not in [path.resolve() for path in expected]:
        raise ConfigError(
            f"{file}: another module is called {module} ({origin or 'built in'})",
            expected="a name that no other module has",
            todo=f"rename the file, e.g. my_{module.split('.')[-1]}.py, and name it so in {setting}",
        )


def _reload(file: Path) -> None:
    """Execute a module of the working directory again, if it was imported."""
    parts = file.parent.parts if file.name == "__init__.py" else file.with_suffix("").parts
    current = sys.modules.get(".".join(parts))
    if current is not None and Path(getattr(current, "__file__", None) or "").resolve() == file.resolve():
        importlib.reload(current)


def _hash_of(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"\0{file.resolve()}\0".encode("utf-8", "backslashreplace") + file.read_bytes())
    return digest.hexdigest()


def _line_in(file: Path, error: Exception) -> int:
    """The last line of `file` in the error's traceback; 0 if it is not in it."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).resolve() == file.resolve():
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
