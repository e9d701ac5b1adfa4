"""What holds for every test."""

from __future__ import annotations

import os

# A second thread gains nothing on tensors this small, and waiting for it costs a quarter of the processor's time. Read when
# torch loads, here and in the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
