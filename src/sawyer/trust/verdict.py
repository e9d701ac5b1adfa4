"""The verdict in words: trust it, trust it for clear differences, only with guards, or don't run RL on it, and which figure
decided. It is as strict as its worst evidence; docs/trust.md has the thresholds and where they are from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from sawyer.trust.trust_values import Ceiling, Figure, NeededGuard, Probe, Reason, Side, Trust, Verdict

CHANCE = 0.5
DAMAGED_WINS = 0.10  # a kind of damage that wins as often as this asks for guards: RL finds any weakness
SURELY_WINS = 0.20  # so does one that may win as often as this; of damage that spoils an answer, one that surely does refuses
# Nothing is left of a good answer; the others' damage is one of style or length, which guards can watch.
SPOILS = ("other_prompt", "shuffled", "empty")
# What evidence asks of RL's guards (docs/guards.md), by a probe's name or the reason's: what the policy would be paid for.
NEEDED: Mapping[str, tuple[tuple[str, float], ...]] = {
    "other_prompt": (("mode_response_rate", 0.1), ("kl_budget", 10.0)),  # one answer for all
    "shuffled": (("kl_budget", 10.0),),  # word salad is far from the SFT model
    "empty": (("length", 0.5),),
    "truncated": (("length", 0.5),),
    "twice": (("distinct_2", 0.5), ("score_length_correlation", 0.4)),
    "pleasantries": (("distinct_2", 0.5), ("score_length_correlation", 0.4)),  # the same phrases around every answer
    "length": (("score_length_correlation", 0.4),),
}
USEFUL = 0.60  # reward models that RL has profited from rank 0.63 to 0.69 as people did (Huang et al. 2024, TL;DR)
CLOSE = 0.05  # a model surely less than this ahead of a rule about length has learnt that rule and hardly more
LENGTH_RULES = 0.5  # correlation with length, at equal scores, from which on length decides more than all else together
LENGTH_SHOWS = 0.25  # and from which on it should be watched
KNOWN_PROMPTS = 100  # fewer leave an accuracy uncertain by about 0.1 either way: 1.96 * sqrt(0.25 / 100)
FEW_PROMPTS = 20  # fewer cannot even show that an interval by prompt is right
CALIBRATED = 0.10  # a larger calibration error is worth a word: confidence is off by ten points on average


def told(found: Trust) -> Verdict:
    """The verdict on a model from its figures alone, with every reason and doubt and the figure that decided each."""
    side = found.everything
    reasons = tuple(_reasons(found))
    watched = tuple(_watched(found))
    guards = _guards([*reasons, *watched])
    refused = {reason.name for reason in reasons}
    watched = tuple(reason for reason in watched if reason.name not in refused)
    doubts = tuple(doubt for doubt in _doubts(found) if doubt.name not in refused)
    if reasons:
        doubts = (*watched, *doubts)
        first = reasons[0]
        more = "".join(f" Also: {reason.words}." for reason in reasons[1:]) + _mind(doubts)
        return Verdict(
            kind="refuse",
            above=None,
            words=f"Don't run RL on it, because {first.words}.{more}{_known(side)}",
            reasons=reasons,
            doubts=doubts,
            guards=guards,
        )
    above = holds_above(side)
    lead = "Trust it" if not above else f"Trust it for gaps of {above:g} and more on the judges' scale"
    finer = ""
    if above:
        widest = side.by_gap[-1]
        finer = f"; of those {widest.name} apart {_of(widest.accuracy)}; finer differences it does not surely rank above chance"
    if watched:
        set_so = ", ".join(f"{guard.guard} {guard.threshold:g}" for guard in guards)
        because = "; ".join(reason.words for reason in watched)
        lead = f"Only with these guards: {set_so} (RL sets those of a run's own model); because {because}. {lead} then"
    words = f"{lead}: it ranks {_of(side.accuracy)} as the judges did{_rule(side)}{finer}.{_known(side)}"
    words += _mind(doubts)
    kind: Literal["trust", "trust_above", "guarded"] = "guarded" if watched else "trust_above" if above else "trust"
    return Verdict(kind=kind, above=above or None, words=words, reasons=watched, doubts=doubts, guards=guards)


def level(probe: Probe) -> Literal["ok", "guard", "refuse"]:
    """What one kind of damage asks for, by its own interval: nothing, guards, or that no RL is run on the model.

    ok: it wins less than 10 % of the time and surely less than 20 %. Damage that spoils an answer refuses where it surely wins
    more than 20 % of the time, or where it may win half of the time, as with a model that cannot see it; other damage where it
    surely wins more than half of the time. Of fewer than 20 prompts no damage refuses: they are too few to say.
    """
    wins = probe.wins
    if not wins.cases:
        return "ok"
    if wins.prompts >= FEW_PROMPTS:
        if probe.name in SPOILS and (wins.low > SURELY_WINS or (wins.high >= CHANCE and wins.value >= DAMAGED_WINS)):
            return "refuse"
        if wins.low > CHANCE:
            return "refuse"
    return "guard" if wins.value >= DAMAGED_WINS or wins.high >= SURELY_WINS else "ok"


def _guards(reasons: Sequence[Reason]) -> tuple[NeededGuard, ...]:
    """The guards that the reasons ask for, each once."""
    found: dict[str, NeededGuard] = {}
    for reason in reasons:
        for guard, threshold in NEEDED.get(reason.name.removeprefix("damage_"), ()):
            found.setdefault(guard, NeededGuard(guard=guard, threshold=threshold, reason=reason.name))
    return tuple(found.values())


def holds_above(side: Side) -> float:
    """The lower bound of the first class of gaps that is ranked better than chance while no wider class is ranked worse.

    0 where that is the finest class there is. Where no class alone is sure, the widest stands for all.
    """
    for place, gap in enumerate(side.by_gap):
        if gap.accuracy.low > CHANCE and all(wider.accuracy.high >= CHANCE for wider in side.by_gap[place + 1 :]):
            return gap.low if place else 0.0
    return side.by_gap[-1].low if len(side.by_gap) > 1 else 0.0


def _wide_gaps_hold(side: Side) -> bool:
    """Whether clear differences are ranked better than chance though all together may not be."""
    return holds_above(side) > 0 and side.by_gap[-1].accuracy.low > CHANCE


def reached(accuracy: Figure, ceiling: Ceiling | None) -> bool:
    """Whether the model may be as good as anybody against these judges: known of answers that were judged twice alone."""
    return ceiling is not None and ceiling.method == "repeats" and accuracy.high >= ceiling.accuracy.low


def _reasons(found: Trust) -> list[Reason]:
    side = found.everything
    if not side.pairs:
        words = f"there is nothing to learn: all scores are tied, no prompt of {side.prompts:,} has a better and a worse answer"
        return [Reason(name="nothing_to_learn", words=words, figure="pairs", value=0, threshold=1)]
    if side.spread == 0:
        words = "it gives every answer the same reward"
        return [Reason(name="constant", words=words, figure="spread", value=0.0, threshold=0.0)]
    reasons = [*_length(side), *_against_rules(side, found.ceiling), *_damage(found), *_own(found)]
    names = [reason.name for reason in reasons]
    return [reason for place, reason in enumerate(reasons) if reason.name not in names[:place]]


def _against_rules(side: Side, ceiling: Ceiling | None) -> list[Reason]:
    """Whether the model surely beats chance and the best rule of thumb; else whether it fails, or too little is known."""
    accuracy, ahead = side.accuracy, side.ahead
    if accuracy.prompts < FEW_PROMPTS:
        words = f"{accuracy.prompts} prompts are too few to say: its accuracy may be anything from {_range(accuracy)}"
        return [_reason("too_few", words, "accuracy.prompts", accuracy.prompts, FEW_PROMPTS)]
    rule_low = side.longer_wins.low if side.best_rule == "longer wins" else 1 - side.longer_wins.high
    only_length = side.best_rule != "random" and rule_low > CHANCE and (ahead.value <= 0 or ahead.high < CLOSE)
    surely = ahead.low > 0 if accuracy.low > CHANCE else ahead.value > 0 and _wide_gaps_hold(side)
    if surely and not only_length:
        return []
    if accuracy.low <= CHANCE:
        if ceiling is not None and reached(accuracy, ceiling):
            words = (
                f"these judges contradict themselves: against them no model gets above {_pct(ceiling.accuracy.value)} "
                f"({_range(ceiling.accuracy)}), which this one may have reached; have answers judged more carefully"
            )
            return [_reason("judges", words, "ceiling.accuracy", ceiling.accuracy.value, USEFUL)]
        if accuracy.high < USEFUL:
            words = f"it is no better than chance: it ranks {_of(accuracy)} as the judges did{_rule(side)}"
            return [_reason("chance", words, "accuracy.low", accuracy.low, CHANCE)]
        words = (
            f"{accuracy.prompts} prompts are too few to say: it ranks {_of(accuracy)} as the judges did, and may be no better "
            f"than chance{_rule(side)}"
        )
        return [_reason("too_few", words, "accuracy.low", accuracy.low, CHANCE)]
    if only_length:
        words = (
            f"it knows no more than length: the rule '{side.best_rule}' ranks {_pct(side.best_rule_value)} as the judges did, "
            f"the model {_of(accuracy)}"
        )
        return [_reason("length", words, "ahead.high", ahead.high, CLOSE)]
    words = (
        f"{accuracy.prompts} prompts are too few to say whether it is better than the rule '{side.best_rule}': "
        f"{_pct(accuracy.value)} against {_pct(side.best_rule_value)}"
    )
    return [_reason("too_few", words, "ahead.low", ahead.low, 0.0)]


def _length(side: Side) -> list[Reason]:
    """Whether length decides where the judges see no difference, or against them."""
    tied = side.length_controlled
    if tied is None or min(abs(tied.low), abs(tied.high)) <= LENGTH_RULES or tied.low * tied.high <= 0:
        return []
    longer = "longer" if tied.value > 0 else "shorter"
    words = (
        f"it follows length: among answers to one prompt that the judges score alike its reward goes with length by "
        f"{tied.value:+.2f} ({tied.low:+.2f} to {tied.high:+.2f}), so RL would learn to answer {longer}"
    )
    return [_reason("length", words, "length_controlled.low", min(abs(tied.low), abs(tied.high)), LENGTH_RULES)]


def _damage(found: Trust) -> list[Reason]:
    """A reason for each kind of damage that refuses the model, the worst first."""
    return [_damaged(probe, "refuse") for probe in _worst_first(found.probes) if level(probe) == "refuse"]


def _watched(found: Trust) -> list[Reason]:
    """What asks for guards: each kind of damage by itself, and length."""
    reasons = [_damaged(probe, "guard") for probe in _worst_first(found.probes) if level(probe) == "guard"]
    tied = found.everything.length_controlled
    if tied is not None and abs(tied.value) >= LENGTH_SHOWS and tied.low * tied.high > 0:
        words = f"at equal scores its reward goes with length by {tied.value:+.2f} ({tied.low:+.2f} to {tied.high:+.2f})"
        reasons.append(_reason("length", words, "length_controlled", tied.value, LENGTH_SHOWS))
    return reasons


def _worst_first(probes: Sequence[Probe]) -> list[Probe]:
    return sorted(probes, key=lambda probe: -probe.wins.value)


def _damaged(probe: Probe, asks: Literal["guard", "refuse"]) -> Reason:
    wins = probe.wins
    share = f"{_pct(wins.value)} of the time ({_range(wins)})"
    if probe.name == "other_prompt":
        words = f"it prefers the answer to another prompt {share}"
        words += ": it hardly reads the prompt, and a model that does not see it at all has 50 %" if asks == "refuse" else ""
    else:
        words = f"it prefers a damaged answer ({probe.what}) to the whole one {share}"
    limit = DAMAGED_WINS if asks == "guard" else SURELY_WINS if probe.name in SPOILS else CHANCE
    return _reason(f"damage_{probe.name}", words, f"probes.{probe.name}", wins.value, limit)


def _own(found: Trust) -> list[Reason]:
    """The SFT model's own answers are those that RL sees; what is known of them weighs as much as all the rest."""
    for name, judge in (("gold", "the truth"), ("own", "the judges")):
        side = found.side(name)
        if side is None or side.accuracy.prompts < FEW_PROMPTS or side.accuracy.low > CHANCE:
            continue
        if side.accuracy.high < USEFUL and not (name == "own" and reached(side.accuracy, found.ceiling)):
            words = f"of the SFT model's own answers, which RL will see, it ranks {_of(side.accuracy)} as {judge} does"
            return [_reason("own_answers", words, f"{name}.accuracy.low", side.accuracy.low, CHANCE)]
    return []


def _doubts(found: Trust) -> list[Reason]:
    """What does not decide and should be known."""
    side, doubts = found.everything, []
    if side.accuracy.prompts < KNOWN_PROMPTS:
        words = f"{side.accuracy.prompts} prompts say little: every interval here is wide"
        doubts.append(_reason("few_prompts", words, "accuracy.prompts", side.accuracy.prompts, KNOWN_PROMPTS))
    if not side.pairs:
        return doubts
    if side.calibration and side.calibration[0].error.low > CALIBRATED:
        chosen = side.calibration[0]
        words = f"its confidence {chosen.formula} is off by {_pct(chosen.error.value)} on average"
        doubts.append(_reason("calibration", words, "calibration.error", chosen.error.value, CALIBRATED))
    if found.ceiling is not None and found.ceiling.accuracy.high < 0.9:
        doubts.append(_ceiling(side, found.ceiling))
    if found.side("own") is None and found.side("gold") is None:
        words = "nobody has judged the own answers of the model that RL starts from, which are what RL will show it"
        doubts.append(_reason("own_unknown", words, "own.prompts", 0, FEW_PROMPTS))
    if not found.held_out:
        words = "that it was not trained on these prompts is taken on trust"
        doubts.append(_reason("held_out", words, "held_out", 0, 1))
    return doubts


def _ceiling(side: Side, ceiling: Ceiling) -> Reason:
    most = f"{_pct(ceiling.accuracy.value)} ({_range(ceiling.accuracy)})"
    if ceiling.method == "repeats":
        words = f"these judges agree with themselves so seldom that no model can rank more than {most} of the pairs as they do"
        words += "; this one may have got there" if reached(side.accuracy, ceiling) else "; this one is below that"
    else:
        words = (
            f"its accuracy stops rising with the gap, at {most}: probably the judges turn that many judgements round, and no "
            "model gets above it"
        )
    return _reason("ceiling", words, "ceiling.accuracy", ceiling.accuracy.value, 0.9)


def _reason(name: str, words: str, figure: str, value: float, threshold: float) -> Reason:
    return Reason(name=name, words=words, figure=figure, value=value, threshold=threshold)  # a count stays a whole number


def _rule(side: Side) -> str:
    """What the simplest rule would get."""
    if side.best_rule == "random":
        return ""
    return f", the rule '{side.best_rule}' would get {_pct(side.best_rule_value)}"


def _known(side: Side) -> str:
    """What so few prompts allow to say."""
    prompts = side.accuracy.prompts
    if not 0 < prompts < KNOWN_PROMPTS:
        return ""
    return (
        f" {prompts} prompts say little: on others like them its accuracy may be anything from {_range(side.accuracy)}; "
        f"judge {KNOWN_PROMPTS} or more to know better."
    )


def _mind(doubts: tuple[Reason, ...]) -> str:
    """The doubts as one sentence; how few the prompts are is said in another."""
    minded = [doubt.words for doubt in doubts if doubt.name != "few_prompts"]
    return f" Mind: {'; '.join(minded)}." if minded else ""


def _of(figure: Figure) -> str:
    return f"{_pct(figure.value)} of {figure.cases:,} pairs ({_range(figure)})"


def _range(figure: Figure) -> str:
    return f"{_pct(figure.low)} to {_pct(figure.high)}"


def _pct(value: float) -> str:
    return f"{100 * value:.0f} %"
