"""People's judgements: items to judge, votes that are never lost, who agrees with whom, and rows for training."""

from sawyer.ratings.assignment import RatingSettings
from sawyer.ratings.choices import check_choice, choice_json, fits_method, parse_choice
from sawyer.ratings.items import item_id, item_of, items_from
from sawyer.ratings.rating_types import (
    METHODS,
    Assignment,
    Choice,
    Item,
    Judgement,
    Method,
    Pick,
    RatedItem,
    Rater,
    RaterKind,
    StoredVote,
    Vote,
)
from sawyer.ratings.store import Progress, RatingStore
