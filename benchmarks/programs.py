"""The figures of one of two programs that are measured in turn."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramFigures:
    """One program's figures, a number a round."""

    name: str
    per_second: Sequence[float]
    peak_mb: Sequence[float]

    @property
    def speed(self) -> float:
        """Units a second, the median over the rounds."""
        return statistics.median(self.per_second)

    @property
    def peak(self) -> float:
        """MiB at most, the median over the rounds."""
        return statistics.median(self.peak_mb)

    @property
    def figures(self) -> dict[str, Any]:
        """For a line of JSON, figures to four digits."""
        speed, peak, *rounds = (float(f"{value:.4g}") for value in (self.speed, self.peak, *self.per_second))
        return {"per_second": speed, "peak_mb": peak, "rounds": rounds}
