"""The settings of a run: their typed tree, and reading it from YAML."""

from sawyer.config.data_sources import COLLECT_SETTING, DataSource, judged_sources, learns_from_collected, pairs_of, sources_of
from sawyer.config.former_names import FORMER_VALUES
from sawyer.config.judge_section import CollectJudge, parse_judge_section
from sawyer.config.load_config import WORLD_BASE, demo_config, load_config, parse_config, template_file, with_settings
from sawyer.config.rater_weights import rater_weights, rater_weights_in_words
from sawyer.config.schema import (
    LOSSES,
    USED_BY,
    Algorithm,
    Collect,
    Config,
    EnsembleSettings,
    Guard,
    GuardName,
    Kl,
    Reward,
    RewardPart,
    Rl,
    Sft,
    required_section,
)
from sawyer.config.sections import RUN_MODELS, Lora
from sawyer.config.stage_start import Start, left_out, start_of
from sawyer.config.user_code import BUILT_IN_SOURCE, load_user_function, parse_function_name, user_files, user_function_source
