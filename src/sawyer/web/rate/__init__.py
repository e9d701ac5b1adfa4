"""`sawyer rate`: people judge answers in the browser. Simulated people are in `simulate`, which only --simulate loads."""

from sawyer.web.rate.api import owner_link, rater_link
from sawyer.web.rate.owner_figures import export_file
from sawyer.web.rate.rating_page import rating_page
