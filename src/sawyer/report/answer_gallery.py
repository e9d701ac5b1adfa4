"""The answers on the page: which prompts are shown, and how their answers and rewards are laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_PROMPTS = 36  # cards on the page; compare.jsonl has all prompts
EXTREMES = 6  # of these, the prompts on which RL helped most, and as many on which it hurt most
MAX_CHARACTERS = 1200  # of an answer
MODELS = ("base", "sft", "rl")
SETTINGS = ("t07", "greedy", "t1", "deliberate", "best_of_8", "sample")  # in the page's order

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryCell:
    """One model's answer. `left` and `width` place its reward's bar, in per cent of the bar's width."""

    text: str
    cut: int  # characters that are not shown
    reward: float | None
    gold: float | None
    length: int | None  # tokens
    kl: float | None  # nats, of RL's plain samples
    ended: bool
    left: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One prompt with every model's answers: `rows` is (setting, a cell or None for each model)."""

    prompt: str
    why: str  # "" | helped | hurt
    rows: Sequence[tuple[str, Sequence[GalleryCell | None]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """The cards, and the models and settings that they have."""

    models: Sequence[str]
    settings: Sequence[str]
    first: str  # the setting shown at first
    cards: Sequence[Card]
    prompts: int  # in the file
    scale: float  # the reward at the end of a bar
    judge: str  # gold | reward | "": what the extremes are chosen by


def gallery(rows: Sequence[Row]) -> Gallery:
    """Choose and lay out prompts. Of many: those that RL helped and hurt most, and an even spread of the others."""
    answers: dict[Any, dict[tuple[str, str], Row]] = {}  # prompt -> (setting, model) -> row
    for row in rows:
        key = row.get("number", row.get("prompt", ""))
        answers.setdefault(key, {})[str(row.get("setting", "sample")), str(row.get("model", ""))] = row
    names = list(dict.fromkeys(str(row.get("model", "")) for row in rows))
    models = [name for name in MODELS if name in names] + [name for name in names if name not in MODELS]
    settings = sorted({setting for cells in answers.values() for setting, _ in cells}, key=_setting_order)
    judge = next((name for name in ("gold", "reward") if any(name in row for row in rows)), "")
    helped, hurt = _extremes(answers, judge)
    chosen = _chosen_prompts(answers, [*helped, *hurt])
    scale = _bar_scale([row for key in chosen for row in answers[key].values()])
    cards = []
    for key in dict.fromkeys([*helped, *hurt, *chosen]):
        lines = [(s, [_cell(answers[key].get((s, m)), scale) for m in models]) for s in settings]
        cards.append(
            Card(
                prompt=str(next(iter(answers[key].values())).get("prompt", "")),
                why="helped" if key in helped else "hurt" if key in hurt else "",
                rows=[(setting, cells) for setting, cells in lines if any(cells)],
            )
        )
    return Gallery(
        models=models,
        settings=settings,
        first=settings[0] if settings else "",
        cards=cards,
        prompts=len(answers),
        scale=scale,
        judge=judge,
    )


def bar(reward: float | None, scale: float) -> tuple[float, float]:
    """(left, width) in per cent: from the middle to the right for a positive reward, to the left for a negative one."""
    if reward is None:
        return 50.0, 0.0
    half = 50.0 * min(1.0, abs(reward) / scale)
    return (50.0, half) if reward >= 0 else (50.0 - half, half)


def printable(text: str, limit: int = MAX_CHARACTERS) -> tuple[str, int]:
    """The text with control characters made visible, and how many characters were cut off."""
    clean = "".join(
        c if c in "\n\t" or (ord(c) >= 32 and not 127 <= ord(c) < 160) else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    clean = clean.encode("utf-8", "replace").decode("utf-8")
    return clean[:limit], max(0, len(clean) - limit)


def excerpt(text: Any, limit: int) -> str:
    """The printable text up to `limit` characters, with a note of how much is missing."""
    words, cut = printable(str(text), limit)
    return f"{words} … and {cut:,} more characters" if cut else words


def _cell(row: Row | None, scale: float) -> GalleryCell | None:
    if row is None:
        return None
    text, cut = printable(str(row.get("response", "")))
    left, width = bar(row.get("reward"), scale)
    figures: dict[str, Any] = {name: row.get(name) for name in ("reward", "gold", "length", "kl")}
    return GalleryCell(text=text, cut=cut, ended=bool(row.get("ended", True)), left=left, width=width, **figures)


def _extremes(answers: Mapping[Any, Mapping[tuple[str, str], Row]], judge: str) -> tuple[list[Any], list[Any]]:
    """The prompts where RL's answer gained and lost most on SFT's, in the first setting that both have."""
    if not judge or len(answers) <= MAX_PROMPTS:
        return [], []
    gains: dict[Any, float] = {}
    for key, cells in answers.items():
        for setting in SETTINGS:
            rl, sft = (cells.get((setting, model), {}).get(judge) for model in ("rl", "sft"))
            if rl is not None and sft is not None:
                gains[key] = rl - sft
                break
    ranking = sorted(gains, key=lambda key: -gains[key])
    helped = [key for key in ranking[:EXTREMES] if gains[key] > 0]
    hurt = [key for key in reversed(ranking[-EXTREMES:]) if gains[key] < 0]
    return helped, hurt


def _chosen_prompts(answers: Mapping[Any, Mapping[Any, Row]], extremes: Sequence[Any]) -> list[Any]:
    """All prompts if they are few; else the extremes and an even spread, half of it over prompts with most settings."""
    keys = list(answers)
    if len(keys) <= MAX_PROMPTS:
        return keys
    most = max(map(len, answers.values()))
    complete = [key for key in keys if len(answers[key]) == most and key not in extremes]
    chosen = {*extremes, *_even_spread(complete, (MAX_PROMPTS - len(extremes)) // 2)}
    chosen |= set(_even_spread([key for key in keys if key not in chosen], MAX_PROMPTS - len(chosen)))
    return [key for key in keys if key in chosen]


def _even_spread(keys: Sequence[Any], count: int) -> list[Any]:
    count = max(0, min(count, len(keys)))
    return [keys[i * len(keys) // count] for i in range(count)]


def _bar_scale(rows: Sequence[Row]) -> float:
    """The reward that fills a bar: the 98th percentile of their sizes, at least 1."""
    sizes = sorted(abs(row["reward"]) for row in rows if isinstance(row.get("reward"), int | float))
    return max(1.0, sizes[min(len(sizes) - 1, int(0.98 * len(sizes)))]) if sizes else 1.0


def _setting_order(setting: str) -> tuple[int, str]:
    return (SETTINGS.index(setting) if setting in SETTINGS else len(SETTINGS), setting)
