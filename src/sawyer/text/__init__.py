"""Text and tokens: templates, encoding, batches."""

from sawyer.text.batch import Batch, batches, micro_batches, pad_left, pad_right
from sawyer.text.encode import Codec, Row
from sawyer.text.template import TEMPLATES, render, set_template, template_text

__all__ = [
    "TEMPLATES",
    "Batch",
    "Codec",
    "Row",
    "batches",
    "micro_batches",
    "pad_left",
    "pad_right",
    "render",
    "set_template",
    "template_text",
]
