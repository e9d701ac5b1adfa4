"""`sawyer check-loss`: the checks as a table, an example to follow by hand, a picture."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sawyer.config import LOSSES

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("losses_of_a_user", None)
    (tmp_path / "losses_of_a_user.py").write_text(
        "import torch\n"
        "def fit(r_j, r_k, d):\n"
        '    """At most one: 1 - sigmoid, in $ and _ and all."""\n'
        "    return 1 - torch.sigmoid(r_j - r_k)\n"
        "def rises(r_j, r_k, d):\n"
        "    return torch.sigmoid(r_j - r_k)\n"
        "def breaks(r_j, r_k, d):\n"
        "    return -torch.sigmoid(r_j - r_k).log()\n"
    )
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_each_of_ours(sawyer: Callable[..., Any], here: Path, name: str) -> None:
    done = sawyer("check-loss", name)
    assert done.code == 0 and done.err == ""
    assert done.out.count("✓ ok") == 4 and "fail" not in done.out
    invariant = next(line for line in done.out.splitlines() if "shift invariant" in line)
    assert invariant.split()[0] == ("no" if name == "regression" else "yes")
    assert (here / f"loss-{name}.png").read_bytes().startswith(PNG)


def test_the_worked_example(sawyer: Callable[..., Any]) -> None:
    assert "scores 6 and 2, r_j - r_k = 0.53: loss 0.0002" in sawyer("check-loss", "squared").out
    said = sawyer("check-loss", "regression").out
    assert (
        "score 6 (standardised +1) with reward 0.53: loss 0.2209; score 2 (standardised -1) with reward 0: loss 1.0000" in said
    )
    a, b, c = (math.exp(x) for x in (0.53, 0.2, 0.0))
    assert f"this ranking has probability {a / (a + b + c) * b / (b + c):.4f}" in sawyer("check-loss", "listwise").out


def test_a_user_s_own_is_shown_with_what_it_says_of_itself(sawyer: Callable[..., Any], here: Path) -> None:
    done = sawyer("check-loss", "losses_of_a_user:fit", "--out", "mine.png")
    assert done.code == 0, done.err
    assert "At most one: 1 - sigmoid, in $ and _ and all." in done.out and "mine.png" in done.out
    assert (here / "mine.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rises", "it must not rise with the preferred answer's reward: 0.00123 here, 0.00125 at r_j = -7.98"),
        ("breaks", "the loss is inf in float64, at r_j = -500, r_k = 500, d = 0.25"),
    ],
)
def test_one_that_is_refused(sawyer: Callable[..., Any], here: Path, name: str, words: str) -> None:
    done = sawyer("check-loss", f"losses_of_a_user:{name}")
    assert done.code == 1 and "✕ fail" in done.out and "Training would refuse it" in done.out
    assert words.split(":")[0] in done.out and "at r_j = " in done.out
    assert not list(here.glob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sqared",), "there is no loss 'sqared'; did you mean `squared`?"),
        (("losses_of_a_user:fat",), "has no function fat"),
        (("nowhere_at_all:f",), "there is no module nowhere_at_all"),
        (("squared", "--out", "picture.svg"), "a file that ends in .png"),
        (("squared", "--out", "nowhere/loss.png"), "there is no folder nowhere"),
    ],
)
def test_a_mistake_is_explained(sawyer: Callable[..., Any], arguments: tuple[str, ...], words: str) -> None:
    done = sawyer("check-loss", *arguments)
    assert done.code == 1 and done.out == "" and words in done.err and "Traceback" not in done.err


def test_the_picture_holds_every_curve(here: Path) -> None:
    """The curves are in it: another loss gives another picture, the same loss the same one."""
    from sawyer.maths import REWARD_LOSSES, loss_curves
    from sawyer.report.loss_plot import draw_loss

    pictures = []
    for place, name in enumerate(("squared", "bradley_terry", "bradley_terry")):
        draw_loss(here / f"{place}.png", "title", "formula", loss_curves(REWARD_LOSSES[name]))
        pictures.append((here / f"{place}.png").read_bytes())
    assert pictures[0] != pictures[1] == pictures[2]
