"""Supervised fine-tuning: imitate the demonstrations (method: InstructGPT's first step, arXiv 2203.02155).

Loss: sum over the responses' tokens and their EOS of -log pi(y_t | x, y_<t), divided once by the number of those tokens
in the whole optimizer batch. Prompt tokens are read, not trained.
"""

from sawyer.stages.sft.sft_stage import train
