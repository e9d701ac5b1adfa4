"""Report: one HTML file from a run's folder, whatever of the run is there, for a person to read.

Everything is inside the file: plots as SVG, style as text. It needs no network and no script, follows the reader's light
or dark setting, and prints.
"""

from sawyer.report.overoptimisation_page import build_overoptimisation
from sawyer.report.page import build
from sawyer.report.trust_section import build_trust
