"""Collect: the SFT model's own answers, to be judged - the answers a reward model will meet in RL.

In the built-in world its rater scores them here. Elsewhere, and with `world.rater: people`, `collect/answers.jsonl` waits with
`score: null` for people, whose judgements join the reward model's data. A later round asks the RL model as well.
"""

from sawyer.stages.collect.collect_stage import collect
from sawyer.stages.collect.judge_votes import judge_collected
from sawyer.stages.collect.later_round import collect_round
