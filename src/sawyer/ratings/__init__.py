"""People's judgements: items to judge, votes that are never lost, who agrees with whom, and rows for training."""

from sawyer.ratings.agreement import AgreementFigure, kendall_tau_b, krippendorff_alpha, percent_agreement
from sawyer.ratings.agreement_report import AgreementReport, agreement_report, report_json
from sawyer.ratings.assignment import RatingSettings
from sawyer.ratings.choices import check_choice, choice_json, fits_method, parse_choice
from sawyer.ratings.conflicts import Conflict, ConflictVote, conflicts
from sawyer.ratings.items import item_id, item_of, items_from
from sawyer.ratings.rater_profiles import RaterProfile
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
from sawyer.ratings.translation import RatingsSummary, choice_in_item_order, judgement_of, pseudonyms, training_rows
