"""Classifiers: their logits are plain transformers', from every architecture; what the door refuses; embeddings by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

import sawyer
from sawyer.errors import ModelError
from sawyer.models import (
    Classifier,
    class_logits,
    context_length,
    load_reader,
    near_duplicates,
    new_classifier,
    new_reward,
    save_model,
)
from sawyer.models.load import load_tokenizer
from sawyer.models.prompt_embeddings import mean_pooled
from sawyer.text import Row, plain_row

Make = Callable[[str], Path]
TEXTS = ["What is up?", "Down", "the opposite of up is down, Response: the opposite of what is up? " * 2, "Response"]
LABELS = ("no", "perhaps", "yes")
CONTEXT, KNOWN = 40, 280  # as in conftest


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT-shaped encoder with its own kind of tokenizer: [CLS] text [SEP], no EOS, an own [PAD]."""
    folder = tmp_path_factory.mktemp("bert")
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] what is up down the opposite of response question ? , . :".split()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    hf.BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=CONTEXT).save_pretrained(folder)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = hf.BertForMaskedLM(hf.BertConfig(vocab_size=len(words), max_position_embeddings=CONTEXT, **sizes))
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return folder


def made(source: Path, folder: Path, *, many: bool = False, labels: Sequence[str] = LABELS, seed: int = 0) -> Path:
    tokenizer = load_reader(source)
    model = new_classifier(source, tokenizer, labels, many=many, seed=seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "score" in name or "classifier" in name:
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)))
    folder.mkdir()
    save_model(folder, model, tokenizer)
    return folder


def plainly(folder: Path, texts: Sequence[str], context: int) -> torch.Tensor:
    """The logits by transformers alone, padded and cut as it does."""
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    model = hf.AutoModelForSequenceClassification.from_pretrained(folder)
    inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=context, return_tensors="pt")
    with torch.no_grad():
        return model(**{name: value for name, value in inputs.items() if name != "token_type_ids"}).logits


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "neox", "opt", "roberta", "bert"])
@pytest.mark.parametrize("many", [False, True])
def test_what_is_saved_gives_the_same_in_plain_transformers(
    make: Make, bert: Path, tmp_path: Path, name: str, many: bool
) -> None:
    folder = made(bert if name == "bert" else make(name), tmp_path / "made", many=many)
    context = 38 if name == "roberta" else CONTEXT  # its positions begin after the pad token's
    logits = plainly(folder, TEXTS, context)
    expected = torch.sigmoid(logits) if many else torch.softmax(logits, 1)
    found = Classifier(folder)(TEXTS)
    assert [list(row) for row in found] == [list(LABELS)] * 4
    assert torch.allclose(torch.tensor([list(row.values()) for row in found]), expected, atol=1e-5)
    assert float(expected.std()) > 0.01, "else anything would equal anything"
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "no", "1": "perhaps", "2": "yes"} and config["label2id"]["yes"] == 2
    assert config["problem_type"] == ("multi_label_classification" if many else "single_label_classification")


def test_probabilities_are_one_class_s_or_each_label_s_own(make: Make, tmp_path: Path) -> None:
    one, many = (Classifier(made(make("gpt2"), tmp_path / str(flag), many=flag)) for flag in (False, True))
    assert sum(one(TEXTS)[0].values()) == pytest.approx(1, abs=1e-6) and one.many is False and one.labels == LABELS
    assert sum(many(TEXTS)[0].values()) != pytest.approx(1, abs=1e-3) and many.many is True


def test_rows_alone_and_together_and_in_any_budget(make: Make, bert: Path, tmp_path: Path) -> None:
    for name, source in (("gpt2", make("gpt2")), ("bert", bert)):
        folder = made(source, tmp_path / name)
        classifier = Classifier(folder)
        rows = [plain_row(classifier.tokenizer, text, classifier.context) for text in TEXTS]
        pad = classifier.tokenizer.pad_token_id
        whole = class_logits(classifier.model, rows, pad_id=pad, token_budget=10_000)
        assert torch.allclose(whole, class_logits(classifier.model, rows, pad_id=pad, token_budget=1), atol=1e-5)
        assert torch.allclose(whole[2:3], class_logits(classifier.model, rows[2:3], pad_id=pad, token_budget=1), atol=1e-5)


def test_longer_texts_are_cut_and_counted_and_empty_ones_are_read(make: Make, bert: Path, tmp_path: Path) -> None:
    for name, source in (("gpt2", make("gpt2")), ("bert", bert)):
        classifier = Classifier(made(source, tmp_path / name))
        assert classifier.cut == 0
        assert len(classifier(["the opposite " * 100, "", "up"])) == 3 and classifier.cut == 1
        assert classifier([]) == []


def test_bert_s_special_tokens_stay_when_it_is_cut(bert: Path) -> None:
    tokenizer = load_reader(bert)
    row = plain_row(tokenizer, "up down " * 50, CONTEXT)
    assert row.cut and len(row.ids) == CONTEXT
    assert (row.ids[0], row.ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    short = plain_row(tokenizer, "up", CONTEXT)
    assert list(short.ids) == tokenizer("up")["input_ids"] and not short.cut and not any(short.loss_mask)


def test_a_decoder_without_a_pad_token_gets_one(make: Make, tmp_path: Path) -> None:
    folder = made(make("gpt2"), tmp_path / "made")
    tokenizer = load_reader(folder)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] == tokenizer.pad_token_id


def test_the_head_is_the_seed_s_and_the_trunk_the_source_s(make: Make) -> None:
    tokenizer = load_reader(make("gpt2"))
    one, same, other = (new_classifier(make("gpt2"), tokenizer, LABELS, many=False, seed=seed) for seed in (0, 0, 1))
    heads = [dict(model.named_parameters())["score.weight"] for model in (one, same, other)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    source = hf.AutoModelForCausalLM.from_pretrained(make("gpt2")).transformer.h[0].attn.c_attn.weight
    assert torch.equal(dict(one.named_parameters())["transformer.h.0.attn.c_attn.weight"], source)


def test_a_source_with_another_head_gets_a_new_one(make: Make, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make("gpt2"))
    (tmp_path / "reward").mkdir()
    save_model(tmp_path / "reward", new_reward(make("gpt2"), tokenizer, seed=0), tokenizer)
    model: Any = new_classifier(tmp_path / "reward", tokenizer, LABELS, many=False, seed=0)
    assert tuple(model.score.weight.shape) == (3, 16)
    with pytest.raises(ModelError, match="has one label"):
        Classifier(tmp_path / "reward")


def test_a_trunk_of_which_some_is_missing_is_refused(make: Make, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(make("gpt2"), tmp_path / "holed")
    weights = load_file(tmp_path / "holed" / "model.safetensors")
    weights.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(weights, tmp_path / "holed" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 of its weights"):
        new_classifier(tmp_path / "holed", load_reader(make("gpt2")), LABELS, many=False, seed=0)


def test_a_language_model_is_no_classifier_and_nowhere_is_said(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="lacks 1 of its weights"):
        Classifier(make("gpt2"))
    with pytest.raises(ModelError, match="there is no model folder"):
        Classifier(tmp_path / "nowhere")


def test_it_is_at_the_door() -> None:
    assert sawyer.Classifier is Classifier


# Embeddings.


@pytest.mark.parametrize("name", ["gpt2", "llama", "roberta", "bert"])
def test_mean_pooled_states_by_hand(make: Make, bert: Path, name: str) -> None:
    source = bert if name == "bert" else make(name)
    tokenizer = load_reader(source)
    model: Any = new_classifier(source, tokenizer, LABELS, many=False, seed=0)
    rows = [plain_row(tokenizer, text, context_length(model)) for text in TEXTS]
    found = mean_pooled(model, rows, pad_id=tokenizer.pad_token_id, token_budget=80)
    for row, vector in zip(rows, found, strict=True):
        with torch.no_grad():
            states = model.base_model(input_ids=torch.tensor([row.ids])).last_hidden_state[0]
        assert torch.allclose(vector, states.mean(0), atol=1e-5)
        assert len(row.ids) == 1 or not torch.allclose(vector, states[-1], atol=1e-3), "not the last state"


def test_near_duplicates_name_the_pair_they_were_least_sure_of(make: Make) -> None:
    tokenizer = load_reader(make("gpt2"))
    model = new_classifier(make("gpt2"), tokenizer, LABELS, many=False, seed=0)
    texts = ["What is up?", "Down", "What is up?", "Down", "opposite of the opposite"]
    rows = [plain_row(tokenizer, text, CONTEXT) for text in texts]
    vectors = mean_pooled(model, rows, pad_id=tokenizer.pad_token_id, token_budget=1000)
    others = [float(torch.cosine_similarity(vectors[i], vectors[j], dim=0)) for i in range(5) for j in range(i)]
    most = max(value for value in others if value < 0.9999)

    def thin(threshold: float, **more: Any) -> Any:
        return near_duplicates(model, rows, threshold, pad_id=tokenizer.pad_token_id, token_budget=1000, **more)

    found = thin((1 + most) / 2)
    assert found.indices == (0, 1, 4) and found.of == 5 and found.pair in ((0, 2), (1, 3))
    assert found.similarity == pytest.approx(1.0, abs=1e-5)
    assert found.usual == pytest.approx(sum(others) / len(others), abs=1e-5)
    told = found.summary(texts, 0.5)
    assert told.startswith("dedup_threshold: 0.5 leaves out 2 of 5 as near-duplicates") and "at 1.000" in told
    assert thin(0.5 * (1 + most), groups=["a", "a", "b", "a", "a"]).indices == (0, 1, 2, 4), "only within a group"
    none = thin(0.999999, groups=range(5))
    assert none.indices == (0, 1, 2, 3, 4) and none.pair is None and "leaves out 0 of 5" in none.summary(texts, 0.9)


def test_the_longest_text_is_shortened_in_the_sentence() -> None:
    from sawyer.models.prompt_embeddings import NearDuplicates

    found = NearDuplicates(indices=(0,), of=2, usual=0.2, pair=(0, 1), similarity=0.97)
    told = found.summary(["short", "x" * 500], 0.95)
    assert len(told) < 300 and "…" in told


def test_a_text_of_nothing_is_read_as_an_end(make: Make) -> None:
    tokenizer = load_reader(make("gpt2"))
    assert plain_row(tokenizer, "", CONTEXT) == Row(
        ids=(tokenizer.eos_token_id,), loss_mask=(False,), prompt_length=1, cut=False
    )
