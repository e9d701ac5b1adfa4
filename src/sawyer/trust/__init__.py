"""How far can a reward model be trusted, and why: the figures, each with its interval, and the verdict in words.

`trust` takes any scorer and judged answers; a run's reward stage and `sawyer trust` go through this one door.
"""

from sawyer.trust.examine import trust
from sawyer.trust.figures import (
    Bin,
    Calibration,
    Ceiling,
    Correlation,
    Example,
    Figure,
    Gap,
    Probe,
    Reason,
    Side,
    Source,
    Trust,
    Verdict,
    as_json,
)
from sawyer.trust.probes import DAMAGES
from sawyer.trust.verdict import DAMAGED_WINS, told

__all__ = [
    "DAMAGED_WINS",
    "DAMAGES",
    "Bin",
    "Calibration",
    "Ceiling",
    "Correlation",
    "Example",
    "Figure",
    "Gap",
    "Probe",
    "Reason",
    "Side",
    "Source",
    "Trust",
    "Verdict",
    "as_json",
    "told",
    "trust",
]
