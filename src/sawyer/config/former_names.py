"""Former names of settings and values, and names from other trainers, for "did you mean"."""

FORMER_SETTINGS = {
    "lam": "gae_lambda",
    "clip": "clip_range",
    "score_clip": "reward_clip",
    "value_clip": "value_clip_range",
    "value_start": "value_init",
    "group": "group_size",
    "minibatches": "num_minibatches",
    "rollbacks": "max_rollbacks",
    "streak": "patience",
    "held_out": "eval_fraction",
    "warmup": "warmup_fraction",
    "thin": "dedup_threshold",
    "by": "normalize_by",
    "center": "centering_coefficient",
    # TRL, transformers, LLaMA-Factory, Axolotl
    "max_prompt_length": "max_prompt_tokens",
    **dict.fromkeys(("max_length", "max_seq_length", "max_seq_len", "cutoff_len", "sequence_len"), "max_tokens"),
}
FORMER_VALUES = {
    "trunk": "all_but_head",
    "plain": "bradley_terry",
    "cautious": "mean_minus_variance",
    "frozen": "ridge",
}
FORMER_GUARDS = {
    "eos_share": "eos_rate",
    "same_answer": "mode_response_rate",
    "length_paid": "score_length_correlation",
    "held_out_score": "eval_score",
    "held_out_gold": "eval_gold",
}
