"""How fast each stage is here, where its time goes, and how far that is from what the machine can do."""

from sawyer.bench.ceiling import Ceiling, ceiling
from sawyer.bench.measure import GROWTH, MEASURED, Measured, Variant, measure
from sawyer.bench.sitting import HEADER, bench, line, table

__all__ = [
    "GROWTH",
    "HEADER",
    "MEASURED",
    "Ceiling",
    "Measured",
    "Variant",
    "bench",
    "ceiling",
    "line",
    "measure",
    "table",
]
