"""The configs in README.md load: their keys and values are those of today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sawyer.config import load_config

README = Path(__file__).parent.parent.parent / "README.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_readme_has_configs() -> None:
    assert len(BLOCKS) >= 8


@pytest.mark.parametrize("text", BLOCKS)
def test_a_config_of_the_readme_loads(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A fragment need not name the run's folder and model.
    for key, line in (("out", "out: runs/mine\n"), ("model", "model: gpt2\n")):
        if not re.search(rf"(?m)^{key}:", text):
            text = line + text
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rewards.py").write_text("def right(prompts, responses): ...\nshort = right\n", encoding="utf-8")
    (tmp_path / "sawyer.yaml").write_text(text, encoding="utf-8")
    load_config("sawyer.yaml")
