"""Text and tokens: templates, encoding, batches."""

from sawyer.text.batch import Batch, batches, micro_batches, pad_left, pad_right, whole_numbers
from sawyer.text.encode import Codec, ConversationCodec, Row, all_ends, id_count
from sawyer.text.limit import limited
from sawyer.text.pair import PairCodec, Reader, conversation
from sawyer.text.plain import plain_row, windows
from sawyer.text.rendering import unrenderable
from sawyer.text.template import TEMPLATES, dated, render, set_template, special_ids, template_text, turn_end

__all__ = [
    "TEMPLATES",
    "Batch",
    "Codec",
    "ConversationCodec",
    "PairCodec",
    "Reader",
    "Row",
    "all_ends",
    "batches",
    "conversation",
    "dated",
    "id_count",
    "limited",
    "micro_batches",
    "pad_left",
    "pad_right",
    "plain_row",
    "render",
    "set_template",
    "special_ids",
    "template_text",
    "turn_end",
    "unrenderable",
    "whole_numbers",
    "windows",
]
