"""`reward.raters`: names without regard to case, weights from 0 on, and nobody who judged nothing."""

from __future__ import annotations

from typing import Any

import pytest

from sawyer.config import Reward, parse_config, rater_weights, rater_weights_in_words
from sawyer.errors import ConfigError


def reward_with(raters: Any) -> Reward:
    config = parse_config({"model": "m", "reward": {"data": ["a.json"], "raters": raters}})
    assert config.reward is not None
    return config.reward


def test_names_are_matched_without_regard_to_case() -> None:
    raters = reward_with({" Anna ": 0.5, "bob": 0, 7: 2}).raters
    assert raters == {"Anna": 0.5, "bob": 0.0, "7": 2.0}
    assert rater_weights(raters, ["ANNA", "Bob", "7", "carol"]) == {"ANNA": 0.5, "Bob": 0.0, "7": 2.0}
    assert rater_weights_in_words(raters) == "Anna counts 0.5, bob is left out, 7 counts 2"
    assert reward_with({}).raters == {} and rater_weights({}, ["anna"]) == {}


@pytest.mark.parametrize(
    ("raters", "words"),
    [
        ({"anna": -1}, "reward.raters.anna is -1"),
        ({"anna": float("inf")}, "reward.raters.anna is inf"),
        ({"anna": float("nan")}, "reward.raters.anna is nan"),
        ({"anna": True}, "reward.raters.anna is True"),
        ({"anna": "much"}, "reward.raters.anna is 'much'"),
        ({"anna": 1, "ANNA": 0}, "ANNA stands there twice"),
        ({False: 0}, "False is no name"),
        ({" ": 0}, "' ' is no name"),
        (["anna"], "expected: names with weights"),
    ],
)
def test_what_is_no_weight_is_refused(raters: Any, words: str) -> None:
    with pytest.raises(ConfigError, match="(?s)" + words.replace("(", r"\(")):
        reward_with(raters)


def test_a_rater_who_judged_nothing_is_refused_with_those_who_did() -> None:
    with pytest.raises(ConfigError) as refused:
        rater_weights({"ana": 0}, ["Anna", "Bob"])
    assert "ana, who has judged nothing here; did you mean `Anna`?" in refused.value.given
    assert refused.value.expected == "raters of this run: Anna, Bob"
    with pytest.raises(ConfigError, match="x, y, who have judged nothing") as none:
        rater_weights({"x": 0, "y": 1}, [])
    assert none.value.expected == "raters of this run: none so far"
