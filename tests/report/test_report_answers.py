"""Which answers are shown, and how a reward becomes a bar."""

from __future__ import annotations

from typing import Any

import pytest

from sawyer.report.answer_gallery import EXTREMES, MAX_PROMPTS, bar, gallery, printable


def rows(prompts: int, gain: dict[int, float] | None = None) -> list[dict[str, Any]]:
    return [
        {"number": n, "prompt": f"p{n}", "model": m, "setting": "t07", "response": "r", "reward": 0.1, "gold": g, "ended": True}
        for n in range(prompts)
        for m, g in (("sft", 5.0), ("rl", 5.0 + (gain or {}).get(n, 0.0)))
    ]


@pytest.mark.parametrize(
    ("reward", "place"), [(1.0, (50, 25)), (-1.0, (25, 25)), (0.0, (50, 0)), (9.0, (50, 50)), (-9.0, (0, 50)), (None, (50, 0))]
)
def test_bars_grow_from_the_middle(reward: float | None, place: tuple[float, float]) -> None:
    assert bar(reward, 2.0) == place


def test_few_prompts_are_all_shown_in_their_order() -> None:
    found = gallery(rows(5, {3: 4.0}))
    assert [card.prompt for card in found.cards] == ["p0", "p1", "p2", "p3", "p4"]
    assert found.models == ["sft", "rl"] and found.first == "t07"


def test_of_many_the_extremes_come_first_and_no_prompt_twice() -> None:
    found = gallery(rows(400, {17: 4.0, 200: 3.0, 333: -5.0}))
    prompts = [card.prompt for card in found.cards]
    assert prompts[:3] == ["p17", "p200", "p333"]
    assert [card.why for card in found.cards[:4]] == ["helped", "helped", "hurt", ""]
    assert len(prompts) == len(set(prompts)) <= MAX_PROMPTS and found.prompts == 400
    assert 2 * EXTREMES < MAX_PROMPTS


def test_no_rows_no_cards() -> None:
    assert gallery([]).cards == []


def test_rows_without_reward_or_gold_are_shown() -> None:
    found = gallery([{"prompt": "p", "model": "sft", "setting": "greedy", "response": "r"}])
    cell = found.cards[0].rows[0][1][0]
    assert cell is not None and cell.reward is None and cell.width == 0.0


def test_length_and_kl_stand_beside_the_reward() -> None:
    told = {"prompt": "p", "model": "rl", "setting": "t1", "response": "r", "length": 14, "kl": 2.5}
    cell = gallery([told]).cards[0].rows[0][1][0]
    assert cell is not None and (cell.length, cell.kl) == (14, 2.5)


def test_control_characters_are_made_visible_and_long_texts_cut() -> None:
    assert printable("a\x00\x1b[31mb\n\tc\ud800\x85") == ("a��[31mb\n\tc?�", 0)
    assert printable("x" * 30, limit=10) == ("x" * 10, 20)
