"""Base: a tokenizer and a small GPT-2-architecture model trained from plain text, for a run that names no model.

Loss: sum over tokens of -log pi(x_t | x_<t), divided once by the tokens of the whole optimizer batch.
"""

from sawyer.stages.base.base_stage import train
