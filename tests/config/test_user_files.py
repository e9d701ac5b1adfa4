"""Which files decide what a user's function returns: its own and those beside it that it imports."""

from __future__ import annotations

from pathlib import Path

import pytest

from sawyer.config import user_files
from sawyer.pipeline.fingerprint import _own_files

FILES = {
    "mine.py": "import json\nimport beside\nfrom pack import one, number\n\ndef f(p, r):\n    import late\n    return []\n",
    "beside.py": "import beside_that\n",
    "beside_that.py": "import mine\n",  # round and round
    "late.py": "",
    "pack/__init__.py": "number = 1\n",
    "pack/one.py": "from . import two\nfrom .deep.three import x\n",
    "pack/two.py": "",
    "pack/deep/__init__.py": "",
    "pack/deep/three.py": "x = 1\n",
    "pack/deep/never.py": "",
    "never.py": "",
    "json.py": "",  # hides the library's, and so it counts
    "broken.py": "def f(:\n",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_all_that_it_imports_from_here() -> None:
    found = {str(path) for path in user_files("mine:f")}
    assert found == {name for name in FILES if name.split("/")[-1] not in ("never.py", "broken.py")}
    assert user_files("mine:f")[0] == Path("mine.py")


def test_a_module_in_a_package_runs_the_package_too() -> None:
    found = {str(path) for path in user_files("pack.deep.three:x")}
    assert found == {"pack/__init__.py", "pack/deep/__init__.py", "pack/deep/three.py"}


def test_what_is_not_here_or_no_python() -> None:
    assert user_files("json.decoder:f") == [Path("json.py")]
    assert user_files("statistics:mean") == [] and user_files("squared") == []
    assert user_files("broken:f") == [Path("broken.py")], "importing it will tell what is wrong"


def test_a_stage_s_functions_name_each_file_once() -> None:
    section = {"rewards": [{"function": "late:f"}, {"function": "late:g"}, {"function": None}]}
    assert _own_files(section) == [Path("late.py")]
