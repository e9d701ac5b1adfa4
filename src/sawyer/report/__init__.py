"""One HTML file from whatever a run's folder has.

Plots and style are inside the file: it needs no network and no script, follows the reader's light or dark setting, and prints.
"""

from sawyer.report.overoptimisation_page import build_overoptimisation
from sawyer.report.page import build
from sawyer.report.trust_section import build_trust
