"""How fast each stage is here, where its time goes, and how far that is from what the machine can do."""

from sawyer.bench.ceiling import Ceiling, ceiling
from sawyer.bench.launch import measured, measured_apart
from sawyer.bench.measure import Measured, measure
from sawyer.bench.sitting import HEADER, bench, chosen, line, table
from sawyer.bench.variant import GROWTH, MEASURED, Part, Variant, part_of

__all__ = [
    "GROWTH",
    "HEADER",
    "MEASURED",
    "Ceiling",
    "Measured",
    "Part",
    "Variant",
    "bench",
    "ceiling",
    "chosen",
    "line",
    "measure",
    "measured",
    "measured_apart",
    "part_of",
    "table",
]
