"""A model that somebody named: a path or a hub id, and what the hub's cache has of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from sawyer.errors import ModelError
from sawyer.runs import base_of, commit_of, is_adapter, is_local, settings_of

COMMIT = "607a30d783dfa663caf39e06633721c8d4cfcd7e"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine" / "sft").mkdir(parents=True)
    (tmp_path / "gpt2").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("source", "local"),
    [
        ("gpt2", True),  # a folder here
        ("gpt3", False),
        ("openai/gpt2", False),
        ("Qwen/Qwen2.5-0.5B", False),
        ("runs/mine", True),
        ("runs/mien", True),  # misspelt: nobody on the hub is called as a folder here
        ("run/mine", False),
        ("run/mine/", True),
        ("run/mine/sft", True),
        ("./gpt3", True),
        ("../gpt3", True),
        ("~/gpt3", True),
        ("/gpt3", True),
        ("owner/model.safetensors", True),
        ("model.gguf", True),
        ("a" * 300, False),  # longer than a file's name can be: to look for it is an OSError
        ("owner/" + "a" * 300, False),
    ],
)
def test_a_path_is_told_from_a_hub_id(here: Path, source: str, local: bool) -> None:
    assert is_local(source) is local
    assert is_local(Path(source))  # a Path is never a hub id


def cached(cache: Path, name: str, commit: str = COMMIT, **settings: object) -> Path:
    """What the hub's library leaves of a model."""
    folder = cache / repo_folder_name(repo_id=name, repo_type="model")
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    (snapshot / "config.json").write_text(json.dumps(settings))
    return folder


def test_the_commit_and_the_settings_of_what_the_cache_has(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert commit_of("owner/name") is None and settings_of("owner/name") == {}
    cached(tmp_path / "hub", "owner/name", n_layer=5)
    cached(tmp_path / "hub", "plain", "a" * 40, n_layer=6)
    assert commit_of("owner/name") == COMMIT and settings_of("owner/name") == {"n_layer": 5}
    assert commit_of("plain") == "a" * 40 and settings_of("plain") == {"n_layer": 6}
    (here / "gpt2" / "config.json").write_text('{"n_layer": 7}')
    assert settings_of("gpt2") == {"n_layer": 7}, "a folder goes before a hub id"
    (here / "gpt2" / "config.json").write_text("{broken")
    assert settings_of("gpt2") == {}


def test_the_cache_is_where_the_hub_s_library_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads its variables once, so that it is asked in a process of its own."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert constants.default_home == str(Path("~/.cache").expanduser())
    cases = [
        {"HF_HOME": str(tmp_path / "a")},
        {"XDG_CACHE_HOME": str(tmp_path / "b")},
        {"HF_HUB_CACHE": str(tmp_path / "c"), "HF_HOME": str(tmp_path / "a")},
        {"HUGGINGFACE_HUB_CACHE": str(tmp_path / "d")},
    ]
    program = "import os, json, sys, importlib\nimport huggingface_hub.constants as c\nfound = []\n"
    program += "for case in json.loads(sys.argv[1]):\n"
    program += (
        "    for name in ('HF_HOME', 'HF_HUB_CACHE', 'HUGGINGFACE_HUB_CACHE', 'XDG_CACHE_HOME'): os.environ.pop(name, 0)\n"
    )
    program += "    os.environ.update(case)\n    found.append(importlib.reload(c).HF_HUB_CACHE)\nprint(json.dumps(found))\n"
    told = subprocess.run([sys.executable, "-c", program, json.dumps(cases)], capture_output=True, text=True, check=True)
    for case, folder in zip(cases, json.loads(told.stdout), strict=True):
        with monkeypatch.context() as patch:
            for name, value in case.items():
                patch.setenv(name, value)
            cached(Path(folder), "owner/name")
            assert commit_of("owner/name") == COMMIT, case


def test_a_folder_of_adapters_belongs_to_a_model(here: Path) -> None:
    """What it says of itself goes before what the model says; a model that moved with it in its run is found."""
    for folder in ("run/base/model", "run/sft/model", "run/rl/foreign"):
        (here / folder).mkdir(parents=True)
    base, sft, foreign = (here / "run" / name for name in ("base/model", "sft/model", "rl/foreign"))
    (base / "config.json").write_text('{"n_layer": 7, "architectures": ["GPT2LMHeadModel"]}')
    (sft / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{base}"}}')
    (sft / "sawyer.json").write_text('{"architectures": ["Ours"], "sawyer": {"base_beside": "../../base/model"}}')
    (foreign / "adapter_config.json").write_text('{"base_model_name_or_path": "gpt2", "task_type": "SEQ_CLS"}')
    assert is_adapter(sft) and not is_adapter(base) and not is_adapter("gpt2")
    assert base_of(sft) == str(base) and base_of(foreign) == "gpt2"
    assert settings_of(sft)["n_layer"] == 7 and settings_of(sft)["architectures"] == ["Ours"]
    assert settings_of(foreign) == {}, "how many scores its head gives is not told"
    (here / "run").rename(here / "moved")
    assert Path(base_of(here / "moved/sft/model")) == (here / "moved/base/model").resolve()
    (here / "moved/base/model").rename(here / "elsewhere")
    with pytest.raises(ModelError, match="which is not there"):
        base_of(here / "moved/sft/model")
    assert settings_of(here / "moved/sft/model")["architectures"] == ["Ours"]
