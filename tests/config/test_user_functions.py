"""A user's function: taken from the folder one works in and from nowhere else, and executed as often as its files change."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sawyer.config import load_user_function
from sawyer.config.user_code import user_function_source
from sawyer.errors import ConfigError
from sawyer.worlds import golds

COUNTED = "import {helper}\nfrom pathlib import Path\n\nwith Path('runs.txt').open('a') as file:\n    file.write('x')\n"
FUNCTION = "\n\ndef f(prompts, responses):\n    return [{helper}.WORTH] * len(responses)\n"
SPOILT = "from pathlib import Path\nPath({mark!r}).write_text('it ran')\n\ndef f(prompts, responses):\n    return []\n"
MODULES = ("own_counted", "own_helper", "own_installed", "own_shim", "own_spread", "own_spread.inside", "own_shadowed")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a module where installed packages lie; returns the file that it writes when it is run."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def put(name: str) -> Path:
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(SPOILT.format(mark=str(tmp_path / "ran")))
        return tmp_path / "ran"

    return put


def test_a_module_is_executed_when_its_files_change_and_not_at_every_look_up() -> None:
    Path("own_helper.py").write_text("WORTH = 1.0\n")
    Path("own_counted.py").write_text(COUNTED.format(helper="own_helper") + FUNCTION.format(helper="own_helper"))
    for _ in range(3):
        assert load_user_function("own_counted:f", "rl.rewards")([], ["a", "b"]) == [1.0, 1.0]
    assert Path("runs.txt").read_text() == "x"
    Path("own_helper.py").write_text("WORTH = 22.0\n")  # what it imports decides as well
    assert load_user_function("own_counted:f", "rl.rewards")([], ["a"]) == [22.0]
    with Path("own_counted.py").open("a") as file:
        file.write("\n\ndef g(prompts, responses):\n    return [3.0]\n")
    assert load_user_function("own_counted:g", "rl.rewards")([], ["a"]) == [3.0]
    assert load_user_function("own_counted:f", "rl.rewards")([], ["a"]) == [22.0]
    assert Path("runs.txt").read_text() == "xxx"


@pytest.mark.parametrize("name", ["pty:spawn", "os:system", "builtins:exec", "torch:load", "sawyer.runs:remove_folder"])
def test_nothing_is_taken_from_what_is_installed(name: str) -> None:
    before = set(sys.modules)
    with pytest.raises(ConfigError, match=r"there is no module \S+ in .*work to take") as refused:
        load_user_function(name, "rl.rewards")
    assert set(sys.modules) == before and user_function_source(name) == "not there"
    assert "import it in a file of yours" in refused.value.todo


def test_the_advice_works(install: Callable[[str], Path]) -> None:
    ran = install("own_installed.py")
    with pytest.raises(ConfigError, match="there is no module own_installed"):
        load_user_function("own_installed:f", "rl.rewards")
    assert not ran.exists()
    Path("own_shim.py").write_text("from own_installed import f\n")
    assert load_user_function("own_shim:f", "rl.rewards")([], []) == [] and user_function_source("own_shim:f") == "own_shim.py"


def test_a_file_does_not_lend_its_name_to_another(install: Callable[[str], Path]) -> None:
    # A folder here without __init__.py, and an installed package of that name: Python would run the installed one.
    ran = install("own_spread/__init__.py")
    Path("own_spread").mkdir()
    Path("own_spread/inside.py").write_text("def f(prompts, responses):\n    return []\n")
    with pytest.raises(ConfigError, match="another module is called own_spread"):
        load_user_function("own_spread.inside:f", "rl.rewards")
    assert not ran.exists() and "own_spread" not in sys.modules
    Path("time.py").write_text("def f(prompts, responses):\n    return []\n")  # built in: comes before every file
    with pytest.raises(ConfigError, match="another module is called time"):
        load_user_function("time:f", "rl.rewards")


def test_the_world_s_own_function_may_be_named() -> None:
    assert load_user_function("sawyer.worlds:golds", "rl.rewards") is golds
    assert user_function_source("sawyer.worlds:golds") == "part of SAWYER"
