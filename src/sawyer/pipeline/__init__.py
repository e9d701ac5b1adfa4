"""The stages in their order: `way` does them, `order` knows them, `same` and `early` refuse what must not be done."""

from sawyer.pipeline.early import foreign_code
from sawyer.pipeline.order import STAGES, product
from sawyer.pipeline.preflight import StagePlan, preflight
from sawyer.pipeline.same import fingerprint
from sawyer.pipeline.way import demo, run

__all__ = ["STAGES", "StagePlan", "demo", "fingerprint", "foreign_code", "preflight", "product", "run"]
