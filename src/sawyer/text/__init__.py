"""Text and tokens: templates, encoding, batches."""

from sawyer.text.batch import Batch, batches, micro_batches, pad_left, pad_right, whole_numbers
from sawyer.text.encode import Codec, Row
from sawyer.text.pair import PairCodec, Reader, conversation
from sawyer.text.plain import plain_row, windows
from sawyer.text.template import TEMPLATES, render, set_template, template_text

__all__ = [
    "TEMPLATES",
    "Batch",
    "Codec",
    "PairCodec",
    "Reader",
    "Row",
    "batches",
    "conversation",
    "micro_batches",
    "pad_left",
    "pad_right",
    "plain_row",
    "render",
    "set_template",
    "template_text",
    "whole_numbers",
    "windows",
]
