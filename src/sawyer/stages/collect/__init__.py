"""Collect: the SFT model's own answers, to be judged - the answers a reward model will meet in RL.

In the built-in world its rater scores them here. Elsewhere `collect/answers.jsonl` waits with `score: null` for people;
filled in, it joins the reward model's data.
"""

from sawyer.stages.collect.collect_stage import collect
