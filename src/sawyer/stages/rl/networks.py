"""The networks of RL: one each, or with LoRA one frozen network that serves all that came from the same weights.

| | without LoRA | with LoRA |
|---|---|---|
| policy | the SFT model, all of it trained | an adapter that begins as the SFT model's |
| reference | the SFT model again | the SFT model's adapter; none, where the SFT model is a whole model |
| reward model | a network | its adapter and head, if it was trained on the same network; else a network |
| value network | a network, from the reward or the SFT model | an adapter that begins as the reward model's, or the policy's |

Without an SFT stage the configured model takes the SFT model's role everywhere.
With `value_init: ridge` there is no value network: values are fitted to the states of the reward model, or of the reference.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sawyer.config import Config, Lora, Start, required_section, start_of
from sawyer.models import (
    AdapterTrunk,
    AdapterView,
    LanguageModel,
    LoadNetwork,
    MultiAdapter,
    PolicyWithValue,
    RidgeValues,
    Scorer,
    ValueNetwork,
    head_of,
    load_base,
    load_policy,
    load_reward,
    network_of,
    open_language_model,
    open_tokenizer,
    prompt_encoder_of,
    read_adapter,
    read_extra,
    score_head,
)
from sawyer.runs import Run, base_of, is_adapter, is_local, settings_of
from sawyer.stages.rl.reward_sources import open_scorer, parts_of, stage_reward_model, starts_from_reward
from sawyer.train import Placement, choose_device, generator, record_fast_paths

SCORE = "score.weight"  # the head of a reward model that is a decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """All networks but the value network, on their device. `multi_adapter` holds all adapters, with LoRA."""

    placement: Placement
    policy: LanguageModel
    reference: nn.Module
    scorer: Scorer
    multi_adapter: MultiAdapter | None = None

    def by_name(self, value: nn.Module | None) -> dict[str, nn.Module]:
        """Every network by its name in the memory plan; weights that several have belong to the first."""
        networks: dict[str, nn.Module] = {"policy": self.policy.model, "reference": self.reference}
        networks |= {} if value is None else {"value network": value}
        for name, part in parts_of(self.scorer):
            for number, network in enumerate(dict.fromkeys(_networks(part)), 1):
                networks[name if number == 1 else f"{name}, member {number}"] = network
        return networks | (
            {} if self.multi_adapter is None else {"the frozen network that they share": self.multi_adapter.network}
        )


def _networks(scorer: Any) -> list[nn.Module]:
    if hasattr(scorer, "members"):
        return [member.model for member in scorer.members]
    return [scorer.classifier.model] if hasattr(scorer, "classifier") else []


def alone_mb(scorer: Scorer) -> float:
    """MiB of the largest reward model that the gates of step zero load a second time; 0 where there is none."""
    models = [network_of(model) for _, part in parts_of(scorer) if hasattr(part, "members") for model in _networks(part)]
    # The second time adapters are merged into the weights.
    sizes = [sum(w.numel() * w.element_size() for name, w in m.named_parameters() if ".lora_" not in name) for m in models]
    return max(sizes, default=0) / 2**20


def open_networks(config: Config, run: Run) -> Networks:
    """Policy, reference and scorer; `open_critic` opens what estimates values."""
    start = policy_start(config)
    source = start.path(run.layout.model)
    if config.lora is not None:
        networks = _open_shared(config, config.lora, run, source, start.template)
    else:
        policy = open_language_model(source, start.template)
        placement = choose_device(config.device, config.precision, width=policy.width, vocabulary=policy.vocabulary)
        policy.model.to(placement.device)
        reference = open_language_model(source, start.template).model.to(placement.device)
        scorer = open_scorer(config, run, placement.device, load_reward)
        networks = Networks(placement=placement, policy=policy, reference=reference, scorer=scorer)
    record_fast_paths(run, "rl", networks.by_name(None))
    return networks


def policy_start(config: Config) -> Start:
    """The model that policy and reference start from: the SFT model, or the configured one."""
    start = start_of(config, "rl")
    assert start is not None
    return start


def _open_shared(config: Config, lora: Lora, run: Run, source: str | Path, template: str | None) -> Networks:
    tokenizer, reads = open_tokenizer(source, template, fixed_size=True)
    base = base_of(source) if is_adapter(source) else str(source)
    multi_adapter = MultiAdapter(load_base(Path(source), tokenizer) if is_adapter(source) else load_policy(base, tokenizer))
    if is_adapter(source):
        multi_adapter.add("reference", read_adapter(source), source)
        multi_adapter.add_copy("policy", "reference")
    else:
        multi_adapter.add_new("policy", base, lora, seed=config.seed)
    view = AdapterView(multi_adapter, "policy")
    view.learn()
    language_model = LanguageModel(
        model=view, tokenizer=tokenizer, prompt_encoder=prompt_encoder_of(multi_adapter.network, tokenizer), reads=reads
    )
    placement = choose_device(config.device, config.precision, width=language_model.width, vocabulary=language_model.vocabulary)
    multi_adapter.network.to(placement.device)
    return Networks(
        placement=placement,
        policy=language_model,
        reference=AdapterView(multi_adapter, "reference") if is_adapter(source) else AdapterView(multi_adapter),
        scorer=open_scorer(config, run, placement.device, _loader(multi_adapter, base, tokenizer)),
        multi_adapter=multi_adapter,
    )


def _loader(multi_adapter: MultiAdapter, base: str, tokenizer: Any) -> LoadNetwork:
    """A function that opens a reward model as an adapter and a head on the shared network if it is one, else as a network."""

    def load(source: str | Path, its_tokenizer: Any) -> nn.Module:
        same_tokens = its_tokenizer.get_vocab() == tokenizer.get_vocab()
        if not is_adapter(source) or not _is_same_model(base_of(source), base) or not same_tokens:
            return load_reward(source, its_tokenizer)
        adapter = read_adapter(source)
        if set(adapter.heads) != {SCORE} or adapter.beyond((SCORE,)):
            return load_reward(source, its_tokenizer)
        name = f"reward-{sum(name.startswith('reward') for name in multi_adapter.configs) + 1}"
        multi_adapter.add(name, adapter, source)
        weight = adapter.heads[SCORE]
        score = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        with torch.no_grad():
            score.weight.copy_(weight)
        score.requires_grad_(False)
        settings = deepcopy(multi_adapter.network.config)
        settings.num_labels, settings.sawyer = weight.shape[0], read_extra(source)
        if not settings.sawyer:  # another program's: its score is read before the base model's pad token
            settings.get_text_config().pad_token_id = settings_of(base).get("pad_token_id")
        return AdapterView(multi_adapter, name, config=settings, score=score)

    return load


def _is_same_model(one: str, other: str) -> bool:
    if is_local(one) and is_local(other):
        return Path(one).resolve() == Path(other).resolve()
    return one == other


def open_critic(config: Config, run: Run, networks: Networks) -> PolicyWithValue | ValueNetwork | RidgeValues:
    """What estimates values: a head on the policy's trunk, ridge values, or a separate network. Raises as
    `open_value_network`."""
    value_init = required_section(config.rl, "rl").value_init
    if value_init == "shared":
        return PolicyWithValue(networks.policy.model).to(networks.placement.device)
    if value_init == "ridge":
        return open_ridge_values(config, run, networks)
    value = open_value_network(config, run, networks).to(networks.placement.device)
    record_fast_paths(run, "rl", {"value network": value})
    return value


def open_ridge_values(config: Config, run: Run, networks: Networks) -> RidgeValues:
    """Values read from the states of the reward model (an ensemble's first member), or, where that does not read the policy's
    tokens, of the reference."""
    draws = generator(config.seed, "rl", "value features")
    if not starts_from_reward(config, run, networks.scorer, networks.policy):
        return RidgeValues(networks.reference, head_of(networks.reference).in_features, draws)
    reward_model = stage_reward_model(config, networks.scorer)
    assert reward_model is not None
    head = score_head(reward_model.model)
    assert head is not None
    return RidgeValues(reward_model.model, head.in_features, draws, reward_model)


def open_value_network(config: Config, run: Run, networks: Networks) -> ValueNetwork:
    """The value network, from what `rl.value_init` names; by default from the reward model if that is possible.

    Raises ConfigError where `value_init` names a reward model that does not read the policy's tokens one by one.
    """
    reward_model, multi_adapter = stage_reward_model(config, networks.scorer), networks.multi_adapter
    is_separate = multi_adapter is not None and reward_model is not None and not isinstance(reward_model.model, AdapterView)
    reason = "the reward model was not trained on the network that the policy has its adapters in" if is_separate else ""
    from_reward = starts_from_reward(config, run, networks.scorer, networks.policy, reason)
    if multi_adapter is None:
        if from_reward:
            return ValueNetwork.from_reward(run.layout.model("reward"))
        start = policy_start(config)
        return ValueNetwork.from_policy(start.path(run.layout.model), start.template)
    multi_adapter.add_copy("value", reward_model.model.name if reward_model is not None and from_reward else "policy")
    trunk = AdapterTrunk(multi_adapter, "value")
    trunk.adapter.requires_grad_(True)
    return ValueNetwork(trunk, networks.policy.width)
