"""Answers to show: which prompts, how they stand beside each other, how a reward becomes a bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_PROMPTS = 36  # cards on the page; the file holds all
EXTREMES = 6  # of these, where RL helped most and where it hurt most
MOST_LETTERS = 1200  # of an answer
MODELS = ("base", "sft", "rl")
ORDER = ("t07", "greedy", "t1", "deliberate", "best_of_8", "sample")


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryCell:
    """One model's answer. `left` and `width` place its reward's bar, in per cent of the bar's room."""

    text: str
    cut: int  # letters that are not shown
    reward: float | None
    gold: float | None
    length: int | None  # tokens
    kl: float | None  # nats, of RL's plain samples
    ended: bool
    left: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One prompt with the answers of every model: `rows` is (setting, one cell or None a model)."""

    prompt: str
    why: str  # "" | helped | hurt
    rows: Sequence[tuple[str, Sequence[GalleryCell | None]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """The cards and what their columns and filters are."""

    models: Sequence[str]
    settings: Sequence[str]
    first: str  # the setting shown at first
    cards: Sequence[Card]
    prompts: int  # in the file
    scale: float  # the reward at the end of a bar
    judge: str  # gold | reward | "": by which the extremes were chosen


def gallery(rows: Sequence[Mapping[str, Any]]) -> Gallery:
    """Choose and lay out. Where there are many prompts: those RL helped and hurt most, and others evenly spread."""
    found: dict[Any, dict[tuple[str, str], Mapping[str, Any]]] = {}
    for row in rows:
        key = row.get("number", row.get("prompt", ""))
        found.setdefault(key, {})[str(row.get("setting", "sample")), str(row.get("model", ""))] = row
    models = [m for m in (*MODELS, *_others(rows)) if any(row.get("model") == m for row in rows)]
    settings = sorted({s for answers in found.values() for s, _ in answers}, key=_place)
    first = settings[0] if settings else ""
    judge = next((name for name in ("gold", "reward") if any(name in row for row in rows)), "")
    helped, hurt = _extremes(found, judge)
    chosen = _chosen(list(found), [*helped, *hurt], found)
    scale = _scale([row for key in chosen for row in found[key].values()])
    order = [*[k for k in helped if k in chosen], *[k for k in hurt if k in chosen]]
    order += [key for key in chosen if key not in order]
    cards = []
    for key in order:
        answers = found[key]
        prompt = str(next(iter(answers.values())).get("prompt", ""))
        lines = [(s, [_cell(answers.get((s, m)), scale) for m in models]) for s in settings]
        cards.append(
            Card(
                prompt=prompt,
                why="helped" if key in helped else "hurt" if key in hurt else "",
                rows=[(s, cells) for s, cells in lines if any(cells)],
            )
        )
    return Gallery(models=models, settings=settings, first=first, cards=cards, prompts=len(found), scale=scale, judge=judge)


def bar(reward: float | None, scale: float) -> tuple[float, float]:
    """(left, width) in per cent: from the middle to the right for a positive reward, to the left for a negative one."""
    if reward is None:
        return 50.0, 0.0
    half = 50.0 * min(1.0, abs(reward) / scale)
    return (50.0, half) if reward >= 0 else (50.0 - half, half)


def shown(text: str, most: int = MOST_LETTERS) -> tuple[str, int]:
    """The text as it may stand in a page, and how many letters were left out: control characters become visible."""
    clean = "".join(
        c if c in "\n\t" or (ord(c) >= 32 and not 127 <= ord(c) < 160) else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    clean = clean.encode("utf-8", "replace").decode("utf-8")
    return (clean, 0) if len(clean) <= most else (clean[:most], len(clean) - most)


def _cell(row: Mapping[str, Any] | None, scale: float) -> GalleryCell | None:
    if row is None:
        return None
    text, cut = shown(str(row.get("response", "")))
    left, width = bar(row.get("reward"), scale)
    return GalleryCell(
        text=text,
        cut=cut,
        reward=row.get("reward"),
        gold=row.get("gold"),
        length=row.get("length"),
        kl=row.get("kl"),
        ended=bool(row.get("ended", True)),
        left=left,
        width=width,
    )


def _extremes(found: Mapping[Any, Mapping[tuple[str, str], Mapping[str, Any]]], judge: str) -> tuple[list[Any], list[Any]]:
    """The prompts by how much RL's answer is better than SFT's, in the first setting that both have; gold before reward."""
    if not judge or len(found) <= MOST_PROMPTS:
        return [], []
    gains: dict[Any, float] = {}
    for key, answers in found.items():
        for setting in ORDER:
            ours, theirs = answers.get((setting, "rl"), {}).get(judge), answers.get((setting, "sft"), {}).get(judge)
            if ours is not None and theirs is not None:
                gains[key] = ours - theirs
                break
    ranked = sorted(gains, key=lambda key: -gains[key])
    helped = [key for key in ranked[:EXTREMES] if gains[key] > 0]
    hurt = [key for key in reversed(ranked[-EXTREMES:]) if gains[key] < 0]
    return helped, hurt


def _chosen(keys: Sequence[Any], extremes: Sequence[Any], found: Mapping[Any, Mapping[Any, Any]]) -> list[Any]:
    """All prompts where they are few; else the extremes and an even spread, half of it over those with most settings."""
    if len(keys) <= MOST_PROMPTS:
        return list(keys)
    most = max(len(answers) for answers in found.values())
    rich = _spread(
        [key for key in keys if len(found[key]) == most and key not in extremes], (MOST_PROMPTS - len(extremes)) // 2
    )
    taken = {*extremes, *rich}
    rest = _spread([key for key in keys if key not in taken], MOST_PROMPTS - len(taken))
    taken |= set(rest)
    return [key for key in keys if key in taken]


def _spread(keys: Sequence[Any], count: int) -> list[Any]:
    if count <= 0 or len(keys) <= count:
        return list(keys)[: max(0, count)]
    return [keys[i * len(keys) // count] for i in range(count)]


def _scale(rows: Sequence[Mapping[str, Any]]) -> float:
    """The largest reward in sight, outliers aside: the 98th percentile of sizes, at least 1."""
    sizes = sorted(abs(row["reward"]) for row in rows if isinstance(row.get("reward"), int | float))
    return max(1.0, sizes[min(len(sizes) - 1, int(0.98 * len(sizes)))]) if sizes else 1.0


def _place(setting: str) -> tuple[int, str]:
    return (ORDER.index(setting) if setting in ORDER else len(ORDER), setting)


def _others(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [m for m in dict.fromkeys(str(row.get("model", "")) for row in rows) if m not in MODELS]
