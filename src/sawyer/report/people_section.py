"""The people who judged, and what came of their judgements round by round: from agreement.json and summary.json to the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sawyer.report.trust_section import CHIPS
from sawyer.report.wording import number, signed
from sawyer.runs import Layout
from sawyer.stats import detectable, percent

Values = Mapping[str, Any]
EVEN = 0.5
SHARES: Mapping[str, str] = {  # figure of the agreement report -> what it is, in the page's order
    "same_verdict": "Two raters say the same",
    "same_order": "Two raters who both prefer one prefer the same",
    "same_order_random": "… on items that were picked by chance",
    "self_consistency": "A rater again, with the order turned round",
}
PROFILE: Mapping[str, str] = {  # figure of a rater -> the table's column
    "left_share": "left",
    "longer_share": "longer",
    "tie_share": "ties",
    "too_fast_share": "too fast",
    "self_consistency": "with self",
    "agreement": "with others",
}
MAX_RATERS = 60  # in the table
MAX_ROUNDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementRow:
    """One figure: its value and interval in words, or why there is none."""

    name: str
    value: str
    interval: str
    cases: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RaterRow:
    """One rater, without a name: `cells` are (value, interval) of `PROFILE`'s figures, or None."""

    name: str
    kind: str
    items: str
    seconds: str
    cells: Sequence[tuple[str, str] | None]
    flags: Sequence[str]
    left_out: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleView:
    """All that the template shows of the people."""

    counts: str
    ceiling: str
    rows: Sequence[AgreementRow]
    columns: Sequence[str]
    raters: Sequence[RaterRow]
    more_raters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRow:
    """One round of training; a cell is (figure, interval), or None where it is not known."""

    name: str
    page: str  # the path of its own page from this one; empty for the last
    judgements: tuple[str, str]
    accuracy: tuple[str, str] | None
    ceiling: tuple[str, str] | None
    verdict: tuple[str, str, str] | None  # the chip's style and words, the verdict in words
    win_rate: tuple[str, str] | None
    means: tuple[str, str] | None  # gold, or else reward, of the model before RL and after


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundsView:
    """All that the template shows of the rounds."""

    rows: Sequence[RoundRow]
    measure: str  # gold, reward or "": what `means` are of
    changes: Sequence[str]  # what the last judgements changed, in sentences


def view_people(agreement: Values) -> PeopleView | None:
    """The content of agreement.json, laid out; None where nobody has voted."""
    summary, report = agreement.get("summary"), agreement.get("report")
    if not isinstance(summary, Mapping) or not isinstance(report, Mapping):
        return None
    profiles = list(report["profiles"])
    rows = [_agreement_row(title, report[name], percent, "pairs of judgements") for name, title in SHARES.items()]
    for key, cases in (("alphas", "judgements that can be compared"), ("taus", "pairs of judgements")):
        rows += [_agreement_row(_capital(str(one["name"])), one, signed, cases) for one in report[key]]
    return PeopleView(
        counts=_count_words(agreement, summary, report),
        ceiling=_capital(str(report["ceiling_words"])),
        rows=rows,
        columns=list(PROFILE.values()),
        raters=[_rater_row(profile) for profile in profiles[:MAX_RATERS]],
        more_raters=max(0, len(profiles) - MAX_RATERS),
    )


def _count_words(agreement: Values, summary: Values, report: Values) -> str:
    num_judged = sum(int(count) for count in agreement.get("judged", {}).values())
    parts = [
        f"{number(summary['judgements'])} judgements of {_raters_text(summary['raters'])} are learned from; "
        f"{number(num_judged)} of {number(agreement.get('items'))} items are judged, "
        f"{number(report['shared_items'])} of them by two or more"
    ]
    counts = (
        ("ties", "ties"),
        ("both_bad", "of them both bad"),
        ("skips", "skipped"),
        ("replaced_votes", "replaced by the owner's own judgement"),
        ("left_out", "left out by reward.raters"),
    )
    parts += [f"{number(summary[key])} {words}" for key, words in counts if summary.get(key)]
    return f"{', '.join(parts)}."


def _raters_text(count: Any) -> str:
    return f"{number(count)} {'rater' if count == 1 else 'raters'}"


def _agreement_row(title: str, figure: Values, say: Callable[[float], str], cases: str) -> AgreementRow:
    if figure.get("value") is None:
        return AgreementRow(name=title, value="–", interval="", cases="", reason=_capital(str(figure.get("reason", ""))))
    interval = f"{say(figure['low'])} to {say(figure['high'])}" if figure.get("low") is not None else ""
    return AgreementRow(
        name=title,
        value=say(figure["value"]),
        interval=interval,
        cases=f"{number(figure['cases'])} {cases}, {number(figure['prompts'])} prompts",
        reason=str(figure.get("reason", "")),
    )


def _rater_row(profile: Values) -> RaterRow:
    cells = []
    for name in PROFILE:
        figure = profile[name]
        is_known = figure.get("value") is not None
        cells.append((percent(figure["value"]), f"{percent(figure['low'])} to {percent(figure['high'])}") if is_known else None)
    seconds = profile.get("median_seconds")
    return RaterRow(
        name=str(profile["name"]),
        kind="" if profile.get("kind") == "person" else str(profile.get("kind", "")),
        items=number(profile["items"]),
        seconds="–" if seconds is None else f"{number(seconds, 2)} s",
        cells=cells,
        flags=[str(flag) for flag in profile.get("flags", ())],
        left_out=bool(profile.get("left_out")),
    )


def view_rounds(rounds: Sequence[Values]) -> RoundsView | None:
    """The rounds of summary.json, laid out; None where there is one alone."""
    if not isinstance(rounds, Sequence) or len(rounds) < 2:
        return None
    measure = next((name for name in ("gold", "reward") if any(name in one for one in rounds)), "")
    return RoundsView(
        rows=[_round_row(one, measure) for one in rounds[-MAX_ROUNDS:]], measure=measure, changes=change_words(rounds[-1])
    )


def _round_row(values: Values, measure: str) -> RoundRow:
    means = values.get(measure, {})
    start = next((model for model in ("sft", "base") if model in means), "")
    say = signed if measure == "reward" else (lambda value: number(value, 3))
    raters = f"of {_raters_text(values['raters'])}" if "raters" in values else ""
    verdict = values.get("verdict")
    chip = CHIPS.get(str(verdict["kind"]), ("warn", str(verdict["kind"]))) if verdict else None
    folder = Layout(Path()).round(int(values["round"]))
    return RoundRow(
        name=str(int(values["round"])),
        # Only the program's own form: a path that somebody else wrote leads nowhere.
        page=Layout(folder).report.as_posix() if values["folder"] == folder.as_posix() else "",
        judgements=(number(values["judgements"]) if "judgements" in values else "–", raters),
        accuracy=_share(values.get("accuracy")),
        ceiling=_share(values.get("ceiling")),
        verdict=(*chip, str(verdict["words"])) if verdict and chip else None,
        win_rate=_share(values.get("win_rate")),
        means=(f"{say(means[start])} → {say(means['rl'])}", "") if start and "rl" in means else None,
    )


def _share(figure: Values | None) -> tuple[str, str] | None:
    if not figure or figure.get("value") is None:
        return None
    interval = f"{percent(figure['low'])} to {percent(figure['high'])}" if figure.get("low") is not None else ""
    return percent(figure["value"]), interval


def change_words(values: Values) -> list[str]:
    """What a round's judgements changed against the round before, in sentences: each with its interval and, where it is within
    noise, with the smallest change that would probably have been seen."""
    sentences = []
    if change := values.get("change"):
        sentences.append(_accuracy_words(change))
    if rate := values.get("win_rate_before"):
        low, high = rate["low"], rate["high"]
        words = f"RL's answers win {percent(rate['value'])} of the prompts against those of round {rate['round']} "
        words += f"({percent(low)} to {percent(high)}, by {rate.get('judge', 'the reward')})"
        if low <= EVEN <= high:
            seen = min(1.0, EVEN + detectable(low, high))
            words += f", which is within noise; {percent(seen)} would probably be seen"
        sentences.append(f"{words}.")
    return sentences


def _accuracy_words(change: Values) -> str:
    words = f"On the same {number(change['prompts'])} held-out prompts the reward model ranks {percent(change['after'])} of "
    words += f"a prompt's pairs rightly, the one before {percent(change['before'])}: {_signed_points(change['value'])} points"
    low, high = change.get("low"), change.get("high")
    if low is None or high is None:  # of a single prompt
        return f"{words}."
    if low == high == 0:
        return f"{words}, and the same on every prompt."
    words += f" ({_signed_points(low)} to {_signed_points(high)})"
    if low <= 0 <= high:
        smallest = change.get("detectable")
        smallest = detectable(low, high) if smallest is None else smallest
        words += f", which is within noise; {100 * smallest:.0f} points would probably be seen"
    return f"{words}."


def _signed_points(value: float) -> str:
    return f"{100 * value:+.0f}".replace("-", "−")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
