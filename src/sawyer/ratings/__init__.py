"""People's judgements: items to judge, votes that are never lost, who agrees with whom, and rows for training."""

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
    StoredVote,
    Vote,
)
