"""The networks of RL: one each, or with LoRA one frozen network that speaks for all that came from the same weights.

| | without LoRA | with LoRA |
|---|---|---|
| policy | the SFT model, all of it trained | an adapter that begins as the SFT model's |
| reference | the SFT model again | the SFT model's adapter; none, where the SFT model is a whole model |
| reward model | a network | its adapter and head, if it was trained on the same network; else a network |
| value network | a network, from the reward or the SFT model | an adapter that begins as the reward model's, or the policy's |

Without an SFT stage the run's own model stands in the SFT model's place everywhere.
With `value_init: ridge` there is no value network: values are fitted to the states of the reward model, or of the reference.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sawyer.config import Config, Lora, Start, start_of
from sawyer.models import (
    AdapterTrunk,
    AdapterView,
    LanguageModel,
    LoadNetwork,
    MultiAdapter,
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
from sawyer.stages.rl.reward_sources import begins_from_reward, open_scorer, own_reward_model, parts_of
from sawyer.train import Placement, choose_device, generator, record_fast_paths

SCORE = "score.weight"  # the head of a reward model that is a decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """What RL works with, on its device. `shared` is the network that speaks for the others, where one does."""

    place: Placement
    speaker: LanguageModel  # the policy
    reference: nn.Module
    scorer: Scorer
    shared: MultiAdapter | None = None

    def held(self, value: nn.Module | None) -> dict[str, nn.Module]:
        """Every network by its name in the memory plan; weights that several have belong to the first."""
        found: dict[str, nn.Module] = {"policy": self.speaker.model, "reference": self.reference}
        found |= {} if value is None else {"value network": value}
        for name, part in parts_of(self.scorer):
            for number, network in enumerate(dict.fromkeys(_networks(part)), 1):
                found[name if number == 1 else f"{name}, member {number}"] = network
        return found | ({} if self.shared is None else {"the frozen network that they share": self.shared.network})


def _networks(scorer: Any) -> list[nn.Module]:
    if hasattr(scorer, "members"):
        return [member.model for member in scorer.members]
    return [scorer.classifier.model] if hasattr(scorer, "classifier") else []


def alone_mb(scorer: Scorer) -> float:
    """MiB of the largest reward model that the gates of step zero load again, to ask it alone; 0 where none is paid for."""
    models = [network_of(one) for _, part in parts_of(scorer) if hasattr(part, "members") for one in _networks(part)]
    # Read alone, adapters are added to the weights.
    return max((sum(_bytes(w) for name, w in m.named_parameters() if ".lora_" not in name) for m in models), default=0) / 2**20


def _bytes(weight: Tensor) -> int:
    return weight.numel() * weight.element_size()


def open_networks(config: Config, run: Run) -> Networks:
    """Policy, reference and what is paid for; of the value network see `open_value_network`."""
    start = policy_start(config)
    source = start.path(run.layout.model)
    if config.lora is not None:
        networks = _open_shared(config, config.lora, run, source, start.template)
    else:
        speaker = open_language_model(source, start.template)
        place = choose_device(config.device, config.precision, width=speaker.width, vocabulary=speaker.vocabulary)
        speaker.model.to(place.device)
        reference = open_language_model(source, start.template).model.to(place.device)
        networks = Networks(
            place=place, speaker=speaker, reference=reference, scorer=open_scorer(config, run, place.device, load_reward)
        )
    record_fast_paths(run, "rl", networks.held(None))
    return networks


def policy_start(config: Config) -> Start:
    """What the policy and its reference are before the first update: the SFT model, or the run's own."""
    start = start_of(config, "rl")
    assert start is not None
    return start


def _open_shared(config: Config, lora: Lora, run: Run, source: str | Path, template: str | None) -> Networks:
    tokenizer, reads = open_tokenizer(source, template, fixed=True)
    base = base_of(source) if is_adapter(source) else str(source)
    shared = MultiAdapter(load_base(Path(source), tokenizer) if is_adapter(source) else load_policy(base, tokenizer))
    if is_adapter(source):
        shared.add("reference", read_adapter(source), source)
        shared.add_copy("policy", "reference")
    else:
        shared.add_new("policy", base, lora, seed=config.seed)
    policy = AdapterView(shared, "policy")
    policy.learn()
    speaker = LanguageModel(
        model=policy, tokenizer=tokenizer, prompt_encoder=prompt_encoder_of(shared.network, tokenizer), reads=reads
    )
    place = choose_device(config.device, config.precision, width=speaker.width, vocabulary=speaker.vocabulary)
    shared.network.to(place.device)
    return Networks(
        place=place,
        speaker=speaker,
        reference=AdapterView(shared, "reference") if is_adapter(source) else AdapterView(shared),
        scorer=open_scorer(config, run, place.device, _loader(shared, base, tokenizer)),
        shared=shared,
    )


def _loader(shared: MultiAdapter, base: str, tokenizer: Any) -> LoadNetwork:
    """Opens a reward model as an adapter and a head on the shared network where it is one, else as a network of its own."""

    def load(source: str | Path, its_tokenizer: Any) -> nn.Module:
        if not is_adapter(source) or not _same(base_of(source), base) or its_tokenizer.get_vocab() != tokenizer.get_vocab():
            return load_reward(source, its_tokenizer)
        adapter = read_adapter(source)
        if set(adapter.heads) != {SCORE} or adapter.beyond((SCORE,)):
            return load_reward(source, its_tokenizer)
        name = f"reward-{sum(known.startswith('reward') for known in shared.configs) + 1}"
        shared.add(name, adapter, source)
        weight = adapter.heads[SCORE]
        score = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        with torch.no_grad():
            score.weight.copy_(weight)
        score.requires_grad_(False)
        settings = deepcopy(shared.network.config)
        settings.num_labels, settings.sawyer = weight.shape[0], read_extra(source)
        if not settings.sawyer:  # another program's: its score is read before the pad token of the model below
            settings.get_text_config().pad_token_id = settings_of(base).get("pad_token_id")
        return AdapterView(shared, name, config=settings, score=score)

    return load


def _same(one: str, other: str) -> bool:
    """Whether two names of models mean one."""
    if is_local(one) and is_local(other):
        return Path(one).resolve() == Path(other).resolve()
    return one == other


def ridge_values(config: Config, run: Run, networks: Networks) -> RidgeValues:
    """Values read from the states of the reward model (an ensemble's first member), or, where that does not read the policy's
    tokens, of the reference."""
    draw = generator(config.seed, "rl", "value features")
    if not begins_from_reward(config, run, networks.scorer, networks.speaker):
        return RidgeValues(networks.reference, head_of(networks.reference).in_features, draw)
    own = own_reward_model(config, networks.scorer)
    assert own is not None
    head = score_head(own.model)
    assert head is not None
    return RidgeValues(own.model, head.in_features, draw, own)


def open_value_network(config: Config, run: Run, networks: Networks) -> ValueNetwork:
    """The value network, from what `rl.value_init` names; where it names none, from the reward model if that can be.

    Raises ConfigError where the reward model is asked for and cannot be read token by token as the policy writes.
    """
    own, shared = own_reward_model(config, networks.scorer), networks.shared
    apart = shared is not None and own is not None and not isinstance(own.model, AdapterView)
    reason = "the reward model was not trained on the network that the policy has its adapters in" if apart else ""
    from_reward = begins_from_reward(config, run, networks.scorer, networks.speaker, reason)
    if shared is None:
        if from_reward:
            return ValueNetwork.from_reward(run.layout.model("reward"))
        start = policy_start(config)
        return ValueNetwork.from_policy(start.path(run.layout.model), start.template)
    assert own is not None or not from_reward
    shared.add_copy("value", own.model.name if own is not None and from_reward else "policy")
    trunk = AdapterTrunk(shared, "value")
    trunk.own.requires_grad_(True)
    return ValueNetwork(trunk, networks.speaker.width)
