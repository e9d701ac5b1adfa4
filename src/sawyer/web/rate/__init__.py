"""`sawyer rate`: people judge answers in the browser."""

from sawyer.web.rate.api import owner_link, rater_link
from sawyer.web.rate.owner_figures import export_file
from sawyer.web.rate.rating_page import rating_page
from sawyer.web.rate.simulate import SimulatedPeople, SimulationSettings, check_world
