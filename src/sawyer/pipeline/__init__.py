"""The stages in their order: `run_stages` does them, `stage_graph` knows their parents, the others check before they run."""

from sawyer.pipeline.fingerprint import fingerprint
from sawyer.pipeline.preflight import StagePlan, foreign_code, preflight
from sawyer.pipeline.run_folder_config import run_config
from sawyer.pipeline.run_stages import demo, run
from sawyer.pipeline.stage_graph import STAGES, product
