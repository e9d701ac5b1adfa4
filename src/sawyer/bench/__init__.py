"""How fast each stage is here, where its time goes, and how far that is from what the machine can do."""

from sawyer.bench.ceiling import product_rate
from sawyer.bench.launch import measured, measured_apart
from sawyer.bench.measure import Measured, measure
from sawyer.bench.sitting import HEADER, bench, chosen, line, table
from sawyer.bench.variant import GROWTH, MEASURED, Part, Variant, part_of
