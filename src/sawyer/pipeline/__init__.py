"""The stages in their order: `way` does them, `order` knows them, `same` and `early` refuse what must not be done."""

from sawyer.pipeline.fingerprint import fingerprint
from sawyer.pipeline.foreign_code import foreign_code
from sawyer.pipeline.preflight import StagePlan, preflight
from sawyer.pipeline.run_stages import demo, run
from sawyer.pipeline.stage_graph import STAGES, product
