"""What may be asked of a run: one typed tree. A field earns its place; unknown ones are refused by `load`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from sawyer.config.sections import Base, Classify, Compare, Freeze, Lora, Section, World
from sawyer.config.user_code import own_names
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

    data: list[str] = Field(min_length=1, description="files or patterns of instructions with answers")
    columns: dict[str, str] = Field(default_factory=dict, description="their column names: ours, e.g. {question: prompt}")
    epochs: float = Field(1.0, gt=0, description="passes over the training rows")
    batch_size: int = Field(32, ge=1, description="rows an optimizer step")
    learning_rate: float = Field(2e-5, gt=0, description="peak rate of AdamW")
    warmup_fraction: float = Field(0.03, ge=0, lt=1, description="share of the steps over which the rate rises")
    eval_fraction: float = Field(0.1, ge=0, lt=1, description="share of the prompts kept for checking")
    eval_prompts: int = Field(64, ge=1, description="held-out prompts that are answered after training")
    max_new_tokens: int = Field(128, ge=1, description="longest answer when checking")
    freeze: int = Field(0, ge=0, description="first layers that stay as they are, with the embeddings from 1 on")
    max_tokens: int | None = Field(
        None, ge=8, description="most tokens of a row, its prompt included: answers are cut; none given: what the model reads"
    )


class Collect(Section):
    """The SFT model's answers, to be scored."""

    prompts: list[str] = Field(min_length=1, description="files or patterns of prompts")
    columns: dict[str, str] = Field(default_factory=dict, description="their column names: ours")
    limit: int | None = Field(None, ge=1, description="the most prompts taken")
    answers: int = Field(4, ge=2, description="answers a prompt")
    temperature: float = Field(1.0, gt=0, description="of sampling")
    max_new_tokens: int = Field(128, ge=1, description="longest answer")


class EnsembleSettings(Section):
    """Several reward models that judge together."""

    members: int = Field(3, ge=2, description="how many")
    by: Literal["seeds", "heads"] = Field(
        "seeds", description="models of their own, each of another head and order of rows, or heads of one trunk"
    )
    reward: Literal["mean", "min", "mean_minus_variance"] = Field(
        "mean",
        description="of the members' standardised scores; mean_minus_variance: the mean less penalty times their variance",
    )
    penalty: float = Field(1.0, ge=0, description="mean_minus_variance: what a unit of variance costs")


class Reward(Section):
    """The reward model."""

    data: list[str] = Field(default_factory=list, description="files or patterns of scored answers or pairs")
    model: str | None = Field(
        None,
        min_length=1,
        description="decoder or encoder to start from, a hub id or a folder; none given: the SFT model",
    )
    freeze: Freeze = Field(0, description="first layers that stay as they are, with the embeddings from 1 on, or all_but_head")
    ensemble: EnsembleSettings | None = Field(None, description="several reward models that judge together")
    columns: dict[str, str] = Field(default_factory=dict, description="their column names: ours")
    loss: str = Field("squared", description=f"{' | '.join(LOSSES)}, or your own function as module:function")
    normalize_by: Literal["pair", "prompt"] = Field(
        "pair", description="what counts once: each pair (regression: each answer), or each prompt (as listwise always does)"
    )
    centering_coefficient: float = Field(0.0, ge=0, description="weight of (r_j + r_k)^2, which keeps rewards near zero")
    epochs: float = Field(1.0, gt=0, description="passes over the prompts; reward models overfit in the second")
    batch_size: int = Field(16, ge=1, description="prompts an optimizer step, each with all its answers")
    learning_rate: float = Field(1e-5, gt=0, description="peak rate of AdamW")
    warmup_fraction: float = Field(0.03, ge=0, lt=1, description="share of the steps over which the rate rises")
    eval_fraction: float = Field(0.1, ge=0, lt=1, description="share of the prompts kept for checking")
    dedup_threshold: float | None = Field(
        None, gt=0, lt=1, description="similarity of meaning to an earlier training prompt from which on one is left out"
    )
    max_tokens: int | None = Field(
        None, ge=8, description="most tokens of a prompt and its answer, which is cut; none given: what the model reads"
    )
    calibration_prompts: int = Field(128, ge=2, description="training prompts whose SFT answers set the reward's zero and unit")

    @field_validator("loss")
    @classmethod
    def _is_a_loss(cls, name: str) -> str:
        if name not in LOSSES and own_names(name) is None:
            raise ValueError(f"`reward.loss` is {name!r}; expected: {' or '.join(LOSSES)}, or your own as module:function")
        return name


class Kl(Section):
    """The tie to the model that RL starts from."""

    coefficient: float = Field(0.05, ge=0, description="reward units a nat of KL costs")
    target: float | None = Field(None, gt=0, description="nats an answer; given, the coefficient is steered towards it")
    horizon: float = Field(10_000, gt=0, description="answers over which the steering acts")
    budget: float = Field(20.0, gt=0, description="nats an answer beyond which no model is kept and the run stops")


class RewardPart(Section):
    """One term of what RL pays for: a model's score, a classifier's label, or a function's number, times its weight."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="what the journal calls it")
    weight: float = Field(1.0, description="what it is multiplied by")
    model: str | None = Field(
        None, min_length=1, description="stage: the reward stage's; or a reward model's or classifier's folder"
    )
    label: str | None = Field(None, min_length=1, description="of a classifier: the label that is wanted of a response")
    measure: Literal["log_probability", "probability"] = Field("log_probability", description="of that label")
    function: str | None = Field(
        None,
        description="yours, as module:function of (prompts, responses) or (prompts, responses, rows), that returns numbers",
    )

    @property
    def is_stage(self) -> bool:
        """Whether it is the run's own reward model."""
        return self.model == "stage"

    @model_validator(mode="after")
    def _one(self) -> RewardPart:
        if (self.model is None) == (self.function is None):
            both = "both `model` and `function`" if self.model else "neither `model` nor `function`"
            raise ValueError(f"rl.rewards: the part `{self.name}` names {both}; one of them gives its score")
        if self.label is not None and (self.model is None or self.is_stage):
            raise ValueError(f"rl.rewards: the part `{self.name}` names a label, but no classifier's folder as its `model`")
        if self.measure == "probability" and self.label is None:
            raise ValueError(f"rl.rewards: the part `{self.name}` has measure: probability, but no `label` to measure it of")
        if self.function is not None and own_names(self.function) is None:
            raise ValueError(f"rl.rewards: the part `{self.name}` has function {self.function!r}; expected: module:function")
        return self


ONLINE = ("ppo", "rloo", "grpo")  # they learn from answers that they sample
LEARNING = (*ONLINE, "dpo")
# Settings of `rl` that not every algorithm knows, and which do: with another one they are refused, they would do nothing.
KNOWN_TO: Mapping[str, tuple[str, ...]] = {
    "group_size": (*ONLINE, "best_of_n"),
    **dict.fromkeys(("episodes", "num_minibatches", "clip_range", "reward_clip"), ONLINE),
    **dict.fromkeys(("kl.coefficient", "kl.target", "kl.horizon"), ONLINE),
    **dict.fromkeys(("batch_size", "epochs", "learning_rate", "kl", "eval_every", "guards", "max_rollbacks"), LEARNING),
    **dict.fromkeys(("gamma", "gae_lambda", "value_learning_rate", "value_clip_range", "value_init"), ("ppo",)),
    **dict.fromkeys(("beta", "data", "max_tokens"), ("dpo",)),
    "max_prompt_tokens": (*ONLINE, "best_of_n"),
}
LENGTHS_OF = {"max_tokens": "max_prompt_tokens", "max_prompt_tokens": "max_tokens"}
GROUPS = {"rloo": 4, "grpo": 4, "best_of_n": 8}  # answers a prompt where none are asked for; ppo takes one


class Guard(Section):
    """What is changed of one guard of RL; docs/guards.md has each one's meaning and defaults."""

    threshold: float | None = Field(None, ge=0, description="beyond which it counts")
    patience: int | None = Field(None, ge=1, description="how often in a row before it acts")
    action: Action | None = Field(None, description="warn, stop, rollback (to the best model, the KL dearer), or off")


class Rl(Section):
    """Reinforcement learning against the reward model, and what is compared with it. `KNOWN_TO` says who knows what."""

    prompts: list[str] = Field(
        default_factory=list,
        description="files or patterns of prompts; dpo with `data` may go without: its held-out pairs' then",
    )
    data: list[str] = Field(
        default_factory=list, description="dpo: files or patterns of pairs or scored answers; none given: those of `reward`"
    )
    columns: dict[str, str] = Field(default_factory=dict, description="their column names: ours")
    algorithm: Algorithm = Field(
        "ppo", description="with values of states, by groups of answers (rloo, grpo), on judged pairs, or without training"
    )
    group_size: int = Field(
        default_factory=lambda asked: GROUPS.get(asked.get("algorithm", "ppo"), 1),
        ge=1,
        description="answers a prompt, which must divide the batch size: 1 with ppo, 4 with rloo and grpo; n of best_of_n, 8",
    )
    episodes: int = Field(4096, ge=1, description="answers in all")
    batch_size: int = Field(
        64, ge=1, description="answers an update, must divide the episodes; dpo: prompts, each with all its pairs"
    )
    num_minibatches: int = Field(4, ge=1, description="optimizer steps an epoch; must divide the batch size")
    epochs: int = Field(
        default_factory=lambda asked: 1 if asked.get("algorithm") == "dpo" else 4,
        ge=1,
        description="passes over an update's answers, 4; dpo: over the prompts with pairs, 1",
    )
    beta: float = Field(0.1, gt=0, description="dpo: how much a nat of log-ratio to the reference counts")
    learning_rate: float = Field(1e-5, gt=0, description="of the policy, falling linearly")
    value_learning_rate: float | None = Field(None, gt=0, description="of the value network; none given: the policy's")
    temperature: float = Field(0.7, gt=0, description="of sampling, and of every log-prob")
    max_new_tokens: int = Field(128, ge=1, description="longest answer")
    max_prompt_tokens: int | None = Field(None, ge=8, description="longest prompt in tokens; longer prompts are left out")
    max_tokens: int | None = Field(
        None, ge=8, description="dpo: most tokens of a prompt and its answer, which is cut; unset: the model's context"
    )
    kl: Kl = Field(default_factory=Kl, description="the tie to the model that RL starts from")  # type: ignore[arg-type]
    gamma: float = Field(1.0, gt=0, le=1, description="discount a token")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="GAE's lambda")
    clip_range: float = Field(0.2, gt=0, description="how far the ratio may move before its gradient stops")
    value_clip_range: float = Field(0.2, gt=0, description="how far a value may move in one update, in reward units")
    reward_clip: float | None = Field(None, gt=0, description="bound of the scores, in standard deviations")
    missing_eos_penalty: float = Field(1.0, ge=0, description="taken from the score of an answer that did not end")
    value_init: Literal["reward", "policy", "shared", "ridge"] | None = Field(
        None,
        description="what the value network starts from, or shared: a head on the policy's trunk, or ridge: fitted to the "
        "reward model's states, without training; none given: the reward model if it reads the policy's tokens",
    )
    rewards: list[RewardPart] = Field(
        default_factory=list, description="what is paid for, a weighted sum; none given: the run's reward model alone"
    )
    guards: dict[GuardName, Guard] = Field(
        default_factory=dict, description="by a guard's name its threshold, streak and action; or one action (off) for all"
    )
    max_rollbacks: int = Field(
        2, ge=0, description="how often guards may put the run back to its best model before they stop it"
    )
    eval_every: int = Field(10, ge=1, description="updates between evaluations on held-out prompts")
    eval_fraction: float = Field(0.1, ge=0, lt=1, description="share of the prompts kept for evaluation")
    eval_prompts: int = Field(64, ge=1, description="held-out prompts answered at each evaluation")

    @property
    def uses_stage(self) -> bool:
        """Whether the run's own reward model is a part of what is paid for."""
        return not self.rewards or any(part.is_stage for part in self.rewards)

    @property
    def has_functions(self) -> bool:
        """Whether a user's function pays, which may look at all that a prompt's row holds."""
        return any(part.function is not None for part in self.rewards)

    @property
    def is_online(self) -> bool:
        """Whether it learns from answers that it samples."""
        return self.algorithm in ONLINE

    def knows(self, name: str) -> bool:
        """Whether the algorithm has a use for this setting, such as `gae_lambda` or `kl.target`."""
        return self.algorithm in KNOWN_TO.get(name, get_args(Algorithm))

    @model_serializer(mode="wrap")
    def _what_is_known(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the settings that the algorithm has no use for: what is written can be read again."""
        found = {name: value for name, value in plain(self).items() if self.knows(name)}
        if "kl" in found:
            found["kl"] = {name: value for name, value in found["kl"].items() if self.knows(f"kl.{name}")}
        return found

    @field_validator("guards", mode="before")
    @classmethod
    def _all_guards(cls, value: Any) -> Any:
        """`guards: off` and the like are said of every guard."""
        said = value is False or value in get_args(get_args(Action)[0])
        return {name: {"action": value} for name in get_args(GuardName)} if said else value

    @model_validator(mode="after")
    def _asks(self) -> Rl:
        if not self.prompts and not self.data:
            besides = "`rl.prompts` or `rl.data`, the judged pairs," if self.algorithm == "dpo" else "`rl.prompts`"
            raise ValueError(f"{besides} is missing; it has no default")
        return self

    @model_validator(mode="after")
    def _nothing_idle(self) -> Rl:
        given = [*self.model_fields_set, *(f"kl.{name}" for name in self.kl.model_fields_set)]
        for name in sorted(given):
            if not self.knows(name):
                instead = LENGTHS_OF.get(name, "")
                todo = f"did you mean `rl.{instead}`?" if instead and self.knows(instead) else "leave it out"
                users = ", ".join(KNOWN_TO[name])
                raise ValueError(f"rl.{name}: it means nothing to {self.algorithm}, only to {users}; {todo}")
        if self.value_init == "shared" and self.value_learning_rate is not None:
            raise ValueError(
                "rl.value_learning_rate: with value_init: shared, policy and value have one optimizer; leave it out"
            )
        # A run's own file has every default in it: only what says something else can have been meant.
        fields = type(self).model_fields
        idle = [name for name in ("value_learning_rate", "value_clip_range") if getattr(self, name) != fields[name].default]
        if self.value_init == "ridge" and idle:
            raise ValueError(f"rl.{idle[0]}: with value_init: ridge, values are fitted, not trained; leave it out")
        return self

    @model_validator(mode="after")
    def _paid(self) -> Rl:
        names = [part.name for part in self.rewards]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"rl.rewards: two parts are called `{name}`")
        sums: dict[tuple[Any, ...], float] = {}
        for part in self.rewards:
            source = (part.model, part.label, part.measure, part.function)
            sums[source] = sums.get(source, 0.0) + part.weight
        if sums and not any(sums.values()):
            raise ValueError("rl.rewards: the weights are all 0 or cancel; every answer would be worth the same")
        if self.value_init == "reward" and not self.uses_stage:
            raise ValueError("rl.value_init: reward, but no part of rl.rewards is `model: stage`, the run's reward model")
        return self

    @model_validator(mode="after")
    def _divides(self) -> Rl:
        if self.algorithm in ("rloo", "grpo", "best_of_n") and self.group_size < 2:
            raise ValueError(f"rl.group_size: {self.algorithm} compares the answers to one prompt and needs 2 at least")
        if not self.is_online:
            return self
        if self.batch_size % self.group_size:
            raise ValueError(
                f"rl.group_size: {self.group_size} answers a prompt do not divide a batch of {self.batch_size} answers"
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
    """A run. Every section but the model is optional; the stages named are done."""

    out: str = Field("runs/sawyer", min_length=1, description="the run's folder")
    seed: int = Field(0, ge=0, lt=2**32, description="of everything drawn at random")
    model: str | None = Field(None, min_length=1, description="a hub id or a folder; a folder never touches the network")
    trust_remote_code: bool = Field(
        False, description="let code run that lies in model folders or hub repositories, as families outside transformers need"
    )
    template: str = Field(
        "auto", description="auto (the tokenizer's own, else question) | question | chatml | tokenizer (its own) | a Jinja file"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="of matrix products; weights stay fp32")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the arithmetic happens")
    micro_batch_tokens: int = Field(8192, ge=16, description="padded tokens that go through a network at once")
    max_bad_rows: float = Field(
        0.01, ge=0, le=1, description="share of a file's rows that may be left out because they cannot be used"
    )
    save_every_seconds: float = Field(60.0, ge=0, description="between two saves of a stage's state")
    lora: Lora | None = Field(
        None, description="low-rank adapters in classify, sft, reward and rl; none given: all weights learn"
    )
    world: World | None = Field(None, description="the built-in world judges")
    base: Base | None = Field(None, description="train a base model from text")
    classify: Classify | None = Field(None, description="a classifier of texts")
    sft: Sft | None = Field(None, description="supervised fine-tuning")
    collect: Collect | None = Field(None, description="the SFT model's answers, to be scored")
    reward: Reward | None = Field(None, description="the reward model")
    rl: Rl | None = Field(None, description="reinforcement learning")
    compare: Compare | None = Field(None, description="the models side by side")

    @property
    def has_policy(self) -> bool:
        """Whether the run has a model that answers: a reward model alone has none."""
        return any(section is not None for section in (self.sft, self.collect, self.rl))

    @property
    def is_scored(self) -> bool:
        """Whether RL's answers are scored; dpo from pairs alone has nobody who could."""
        return self.reward is not None or (self.rl is not None and bool(self.rl.rewards))

    @model_validator(mode="after")
    def _whole(self) -> Config:
        if self.model is not None and self.base is not None:
            raise ValueError("model: the file names both `model` and `base`; name the one to start from")
        for stage in self._homeless():
            raise ValueError(
                f"model: the file names neither `model` nor `base`, and {stage} starts from one; "
                "name the model to start from, or train one with `base:`"
            )
        if self.rl is not None:
            self._pays(self.rl)
        if self.lora is not None:
            for stage in ("classify", "sft", "reward"):
                if getattr(getattr(self, stage), "freeze", 0):
                    raise ValueError(f"{stage}.freeze: with `lora` all weights but the adapters are frozen; leave it out")
        if self.reward is not None and not self.reward.data and self.collect is None:
            raise ValueError("reward.data: no file is named and no `collect:` section gathers answers")
        return self

    def _homeless(self) -> list[str]:
        """The stages that start from the run's model, of which the file names none."""
        if self.model is not None or self.base is not None:
            return []
        own = {"classify": getattr(self.classify, "model", None), "reward": getattr(self.reward, "model", None)}
        own["compare"] = "named" if self.compare is not None and self.compare.models else None
        stages = [name for name in ("classify", "sft", "collect", "reward", "rl", "compare") if getattr(self, name) is not None]
        return [name for name in stages if own.get(name) is None] if stages else ["a run"]

    def _pays(self, rl: Rl) -> None:
        """RL is paid by a reward model that there is; dpo learns from pairs that there are."""
        if rl.algorithm == "dpo" and not rl.data and self.reward is None and self.collect is None:
            raise ValueError(
                "rl.data: dpo learns from judged pairs, and the file names none; "
                "name them here, or in a section `reward:` if a reward model is to be trained on them as well"
            )
        of_stage = any(part.is_stage for part in rl.rewards)
        if self.reward is None and (of_stage or (not rl.rewards and rl.algorithm != "dpo")):
            what = "a part is `model: stage`, the run's own reward model," if of_stage else "none are named"
            raise ValueError(
                f"rl.rewards: {what} and the file has no section `reward:` that trains one; name what is paid for: "
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
