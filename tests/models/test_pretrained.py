"""What a name may lead to: no code from a model folder, no network for a folder, families and configs refused in words."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import save_file

from sawyer import Chat, Classifier, Scorer
from sawyer.errors import ModelError, RunError
from sawyer.models import (
    RewardScorer,
    load_base,
    load_reader,
    load_tokenizer,
    new_reward,
    new_reward_model,
    open_language_model,
    read_extra,
    remote_code,
    save_merged,
    save_model,
)
from sawyer.models.pretrained import BRINGS_CODE, family_problem
from sawyer.runs import ADAPTER, base_of

Make = Callable[[str], Path]
IDS = torch.tensor([[50, 60, 70, 80, 61]])


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def coded(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of a family that no transformers knows, whose code lies with it; asking somebody is an error."""
    folder = shutil.copytree(make("llama"), tmp_path / "coded")
    maps = {
        "AutoConfig": "own_config.OwnConfig",
        "AutoModelForCausalLM": "own_model.OwnForCausalLM",
        "AutoModelForSequenceClassification": "own_model.OwnForSequenceClassification",
    }
    edit(folder / "config.json", model_type="own", architectures=["OwnForCausalLM"], auto_map=maps)
    note = "from pathlib import Path\nPath(__file__).parent.joinpath('it-ran').touch()\n"
    (folder / "own_config.py").write_text(
        f"{note}from transformers import LlamaConfig\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    )
    (folder / "own_model.py").write_text(
        "from transformers import LlamaForCausalLM, LlamaForSequenceClassification\nfrom .own_config import OwnConfig\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
        "from torch import nn\nfrom transformers.models.llama.modeling_llama import LlamaModel, LlamaPreTrainedModel\n"
        "class OwnForSequenceClassification(LlamaForSequenceClassification):\n    config_class = OwnConfig\n"
        "    def __init__(self, config):\n        LlamaPreTrainedModel.__init__(self, config)\n"
        "        self.num_labels, self.model = config.num_labels, LlamaModel(config)\n"
        "        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)\n        self.post_init()\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    for module in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, module)  # of a test before: they would look into its folders
    for module in ("dynamic_module_utils", "utils.hub"):
        monkeypatch.setattr(f"transformers.{module}.HF_MODULES_CACHE", str(tmp_path / "modules"), raising=False)

    def asked(*_: Any) -> str:
        raise AssertionError("somebody was asked on the terminal")

    monkeypatch.setattr("builtins.input", asked)
    return folder


def test_code_in_a_model_folder_does_not_run(make: Make, tmp_path: Path, coded: Path) -> None:
    """As a policy, tokenizer, reward model, and below adapters."""
    tokenizer = load_tokenizer(make("llama"))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / ADAPTER).write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(coded)}))
    save_file({"base_model.model.x.lora_A.weight": torch.zeros(2, 2)}, adapter / "adapter_model.safetensors")
    ways: list[Callable[[], object]] = [
        lambda: open_language_model(coded),
        lambda: new_reward(coded, tokenizer, seed=1),
        lambda: RewardScorer.load(coded),
        lambda: load_base(adapter, tokenizer),
        lambda: save_merged(adapter, tmp_path),
    ]
    for way in ways:
        with pytest.raises(ModelError, match=r"(?s)code of its own.*trust_remote_code: true"):
            way()
    maps = {"AutoTokenizer": ["own_tokenizer.OwnTokenizer", None]}
    edit(coded / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=maps)
    with pytest.raises(ModelError, match="code of its own"):
        load_reader(coded)
    assert "code of its own" in family_problem(coded, "causal")
    assert not list(tmp_path.rglob("it-ran"))


def test_it_runs_where_that_was_allowed(make: Make, tmp_path: Path, coded: Path) -> None:
    """What is saved brings its code along, and asks again."""
    with remote_code(True):
        assert family_problem(coded, "causal") == ""
        opened = open_language_model(coded)
        (tmp_path / "saved").mkdir()
        save_model(tmp_path / "saved", opened.model, opened.tokenizer)
        again = open_language_model(tmp_path / "saved")
    assert type(opened.model).__name__ == type(again.model).__name__ == "OwnForCausalLM"
    plain = open_language_model(make("llama")).model
    with torch.no_grad():
        assert torch.allclose(opened.model(IDS).logits, plain(IDS).logits) and torch.allclose(
            again.model(IDS).logits, plain(IDS).logits
        )
    assert list(tmp_path.rglob("it-ran"))
    with pytest.raises(ModelError, match="code of its own"):
        open_language_model(tmp_path / "saved")


def test_code_counts_for_the_kinds_that_it_names(make: Make, coded: Path) -> None:
    """What it does not name is refused, trusted or not: the advice to trust it would lead to the next refusal."""
    tokenizer = load_tokenizer(make("llama"))
    with remote_code(True):
        assert type(new_reward(coded, tokenizer, seed=1)).__name__ == "OwnForSequenceClassification"
    maps = json.loads((coded / "config.json").read_text())["auto_map"]
    del maps["AutoModelForSequenceClassification"]
    edit(coded / "config.json", auto_map=maps)
    for trusted in (False, True):
        with remote_code(trusted):
            assert family_problem(coded, "causal") == ("" if trusted else BRINGS_CODE)
            with pytest.raises(ModelError, match="no classifier") as caught:
                new_reward(coded, tokenizer, seed=1)
            assert "trust_remote_code" not in str(caught.value)
    with remote_code(True):
        assert type(open_language_model(coded).model).__name__ == "OwnForCausalLM"


def test_every_door_that_has_no_config_takes_trust(make: Make, tmp_path: Path, coded: Path) -> None:
    """The advice of the error names them. What a door allows ends with it; what was allowed around it stays."""
    tokenizer = load_tokenizer(make("llama"))
    with remote_code(True):
        for name, many in (("judge", 1), ("classes", 2)):
            labels = {"id2label": {i: str(i) for i in range(many)}, "label2id": {str(i): i for i in range(many)}}
            model = hf.AutoModelForSequenceClassification.from_pretrained(coded, trust_remote_code=True, **labels)
            model.config.pad_token_id = tokenizer.pad_token_id
            model.save_pretrained(tmp_path / name)
            tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(f"model: {coded}\nsft: {{data: [a.jsonl]}}\n")
    for door, source in ((Scorer, "judge"), (Classifier, "classes")):
        with pytest.raises(ModelError, match=r"(?s)code of its own.*Classifier take trust_remote_code=True"):
            door(tmp_path / source)
        door(tmp_path / source, trust_remote_code=True)
        with pytest.raises(ModelError, match="code of its own"):
            door(tmp_path / source)
        with remote_code(True):
            door(tmp_path / source)
    with pytest.raises(RunError, match="no model"):
        Chat(tmp_path / "run")
    assert Chat(tmp_path / "run", trust_remote_code=True).models == ("base",)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """`hub("owner/name", folder)`: the cache has that repository. Reaching for a network is an error."""
    cache = tmp_path / "hub-cache"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(cache), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a network was reached for")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)

    def add(name: str, folder: Path) -> None:
        root = cache / f"models--{name.replace('/', '--')}"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text("a" * 40)
        shutil.copytree(folder, root / "snapshots" / ("a" * 40))

    return add


@pytest.fixture
def received(make: Make, tmp_path: Path) -> Path:
    """Adapters that somebody sent, for a model of the hub."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path / "received"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = hf.AutoModelForCausalLM.from_pretrained(make("llama"))
        wrapped: Any = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
        wrapped.save_pretrained(folder)
    edit(folder / ADAPTER, base_model_name_or_path="someone/base")
    return folder


def test_a_received_folder_chooses_no_download(
    make: Make, received: Path, hub: Callable[[str, Path], None], tmp_path: Path
) -> None:
    """Its base is a hub id: what the cache has counts as here, and nothing else does; the advice names the command."""
    tokenizer = load_tokenizer(make("llama"))
    for way in (lambda: open_language_model(received), lambda: load_base(received, tokenizer), lambda: base_of(received)):
        with pytest.raises(ModelError, match=r"(?s)the hub's someone/base.*`hf download someone/base`"):
            way()
    hub("someone/base", make("llama"))
    opened = open_language_model(received)  # its tokenizer is the base's
    plain = open_language_model(make("llama")).model
    with torch.no_grad():
        assert torch.allclose(opened.model(IDS).logits, plain(IDS).logits)


@pytest.mark.parametrize("base", ["x; rm -rf ~", "a/b/c", "$(touch it)", "\x1b[31mred/name"])
def test_a_name_that_is_no_hub_id_is_never_advised(received: Path, base: str) -> None:
    edit(received / ADAPTER, base_model_name_or_path=base)
    with pytest.raises(ModelError) as told:
        base_of(received)
    assert "hf download" not in str(told.value)


def test_a_folder_without_weights_is_not_completed_from_the_hub(
    make: Make, received: Path, hub: Callable[[str, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where a repository of the very same name is in the cache."""
    monkeypatch.chdir(tmp_path)
    edit(received / ADAPTER, base_model_name_or_path=str(make("llama")))
    hub("someone/adapter", received)
    shutil.copytree(received, tmp_path / "someone" / "adapter")
    (tmp_path / "someone" / "adapter" / "adapter_model.safetensors").rename(tmp_path / "someone" / "adapter" / "x.safetensors")
    with pytest.raises(ModelError, match=r"has no weights"):
        open_language_model("someone/adapter")


FAMILIES: dict[str, tuple[str, str, str]] = {
    "llama": ("llama", "", ""),
    "granite": ("granite", "", "no classifier"),
    "unknown": ("no such family", "knows no family", "knows no family"),
    "mistral3": ("mistral3", "reads images and text together", "no classifier"),
    "t5": ("t5", "no language model", ""),
}


@pytest.mark.parametrize("what", FAMILIES)
def test_what_a_family_can_be(tmp_path: Path, what: str) -> None:
    family, causal, classifier = FAMILIES[what]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    for kind, told in (("causal", causal), ("classifier", classifier)):
        found = family_problem(tmp_path, kind)  # type: ignore[arg-type]
        assert (told in found) if told else found == ""


FACTS: dict[str, tuple[Any, str]] = {
    "no table": ("x", "is no table"),
    "a scale of nothing": ({"reward_scale": 0}, "reward_scale is '0'"),
    "a scale in words": ({"reward_scale": "many"}, "reward_scale"),
    "a shift without end": ({"reward_shift": float("nan")}, "reward_shift"),
    "an ensemble of no kind": ({"ensemble": [1]}, "ensemble"),
    "an ensemble of too many": ({"ensemble": {"heads": 10**9}}, "ensemble.heads"),
    "an ensemble without units": ({"ensemble": {"heads": 1, "by": "heads"}}, "members, units"),
    "units that are none": ({"ensemble": {"heads": 1, "by": "heads", "units": [1]}}, "ensemble.units"),
}


@pytest.mark.parametrize("what", FACTS)
def test_odd_facts_are_told_in_words(make: Make, tmp_path: Path, what: str) -> None:
    change, told = FACTS[what]
    tokenizer = load_tokenizer(make("llama"))
    save_model(tmp_path, new_reward(make("llama"), tokenizer, seed=1), tokenizer, {"reward_shift": 0.5, "reward_scale": 2.0})
    assert read_extra(tmp_path) == {"reward_shift": 0.5, "reward_scale": 2.0}
    edit(tmp_path / "config.json", sawyer=change)
    with pytest.raises(ModelError, match=told):
        RewardScorer.load(tmp_path)


def test_an_encoder_and_decoder_together(make: Make, tmp_path: Path) -> None:
    """T5 reads no row without its EOS; that is told in words."""
    sizes = {"vocab_size": 288, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = hf.T5Config(**sizes, decoder_start_token_id=1, pad_token_id=1, eos_token_id=0)
    hf.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    load_tokenizer(make("gpt2")).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot read any row as an encoder does"):
        new_reward_model(tmp_path, seed=1)
    with pytest.raises(ModelError, match="no language model"):
        open_language_model(tmp_path)
