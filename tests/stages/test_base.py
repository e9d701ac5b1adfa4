"""The base model from text: what it is checked on."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

Fixture = Any
stage = import_module("sawyer.stages.base.base_stage")


def test_held_out_windows_come_from_all_of_the_text(tiny: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text whose first pages are numbers and whose rest is words is checked on both, and trained on neither of those."""
    text = tmp_path / "text.txt"
    pages = [" ".join(str(n) for n in range(30 * i, 30 * i + 30)) for i in range(40)]
    words = "the river runs from the old town to the new harbour and back again under a bridge".split()
    pages += [" ".join(words[(i * j) % len(words)] for j in range(30)) for i in range(120)]
    text.write_text("\n\n".join(pages))
    seen: dict[str, Any] = {}
    made = stage.windows
    monkeypatch.setattr(stage, "windows", lambda *given: seen.setdefault("all", made(*given)))
    plain = stage.mean_loss

    def mean_loss(model: Any, rows: Any, **more: Any) -> float:
        seen["held_out"] = list(rows)
        return float(plain(model, rows, **more))

    monkeypatch.setattr(stage, "mean_loss", mean_loss)
    init = stage.BaseLoop.__init__

    def noted(self: Any, config: Any, place: Any, model: Any, windows: Any) -> None:
        seen["trained"] = list(windows)
        init(self, config, place, model, windows)

    monkeypatch.setattr(stage.BaseLoop, "__init__", noted)
    asked = {"text": [str(text)], "vocab_size": 330, "layers": 1, "width": 16, "heads": 2, "context": 32, "tokens": 600}
    with tiny.run(tmp_path / "run") as run:
        stage.train(tiny.config(tmp_path / "run", model=None, base=asked, sft={"data": ["d"]}), run)
    assert len(seen["all"]) > 200
    places = [seen["all"].index(window) for window in seen["held_out"]]
    assert places == list(range(0, len(seen["all"]), 50))
    assert seen["trained"] == [window for place, window in enumerate(seen["all"]) if place not in places]
