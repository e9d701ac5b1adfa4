"""The configuration of a run: one typed tree. Unknown names are refused when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from sawyer.config.judge_section import CollectJudge
from sawyer.config.rater_weights import parse_rater_weights
from sawyer.config.sections import (
    DATA_COLUMNS,
    PEAK_RATE,
    WARMUP,
    Base,
    Classify,
    Compare,
    Freeze,
    HomePath,
    Lora,
    Section,
    World,
)
from sawyer.config.user_code import parse_function_name
from sawyer.errors import ConfigError

Algorithm = Literal["ppo", "rloo", "grpo", "dpo", "best_of_n"]
LOSSES = ("squared", "bradley_terry", "margin", "scaled", "listwise", "regression")


# YAML reads a bare `off` as false.
Action = Annotated[
    Literal["warn", "stop", "rollback", "off"], BeforeValidator(lambda value: "off" if value is False else value)
]
GuardName = Literal[
    "non_finite",
    "kl_budget",
    "length",
    "length_limit",
    "eos_rate",
    "distinct_2",
    "mode_response_rate",
    "score_length_correlation",
    "disagreement",
    "eval_score",
    "eval_gold",
    "zero_variance_groups",
]


class Sft(Section):
    """Supervised fine-tuning."""

    data: list[HomePath] = Field(min_length=1, description="files or patterns of instructions with answers")
    columns: dict[str, str] = Field(default_factory=dict, description=DATA_COLUMNS)
    epochs: float = Field(1.0, gt=0, description="passes over the training rows")
    batch_size: int = Field(32, ge=1, description="rows per optimizer step")
    learning_rate: float = Field(2e-5, gt=0, description=PEAK_RATE)
    warmup_fraction: float = Field(0.03, ge=0, lt=1, description=WARMUP)
    eval_fraction: float = Field(0.1, ge=0, lt=1, description="fraction of the prompts held out for evaluation")
    eval_prompts: int = Field(64, ge=1, description="held-out prompts answered after training")
    max_new_tokens: int = Field(128, ge=1, description="the most tokens of an answer in the evaluation")
    freeze: int = Field(0, ge=0, description="number of frozen first layers; from 1 on the embeddings are frozen too")
    max_tokens: int | None = Field(
        None, ge=8, description="the most tokens of a row, prompt included; answers are cut; default: the model's context"
    )


class Collect(Section):
    """Answers of the SFT model, to be scored."""

    prompts: list[HomePath] = Field(min_length=1, description="files or patterns of prompts")
    columns: dict[str, str] = Field(default_factory=dict, description=DATA_COLUMNS)
    limit: int | None = Field(None, ge=1, description="the most prompts to use")
    answers: int = Field(4, ge=2, description="answers per prompt")
    temperature: float = Field(1.0, gt=0, description="sampling temperature")
    max_new_tokens: int = Field(128, ge=1, description="the most tokens of an answer")
    judge: CollectJudge | None = Field(None, description="a model that judges the answers, beside people or in their place")


class EnsembleSettings(Section):
    """Several reward models whose scores are combined."""

    members: int = Field(3, ge=2, description="number of models or heads")
    by: Literal["seeds", "heads"] = Field("seeds", description="separate models, or heads of one trunk")
    reward: Literal["mean", "min", "mean_minus_variance"] = Field(
        "mean", description="of the standardised scores; mean_minus_variance: the mean less penalty times their variance"
    )
    penalty: float = Field(1.0, ge=0, description="mean_minus_variance: weight of the variance")


class Reward(Section):
    """The reward model."""

    data: list[HomePath] = Field(default_factory=list, description="files or patterns of scored answers or pairs")
    model: HomePath | None = Field(
        None, description="decoder or encoder to start from: hub id or folder; default: the SFT model"
    )
    freeze: Freeze = Field(0, description="number of frozen first layers, from 1 on with the embeddings, or all_but_head")
    ensemble: EnsembleSettings | None = Field(None, description="several reward models whose scores are combined")
    columns: dict[str, str] = Field(default_factory=dict, description=DATA_COLUMNS)
    raters: Annotated[dict[str, float], BeforeValidator(parse_rater_weights)] = Field(
        default_factory=dict, description="weight of each rater's judgements: {anna: 0.5, bob: 0}; 0: left out; default: 1"
    )
    loss: str = Field("squared", description=f"{' | '.join(LOSSES)}, or your own function as module:function")
    normalize_by: Literal["pair", "prompt"] = Field(
        "pair", description="equal weight for each pair (regression: each answer), or for each prompt (listwise: always)"
    )
    centering_coefficient: float = Field(0.0, ge=0, description="weight of (r_j + r_k)^2, which keeps rewards near zero")
    epochs: float = Field(1.0, gt=0, description="passes over the prompts; reward models overfit in the second")
    batch_size: int = Field(16, ge=1, description="prompts per optimizer step, each with all its answers")
    learning_rate: float = Field(1e-5, gt=0, description=PEAK_RATE)
    warmup_fraction: float = Field(0.03, ge=0, lt=1, description=WARMUP)
    eval_fraction: float = Field(0.1, ge=0, lt=1, description="fraction of the prompts held out for evaluation")
    dedup_threshold: float | None = Field(
        None, gt=0, lt=1, description="cosine similarity to an earlier training prompt from which a prompt is left out"
    )
    max_tokens: int | None = Field(
        None, ge=8, description="the most tokens of prompt and answer; answers are cut; default: the model's context"
    )
    calibration_prompts: int = Field(128, ge=2, description="prompts whose SFT answers set the reward's mean and scale")

    @field_validator("loss")
    @classmethod
    def _is_a_loss(cls, name: str) -> str:
        if name not in LOSSES and parse_function_name(name) is None:
            raise ValueError(f"`reward.loss` is {name!r}; expected: {' or '.join(LOSSES)}, or your own as module:function")
        return name


class Kl(Section):
    """The KL penalty to the model that RL starts from."""

    coefficient: float = Field(0.05, ge=0, description="reward units per nat of KL")
    target: float | None = Field(None, gt=0, description="nats per answer that the coefficient adapts to; default: fixed")
    horizon: float = Field(10_000, gt=0, description="answers over which the adaptive coefficient reacts")
    budget: float = Field(20.0, gt=0, description="nats per answer; no model beyond it is kept, and the run stops")


class RewardPart(Section):
    """One component of the RL reward: a model's score, a classifier's label or a function's value, times its weight."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="name of the component in the journal")
    weight: float = Field(1.0, description="factor of the component")
    model: HomePath | None = Field(None, description="`stage`, or a reward model's or classifier's folder or hub id")
    label: str | None = Field(None, min_length=1, description="classifier: the label that responses are rewarded for")
    measure: Literal["log_probability", "probability"] = Field("log_probability", description="classifier: of that label")
    function: str | None = Field(
        None,
        description="your own module:function of (prompts, responses) or (prompts, responses, rows) that returns numbers",
    )

    @property
    def is_stage(self) -> bool:
        """Whether it is the run's own reward model."""
        return self.model == "stage"

    @model_validator(mode="after")
    def _one_source(self) -> RewardPart:
        if (self.model is None) == (self.function is None):
            both = "both `model` and `function`" if self.model else "neither `model` nor `function`"
            raise ValueError(f"rl.rewards: the component `{self.name}` names {both}; one of them gives its score")
        if self.label is not None and (self.model is None or self.is_stage):
            raise ValueError(
                f"rl.rewards: the component `{self.name}` names a label, but no classifier's folder as its `model`"
            )
        if self.measure == "probability" and self.label is None:
            raise ValueError(
                f"rl.rewards: the component `{self.name}` has measure: probability, but no `label` to measure it of"
            )
        if self.function is not None and parse_function_name(self.function) is None:
            raise ValueError(
                f"rl.rewards: the component `{self.name}` has function {self.function!r}; expected: module:function"
            )
        return self


ONLINE = ("ppo", "rloo", "grpo")  # algorithms that learn from answers they sample
WITH_UPDATES = (*ONLINE, "dpo")
# Settings of `rl` that only some algorithms use. With any other algorithm they would do nothing, so they are refused.
USED_BY: Mapping[str, tuple[str, ...]] = {
    "group_size": (*ONLINE, "best_of_n"),
    **dict.fromkeys(("episodes", "num_minibatches", "clip_range", "reward_clip"), ONLINE),
    **dict.fromkeys(("kl.coefficient", "kl.target", "kl.horizon"), ONLINE),
    **dict.fromkeys(("batch_size", "epochs", "learning_rate", "kl", "eval_every", "guards", "max_rollbacks"), WITH_UPDATES),
    **dict.fromkeys(("gamma", "gae_lambda", "value_learning_rate", "value_clip_range", "value_init"), ("ppo",)),
    **dict.fromkeys(("beta", "data", "max_tokens"), ("dpo",)),
    "max_prompt_tokens": (*ONLINE, "best_of_n"),
}
TOKEN_LIMITS = {"max_tokens": "max_prompt_tokens", "max_prompt_tokens": "max_tokens"}  # each is easily meant for the other
GROUP_SIZES = {"rloo": 4, "grpo": 4, "best_of_n": 8}  # defaults; ppo samples one answer per prompt


class Guard(Section):
    """Changes to one guard of RL; docs/guards.md has each one's meaning and defaults."""

    threshold: float | None = Field(None, ge=0, description="value beyond which a batch counts")
    patience: int | None = Field(None, ge=1, description="batches or evaluations in a row before it acts")
    action: Action | None = Field(None, description="warn, stop, rollback (to the best model, with a higher KL), or off")


class Rl(Section):
    """Reinforcement learning. `USED_BY` says which algorithm uses which setting."""

    prompts: list[HomePath] = Field(
        default_factory=list, description="files or patterns of prompts; dpo with `data` uses its held-out pairs' by default"
    )
    data: list[HomePath] = Field(
        default_factory=list, description="dpo: files or patterns of pairs or scored answers; default: those of `reward`"
    )
    columns: dict[str, str] = Field(default_factory=dict, description=DATA_COLUMNS)
    algorithm: Algorithm = Field(
        "ppo",
        description="ppo (a value network), rloo or grpo (groups of answers), dpo (judged pairs), best_of_n (no training)",
    )
    group_size: int = Field(
        default_factory=lambda settings: GROUP_SIZES.get(settings.get("algorithm", "ppo"), 1),
        ge=1,
        description="answers per prompt, must divide the batch size: 1 with ppo, 4 with rloo and grpo; n of best_of_n: 8",
    )
    episodes: int = Field(4096, ge=1, description="answers in all")
    batch_size: int = Field(
        64, ge=1, description="answers per update, must divide the episodes; dpo: prompts with all their pairs"
    )
    num_minibatches: int = Field(4, ge=1, description="optimizer steps per epoch; must divide the batch size")
    epochs: int = Field(
        default_factory=lambda settings: 1 if settings.get("algorithm") == "dpo" else 4,
        ge=1,
        description="passes over an update's answers: 4; dpo: over the prompts with pairs: 1",
    )
    beta: float = Field(0.1, gt=0, description="dpo: weight of the log-ratio to the reference")
    learning_rate: float = Field(1e-5, gt=0, description="learning rate of the policy, falling linearly")
    value_learning_rate: float | None = Field(None, gt=0, description="of the value network; default: the policy's")
    temperature: float = Field(0.7, gt=0, description="temperature of sampling and of all log-probs")
    max_new_tokens: int = Field(128, ge=1, description="the most tokens of an answer")
    max_prompt_tokens: int | None = Field(None, ge=8, description="the most tokens of a prompt; longer prompts are left out")
    max_tokens: int | None = Field(
        None, ge=8, description="dpo: the most tokens of prompt and answer; answers are cut; default: the model's context"
    )
    kl: Kl = Field(default_factory=Kl, description="the KL penalty to the model that RL starts from")  # type: ignore[arg-type]
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of generalised advantage estimation")
    clip_range: float = Field(0.2, gt=0, description="clip range of the probability ratio")
    value_clip_range: float = Field(0.2, gt=0, description="clip range of a value in one update, in reward units")
    reward_clip: float | None = Field(None, gt=0, description="bound of the scores, in standard deviations")
    missing_eos_penalty: float = Field(1.0, ge=0, description="subtracted from the score of an answer without an end token")
    value_init: Literal["reward", "policy", "shared", "ridge"] | None = Field(
        None,
        description="what the value network starts from; shared: a head on the policy's trunk; ridge: values are fitted to the "
        "reward model's states, not trained; default: the reward model if it reads the policy's tokens, else the policy",
    )
    rewards: list[RewardPart] = Field(
        default_factory=list,
        description="reward components; the RL reward is their weighted sum; default: the run's reward model alone",
    )
    guards: dict[GuardName, Guard] = Field(
        default_factory=dict, description="threshold, patience and action by a guard's name; or one action (off) for all"
    )
    max_rollbacks: int = Field(2, ge=0, description="rollbacks to the best model before a guard stops the run")
    eval_every: int = Field(10, ge=1, description="updates between evaluations on held-out prompts")
    eval_fraction: float = Field(0.1, ge=0, lt=1, description="fraction of the prompts held out for evaluation")
    eval_prompts: int = Field(64, ge=1, description="held-out prompts answered in each evaluation")

    @property
    def uses_stage(self) -> bool:
        """Whether the run's own reward model is among the reward components."""
        return not self.rewards or any(part.is_stage for part in self.rewards)

    @property
    def has_functions(self) -> bool:
        """Whether a component is a user's function, which may read every field of a prompt's row."""
        return any(part.function is not None for part in self.rewards)

    @property
    def is_online(self) -> bool:
        """Whether the algorithm learns from answers it samples."""
        return self.algorithm in ONLINE

    def uses(self, name: str) -> bool:
        """Whether the algorithm uses this setting, such as `gae_lambda` or `kl.target`."""
        return self.algorithm in USED_BY.get(name, get_args(Algorithm))

    @model_serializer(mode="wrap")
    def _used_settings(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without settings that the algorithm does not use: a saved config must load again."""
        settings = {name: value for name, value in serialize(self).items() if self.uses(name)}
        if "kl" in settings:
            settings["kl"] = {name: value for name, value in settings["kl"].items() if self.uses(f"kl.{name}")}
        return settings

    @field_validator("guards", mode="before")
    @classmethod
    def _one_action_for_all(cls, value: Any) -> Any:
        """`guards: off`, or another action, is meant for every guard."""
        is_action = value is False or value in get_args(get_args(Action)[0])
        return {name: {"action": value} for name in get_args(GuardName)} if is_action else value

    @model_validator(mode="after")
    def _has_data(self) -> Rl:
        if not self.prompts and not self.data:
            names = "`rl.prompts` or `rl.data`, the judged pairs," if self.algorithm == "dpo" else "`rl.prompts`"
            raise ValueError(f"{names} is missing; it has no default")
        return self

    @model_validator(mode="after")
    def _no_unused_setting(self) -> Rl:
        for name in sorted([*self.model_fields_set, *(f"kl.{name}" for name in self.kl.model_fields_set)]):
            if not self.uses(name):
                other = TOKEN_LIMITS.get(name, "")
                todo = f"did you mean `rl.{other}`?" if other and self.uses(other) else "leave it out"
                users = ", ".join(USED_BY[name])
                raise ValueError(f"rl.{name}: it means nothing to {self.algorithm}, only to {users}; {todo}")
        if self.value_init == "shared" and self.value_learning_rate is not None:
            raise ValueError(
                "rl.value_learning_rate: with value_init: shared, policy and value have one optimizer; leave it out"
            )
        # A saved config has every default in it, so only a value other than the default can be a mistake.
        for name in ("value_learning_rate", "value_clip_range"):
            if self.value_init == "ridge" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"rl.{name}: with value_init: ridge, values are fitted, not trained; leave it out")
        return self

    @model_validator(mode="after")
    def _reward_components(self) -> Rl:
        weights: dict[tuple[Any, ...], float] = {}
        names = set()
        for part in self.rewards:
            if part.name in names:
                raise ValueError(f"rl.rewards: two components are called `{part.name}`")
            names.add(part.name)
            source = (part.model, part.label, part.measure, part.function)
            weights[source] = weights.get(source, 0.0) + part.weight
        if weights and not any(weights.values()):
            raise ValueError("rl.rewards: the weights are all 0 or cancel; every answer would have the same reward")
        if self.value_init == "reward" and not self.uses_stage:
            raise ValueError("rl.value_init: reward, but no component of rl.rewards is `model: stage`, the run's reward model")
        return self

    @model_validator(mode="after")
    def _sizes_divide(self) -> Rl:
        if self.algorithm in ("rloo", "grpo", "best_of_n") and self.group_size < 2:
            raise ValueError(f"rl.group_size: {self.algorithm} compares the answers to one prompt and needs at least 2")
        if not self.is_online:
            return self
        if self.batch_size % self.group_size:
            raise ValueError(
                f"rl.group_size: {self.group_size} answers per prompt do not divide a batch of {self.batch_size} answers"
            )
        if self.batch_size % self.num_minibatches:
            raise ValueError(f"rl.num_minibatches: {self.num_minibatches} do not divide a batch of {self.batch_size} answers")
        if self.episodes % self.batch_size:
            near = max(1, round(self.episodes / self.batch_size)) * self.batch_size
            raise ValueError(
                f"rl.episodes: {self.episodes} are not a whole number of batches of {self.batch_size}; {near} would be"
            )
        return self


class Config(Section):
    """A run. Every section but the model is optional; the run has the stages that are named."""

    out: HomePath = Field("runs/sawyer", description="the run's folder")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of everything drawn at random")
    model: HomePath | None = Field(None, description="a hub id or a folder; a folder never touches the network")
    trust_remote_code: bool = Field(
        False, description="run Python that comes with model folders or hub repositories, as families outside transformers need"
    )
    template: HomePath = Field(
        "auto", description="auto (the tokenizer's own, else question) | question | chatml | tokenizer (its own) | a Jinja file"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="of matrix products; weights stay fp32")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where tensors live")
    micro_batch_tokens: int = Field(8192, ge=16, description="padded tokens in one forward pass")
    max_bad_rows: float = Field(0.01, ge=0, le=1, description="fraction of a file's rows that may be unusable and left out")
    save_every_seconds: float = Field(60.0, ge=0, description="seconds between two checkpoints of a stage")
    lora: Lora | None = Field(None, description="low-rank adapters in classify, sft, reward, rl; default: train all weights")
    world: World | None = Field(None, description="the built-in world as judge")
    base: Base | None = Field(None, description="train a base model from text")
    classify: Classify | None = Field(None, description="a text classifier")
    sft: Sft | None = Field(None, description="supervised fine-tuning")
    collect: Collect | None = Field(None, description="answers of the SFT model, to be scored")
    reward: Reward | None = Field(None, description="the reward model")
    rl: Rl | None = Field(None, description="reinforcement learning")
    compare: Compare | None = Field(None, description="the models side by side")

    @property
    def has_policy(self) -> bool:
        """Whether the run has a model that answers; a run of a reward model alone has none."""
        return any(section is not None for section in (self.sft, self.collect, self.rl))

    @property
    def is_scored(self) -> bool:
        """Whether something scores RL's answers; dpo from pairs alone has no scorer."""
        return self.reward is not None or (self.rl is not None and bool(self.rl.rewards))

    @model_validator(mode="after")
    def _sections_fit(self) -> Config:
        if self.model is not None and self.base is not None:
            raise ValueError("model: the file names both `model` and `base`; name the one to start from")
        for stage in self._stages_without_model():
            raise ValueError(
                f"model: the file names neither `model` nor `base`, and {stage} starts from one; "
                "name the model to start from, or train one with `base:`"
            )
        if self.rl is not None:
            self._check_rl_sources(self.rl)
        if self.collect is not None and self.collect.judge is not None and self.world is not None and self.world.scoring_rater:
            raise ValueError(
                f"collect.judge: the world's rater ({self.world.scoring_rater}) scores the collected answers already, and only "
                "one may; set world.rater: people, or leave the judge out"
            )
        if self.lora is not None:
            for stage in ("classify", "sft", "reward"):
                if getattr(getattr(self, stage), "freeze", 0):
                    raise ValueError(f"{stage}.freeze: with `lora` all weights but the adapters are frozen; leave it out")
        if self.reward is not None and not self.reward.data and self.collect is None:
            raise ValueError("reward.data: no file is named and no `collect:` section gathers answers")
        return self

    def _stages_without_model(self) -> list[str]:
        """The stages that start from the run's model, if the config names none."""
        if self.model is not None or self.base is not None:
            return []
        models = {"classify": getattr(self.classify, "model", None), "reward": getattr(self.reward, "model", None)}
        models["compare"] = "named" if self.compare is not None and self.compare.models else None
        stages = [name for name in ("classify", "sft", "collect", "reward", "rl", "compare") if getattr(self, name) is not None]
        return [name for name in stages if models.get(name) is None] if stages else ["a run"]

    def _check_rl_sources(self, rl: Rl) -> None:
        """RL needs a reward that exists; dpo needs pairs."""
        if rl.algorithm == "dpo" and not rl.data and self.reward is None and self.collect is None:
            raise ValueError(
                "rl.data: dpo learns from judged pairs, and the file names none; "
                "name them here, or in a section `reward:` if a reward model is to be trained on them as well"
            )
        of_stage = any(part.is_stage for part in rl.rewards)
        if self.reward is None and (of_stage or (not rl.rewards and rl.algorithm != "dpo")):
            what = "a component is `model: stage`, the run's own reward model," if of_stage else "none are named"
            raise ValueError(
                f"rl.rewards: {what} and the file has no section `reward:` that trains one; name a reward component: "
                "a function of yours, a reward model's folder or id, or a classifier's"
            )
        if rl.value_init == "reward" and self.reward is None:
            raise ValueError("rl.value_init: reward, but the file has no section `reward:`; leave it out")


S = TypeVar("S", bound=Section)


def required_section(section: S | None, name: str) -> S:
    """A stage's section: `required_section(config.reward, "reward")`. Raises ConfigError where the config has none."""
    if section is None:
        raise ConfigError(
            f"the config has no section `{name}`",
            expected=f"the settings of the stage {name}",
            todo=f"add `{name}:` to the file",
        )
    return section
