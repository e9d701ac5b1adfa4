"""The file that `sawyer init` writes: it loads as it stands, and every line in it that is commented out is right too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sawyer.config import Config, load_config, template_file
from sawyer.config.error_messages import setting_fields

OFF = re.compile(r"^( *)# ( *[a-z_]+:(?: |$))", re.M)  # `# limit: 200` and `#   limit: 200`; prose does not look so


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sawyer.yaml"


def test_it_loads_as_it_stands(path: Path) -> None:
    path.write_text(template_file(), encoding="utf-8")
    config = load_config(path)
    assert config.model == "gpt2" and config.base is None and config.world is None
    assert config.sft and config.reward and config.rl and config.compare and not config.collect


def test_what_is_commented_out_is_right(path: Path) -> None:
    text, count = OFF.subn(r"\1\2", template_file())
    path.write_text(text, encoding="utf-8")
    assert count == template_file().count("# ") - text.count("# ") > 20
    config = load_config(path, ["model=null", "lora=null"])  # adapters and frozen layers are not for one run
    assert config.base and config.collect and config.rl and config.rl.kl.target == 6 and config.sft and config.sft.columns
    assert load_config(path, ["base=null", "lora=null"]).collect == config.collect
    path.write_text(template_file().replace("# lora:", "lora:"), encoding="utf-8")
    lora = load_config(path).lora
    assert lora is not None and (lora.rank, lora.alpha, lora.targets) == (16, 32.0, None)


def test_defaults_that_it_names_are_the_defaults() -> None:
    """A top-level line that is commented out shows what holds without it."""
    shown = re.findall(
        r"^# (device|precision|micro_batch_tokens|save_every_seconds|max_bad_rows): (\S+)", template_file(), re.M
    )
    defaults = {name: default for name, default, _ in setting_fields()}
    assert len(shown) == 5
    for name, value in shown:
        assert str(Config.model_fields[name].default) == str(type(Config.model_fields[name].default)(value)), name
        assert name in defaults


def test_every_section_is_explained(path: Path) -> None:
    text = template_file()
    for name, field in Config.model_fields.items():
        if name != "world":  # for those who test SAWYER itself
            assert re.search(rf"^(# )?{name}:", text, re.M), f"{name}: {field.description}"
    assert max(len(line) for line in text.splitlines()) <= 128
    assert yaml.safe_load(text)
