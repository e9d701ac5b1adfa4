"""What must be quick is quick because it imports little."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "matplotlib", "pyarrow", "numpy", "jinja2", "rich.markdown")
PROBE = """
import json, sys
sys.argv = ["sawyer", *json.loads(sys.argv[1])]
from sawyer.cli.main import main
try:
    main()
except SystemExit as end:
    code = end.code or 0
else:
    code = 0
print(json.dumps([code, [name for name in json.loads({heavy!r}) if name in sys.modules]]))
"""


def start(*arguments: str) -> tuple[int, list[str], str]:
    """(exit code, heavy modules that were imported, what was printed) of the command in a process of its own."""
    script = PROBE.format(heavy=json.dumps(HEAVY))
    done = subprocess.run([sys.executable, "-c", script, json.dumps(arguments)], capture_output=True, text=True, check=True)
    *printed, last = done.stdout.strip().split("\n")
    code, heavy = json.loads(last)
    return code, heavy, "\n".join(printed)


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("run", "--help"), ("runs", "."), ("run", "nowhere.yaml")])
def test_light_commands_import_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert start(*arguments)[1] == []


def test_check_imports_nothing_heavy(tmp_path: Path) -> None:
    data = tmp_path / "a.json"
    data.write_text('[{"instruction": "What is up?", "input": "", "output": "The sky."}]')
    code, heavy, printed = start("check", str(data))
    assert (code, heavy) == (0, []) and "Training would take the file" in printed


def test_import_sawyer_is_light_and_its_door_opens() -> None:
    script = (
        "import sys, sawyer; assert not {'torch', 'transformers', 'pydantic'} & set(sys.modules); "
        "assert sawyer.__all__ == sorted(sawyer.__all__) and set(sawyer.__all__) <= set(dir(sawyer)); "
        "assert issubclass(sawyer.DataError, sawyer.SawyerError); sawyer.load_config; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_name_of_the_package_s_door_opens() -> None:
    import sawyer

    assert all(getattr(sawyer, name) is not None for name in sawyer.__all__)
