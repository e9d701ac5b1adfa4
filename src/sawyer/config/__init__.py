"""What was asked: the typed tree, and reading it."""

from sawyer.config.data_sources import COLLECTED, DataSource, judged_sources, pairs_of, sources_of
from sawyer.config.former_names import RENAMED_VALUES
from sawyer.config.load_config import (
    STARTS,
    WORLD_BASE,
    checked,
    demo,
    fields,
    load,
    template_file,
    with_settings,
)
from sawyer.config.schema import (
    KNOWN_TO,
    LOSSES,
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
from sawyer.config.sections import COMPARED, Base, Classify, Compare, Lora, World
from sawyer.config.stage_start import Start, left_out, start_of
from sawyer.config.user_code import OURS, own_file, own_files, own_function, own_names, own_source
