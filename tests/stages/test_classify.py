"""The classifier's stage: what its loss counts, what it learns, refuses and leaves, and that it goes on exactly."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from raising import raises_with
from recorded import metric_rows

from sawyer import pipeline
from sawyer.config import parse_config
from sawyer.errors import ConfigError, DataError, Interrupted, SawyerError, TrainingError
from sawyer.models import Classifier, load_reader, new_classifier
from sawyer.records import read, split
from sawyer.runs import Layout, read_manifest, read_rows
from sawyer.runs.atomic_files import hash_folder
from sawyer.stages.classify.class_data import load_texts, row_encoder
from sawyer.stages.classify.classifier_report import classifier_figures, classifier_gates, majority_labels, sample_rows
from sawyer.stages.classify.classify_stage import ClassifierLoop
from sawyer.stats import wilson
from sawyer.train import batch_indices, choose_device

Fixture = Any
CONTEXT = 24
WORDS = "red green blue cat dog bird runs sleeps eats the a old young not".split()


def sentences(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    found = dict.fromkeys(" ".join(rng.choices(WORDS, k=rng.randint(4, 7))) for _ in range(3 * count))
    return list(found)[:count]


def one_of(text: str) -> dict[str, Any]:
    """Which animal comes first, if any: three classes."""
    return {"text": text, "label": next((word for word in text.split() if word in ("cat", "dog")), "neither")}


def many_of(text: str) -> dict[str, Any]:
    return {"text": text, "labels": [word for word in ("cat", "dog", "red") if word in text.split()]}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An encoder and a decoder of two layers with random weights, and tokenizers of whole words."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    found = {}
    for name in ("bert", "gpt2"):
        folder = found[name] = tmp_path_factory.mktemp(name)
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
        tokenizer = hf.BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=CONTEXT)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            if name == "bert":
                config: Any = hf.BertConfig(
                    vocab_size=len(vocabulary), max_position_embeddings=CONTEXT, **sizes, initializer_range=0.2
                )
                model: Any = hf.BertForMaskedLM(config)
            else:
                ends = {"bos_token_id": 3, "eos_token_id": 3}
                config = hf.GPT2Config(vocab_size=len(vocabulary), n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=2, **ends)
                model = hf.GPT2LMHeadModel(config)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return found


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., str]:
    def write(rows: Sequence[Mapping[str, Any]], name: str = "rows.jsonl") -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return write


def config_of(out: Path, source: Path, data: str, **asked: Any) -> Any:
    top = {name.removeprefix("top__"): asked.pop(name) for name in list(asked) if name.startswith("top__")}
    section = {"data": [data], "epochs": 8, "batch_size": 16, "learning_rate": 3e-3, "eval_fraction": 0.2, **asked}
    tree = {"out": str(out), "model": str(source), "device": "cpu", "precision": "fp32", "save_every_seconds": 3600}
    return parse_config({**tree, "classify": section, **top})


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(Layout(out).events) if row["kind"] == kind]


# What is learnt.


@pytest.fixture(scope="module")
def learnt(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """(out, summary, config) by architecture and kind of label."""
    found = {}
    root = tmp_path_factory.mktemp("learnt")
    for kind, row in (("one", one_of), ("many", many_of)):
        path = root / f"{kind}.jsonl"
        path.write_text("".join(json.dumps(row(text)) + "\n" for text in sentences(260)))
        for name in ("bert", "gpt2"):
            config = config_of(root / f"{name}-{kind}", sources[name], str(path))
            found[f"{name}-{kind}"] = (Path(config.out), pipeline.run(config), config)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("which", ["bert-one", "gpt2-one", "bert-many", "gpt2-many"])
def test_a_task_that_can_be_learnt_is(learnt: dict[str, Any], which: str) -> None:
    out, summary, _ = learnt[which]
    found = summary["classify"]
    assert found["accuracy_low"] > 0.85 > 0.6 > found["baseline_majority"]
    assert summary["gates"] == {"classify_beats_majority": "ok", "classify_learned": "ok"}
    assert found["macro_f1"] > 0.85 and found["loss_last"] < 0.3 * found["loss_first"]
    assert found["many"] == which.endswith("many")
    assert found["labels"] == (["cat", "dog", "red"] if found["many"] else ["cat", "dog", "neither"])
    assert "micro_f1" in found if found["many"] else found["mcc"] > 0.8
    text = Layout(out).report.read_text()
    assert "Each class" in text if found["many"] else "Confusion table" in text
    assert read_manifest(Layout(out).manifest)["stages"]["classify"]["status"] == "done"


@pytest.mark.slow
@pytest.mark.parametrize("which", ["bert-one", "gpt2-one", "bert-many", "gpt2-many"])
def test_the_figures_are_those_of_the_saved_classifier_on_the_held_out_rows(learnt: dict[str, Any], which: str) -> None:
    out, summary, config = learnt[which]
    records = read(config.classify.data, want="labels").records
    train, held_out = split(records, 0.2)
    classifier = Classifier(Layout(out).model("classify"))
    shares = classifier([record.text for record in held_out])
    if classifier.many:
        said = [{label for label, p in row.items() if p > 0.5} for row in shares]
        losses = [
            -sum(math.log(p if n in r.labels else 1 - p) for n, p in s.items()) for s, r in zip(shares, held_out, strict=True)
        ]
    else:
        said = [{max(row, key=lambda label: row[label])} for row in shares]
        losses = [-math.log(row[record.labels[0]]) for row, record in zip(shares, held_out, strict=True)]
    right = sum(s == set(record.labels) for s, record in zip(said, held_out, strict=True))
    found = summary["classify"]
    assert found["eval_rows"] == len(held_out) and found["rows"] == len(train)
    assert found["accuracy"] == right / len(held_out)
    assert (found["accuracy_low"], found["accuracy_high"]) == (
        wilson(right, len(held_out)).low,
        wilson(right, len(held_out)).high,
    )
    assert found["eval_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-3)
    for label, scores in found["classes"].items():
        hit = sum(label in s and label in r.labels for s, r in zip(said, held_out, strict=True))
        assert scores["rows"] == sum(label in r.labels for r in held_out)
        assert scores["f1"] == pytest.approx(2 * hit / (scores["rows"] + sum(label in s for s in said)))
    last = read_rows(Layout(out).metrics)[-1]
    assert last["accuracy"] == found["accuracy"] and "confusion" not in last


@pytest.mark.slow
def test_what_it_leaves_loads_in_plain_transformers(learnt: dict[str, Any]) -> None:
    for which in ("bert-one", "gpt2-many"):
        folder = Layout(learnt[which][0]).model("classify")
        model, tokenizer = (
            hf.AutoModelForSequenceClassification.from_pretrained(folder),
            hf.AutoTokenizer.from_pretrained(folder),
        )
        texts = sentences(20, seed=9)
        inputs = {
            name: value
            for name, value in tokenizer(texts, padding=True, return_tensors="pt").items()
            if name != "token_type_ids"
        }
        with torch.no_grad():
            logits = model(**inputs).logits
        shares = torch.sigmoid(logits) if which.endswith("many") else torch.softmax(logits, 1)
        ours = Classifier(folder)(texts)
        assert torch.allclose(torch.tensor([list(row.values()) for row in ours]), shares, atol=1e-5)
        assert model.config.id2label == dict(enumerate(ours[0]))


@pytest.mark.slow
def test_the_samples_show_the_surest_mistakes_first(learnt: dict[str, Any]) -> None:
    rows = read_rows(Layout(learnt["bert-one"][0]).samples)
    assert 0 < len(rows) <= 24 and {row["stage"] for row in rows} == {"classify"}
    wrong = [row["predicted_labels"] != row["labels"] for row in rows]
    assert wrong == sorted(wrong, reverse=True)
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5) for row in rows)


# What a step counts.


@pytest.mark.slow
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_batch_s_loss_is_the_mean_over_its_rows_whatever_the_parts(
    sources: dict[str, Path], put: Any, tmp_path: Path, capture: Any, name: str, many: bool, tiny: Fixture
) -> None:
    data = put([(many_of if many else one_of)(text) for text in sentences(60)])
    config = config_of(tmp_path / "run", sources[name], data, batch_size=11)
    with tiny.run(tmp_path / "run") as run:
        texts = load_texts(config, run)
    tokenizer = load_reader(sources[name])
    model: Any = new_classifier(sources[name], tokenizer, texts.labels, many=many, seed=0)
    examples = list(map(row_encoder(texts, tokenizer, CONTEXT), texts.train))
    chosen = [examples[i] for i in batch_indices(len(examples), 11, 0, total=999, seed=0, stage="classify")]
    total = 0.0
    for example in chosen:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([example.row.ids])).logits[0].double()
        if many:
            for place, z in enumerate(logits):
                total -= float(torch.nn.functional.logsigmoid(z if place in example.truth else -z))
        else:
            total -= float(torch.log_softmax(logits, 0)[example.truth[0]])
    gradients = []
    for budget in (10_000, 30, 1):
        place = choose_device("cpu", "fp32", width=32)
        asked = config.model_copy(update={"micro_batch_tokens": budget})
        work = ClassifierLoop(asked, place, model, tokenizer.pad_token_id, examples, texts)
        seen = capture(work.optimizer_step)
        found = work.step(0)
        assert found["loss"] == pytest.approx(total / 11, rel=1e-5) and seen.counts == [11] and found["rows"] == 11
        gradients.append(seen.gradients[0])
        if budget == 1:
            assert seen.parts == [11]
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5) and torch.allclose(gradients[0], gradients[2], atol=1e-5)
    wrong = ClassifierLoop(
        config.model_copy(update={"micro_batch_tokens": 30}), place, model, tokenizer.pad_token_id, examples, texts
    )
    means = capture(wrong.optimizer_step, lambda part: len(part[0].ids))
    wrong.step(0)
    assert not torch.allclose(means.gradients[0], gradients[0], atol=1e-5), "the mean of the parts' means is another"


@pytest.mark.slow
@pytest.mark.parametrize(("frozen", "still"), [(1, ("h.0.", "wte", "wpe")), ("all_but_head", ("transformer.",))])
def test_frozen_layers_stay_as_they_are(
    sources: dict[str, Path], put: Any, tmp_path: Path, frozen: Any, still: tuple[str, ...]
) -> None:
    data = put([one_of(text) for text in sentences(80)])
    pipeline.run(config_of(tmp_path / "run", sources["gpt2"], data, freeze=frozen, epochs=1))
    after = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/classify/model").state_dict()
    before = hf.AutoModelForCausalLM.from_pretrained(sources["gpt2"]).state_dict()
    moved = {name for name, weight in after.items() if name not in before or not torch.equal(weight, before[name])}
    assert "score.weight" in moved and not [name for name in moved if any(part in name for part in still)]
    assert bool([name for name in moved if ".h.1." in name]) == (frozen == 1)
    assert f"{frozen if frozen == 1 else 2} of 2 layers frozen" in events(tmp_path / "run", "plan")[0]["message"]


def test_more_layers_than_there_are(sources: dict[str, Path], put: Any, tmp_path: Path) -> None:
    data = put([one_of(text) for text in sentences(80)])
    with raises_with(ConfigError, given=["classify.freeze", "3 layers", "has 2"]):
        pipeline.run(config_of(tmp_path / "run", sources["bert"], data, freeze=3))


@pytest.mark.parametrize("value", [-1, 1.5, "head", None])
def test_a_freeze_that_cannot_be_is_refused_in_words(tmp_path: Path, value: Any) -> None:
    with raises_with(ConfigError, given=["`freeze`", "0 or more", "all_but_head"]):
        config_of(tmp_path / "run", tmp_path, "a.jsonl", freeze=value)


def test_a_model_of_its_own(sources: dict[str, Path], put: Any, tmp_path: Path) -> None:
    data = put([one_of(text) for text in sentences(80)])
    config = config_of(tmp_path / "run", sources["gpt2"], data, model=str(sources["bert"]), epochs=0.5)
    pipeline.run(config)
    assert json.loads((tmp_path / "run/classify/model/config.json").read_text())["model_type"] == "bert"
    parents = read_manifest(Layout(tmp_path / "run").manifest)["stages"]["classify"]["parents"]
    assert parents == {"classify.model": hash_folder(sources["bert"])}


# Thinning.


def near_pairs() -> list[dict[str, Any]]:
    """Sentences, each twice: the second ends with a full stop's worth of nothing, and every fifth has another label."""
    rows = []
    for place, text in enumerate(sentences(60)):
        rows.append({"text": text, "label": "odd" if place % 2 else "even"})
        other = place % 5 == 0
        rows.append({"text": f"{text}  [UNK]", "label": ("even" if place % 2 else "odd") if other else rows[-1]["label"]})
    return rows


@pytest.mark.slow
def test_thinning_leaves_out_near_duplicates_of_the_same_label_and_says_so(
    sources: dict[str, Path], put: Any, tmp_path: Path
) -> None:
    data = put(near_pairs())
    whole = pipeline.run(config_of(tmp_path / "whole", sources["bert"], data, epochs=0.5))["classify"]
    thinner = pipeline.run(config_of(tmp_path / "thin", sources["bert"], data, epochs=0.5, dedup_threshold=0.97))["classify"]
    (told,) = [row["message"] for row in events(tmp_path / "thin", "deduplicated")]
    left_out = whole["rows"] - thinner["rows"]
    assert f"dedup_threshold: 0.97 leaves out {left_out} of {whole['rows']} as near-duplicates" in told and " after " in told
    assert 20 < left_out < whole["rows"] - 10
    assert thinner["eval_rows"] == whole["eval_rows"], "what checks is not thinned"
    assert told.replace(" -> ", " → ")[:40] in Layout(tmp_path / "thin").report.read_text()
    assert events(tmp_path / "whole", "deduplicated") == []


# What is refused.


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [{"text": f"t {i}", "label": "a"} for i in range(40)],
            r"all 40 rows have the label 'a' alone",
        ),
        (
            [{"text": f"t {i}", "labels": ["a"] * (i % 2)} for i in range(40)],
            "the label 'a' or none",
        ),
        ([{"text": f"t {i}", "labels": ["a", "b"]} for i in range(40)], r"the same labels \(a, b\)"),
        ([{"text": f"t {i}", "labels": []} for i in range(40)], r"the same labels \(none\)"),
        ([{"text": "x", "label": "a"}, {"text": "y", "labels": ["b"]}], r"rows.jsonl:2:labels: one row has `label`"),
        ([{"text": "x", "label": "a"}, {"text": "y"}], r"all 1 rows have the label 'a' alone"),
    ],
)
def test_data_from_which_nothing_can_be_learnt(
    sources: dict[str, Path], put: Any, tmp_path: Path, rows: Any, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        pipeline.run(config_of(tmp_path / "run", sources["bert"], put(rows), eval_fraction=0.2))


def test_a_label_that_is_held_out_alone_is_refused_by_its_line(sources: dict[str, Path], put: Any, tmp_path: Path) -> None:
    texts = sentences(60)
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(texts)]
    _, held_out = split(read(put(rows), want="labels").records, 0.2)
    line = held_out[3].where.line
    rows[line - 1]["label"] = "rare"
    with raises_with(DataError, where=f"rows.jsonl:{line}:label", given="'rare'", todo="'rare'"):
        pipeline.run(config_of(tmp_path / "run", sources["bert"], put(rows), eval_fraction=0.2))
    assert pipeline.run(config_of(tmp_path / "all", sources["bert"], put(rows), eval_fraction=0, epochs=0.2))["classify"][
        "labels"
    ] == [
        *("a", "b"),
        "rare",
    ]


def test_all_rows_held_out(sources: dict[str, Path], put: Any, tmp_path: Path) -> None:
    with raises_with(DataError, given="classify.eval_fraction", todo="lower classify.eval_fraction"):
        pipeline.run(
            config_of(tmp_path / "run", sources["bert"], put([one_of(t) for t in sentences(3)]), eval_fraction=0.999999)
        )


def test_without_held_out_rows_the_gate_says_so(sources: dict[str, Path], put: Any, tmp_path: Path) -> None:
    data = put([one_of(text) for text in sentences(60)])
    summary = pipeline.run(config_of(tmp_path / "run", sources["bert"], data, eval_fraction=0, epochs=1))
    assert summary["classify"]["eval_rows"] == 0
    assert "on training rows (none was held out)" in events(tmp_path / "run", "gate")[0]["message"]


def test_long_texts_are_cut_and_said(sources: dict[str, Path], put: Any, tmp_path: Path) -> None:
    rows = [one_of(text) for text in sentences(40)]
    rows += [one_of(f"cat number {'old ' * (40 + i)}") for i in range(3)]
    pipeline.run(config_of(tmp_path / "run", sources["bert"], put(rows), epochs=0.5))
    assert (
        "3 of 43 texts are longer than the model's 24 tokens and lose their end"
        in events(tmp_path / "run", "warning")[0]["message"]
    )


def test_weights_that_were_destroyed_are_not_saved(sources: dict[str, Path], put: Any, tmp_path: Path) -> None:
    data = put([one_of(text) for text in sentences(60)])
    with pytest.raises(TrainingError, match="classify: "):
        pipeline.run(config_of(tmp_path / "run", sources["bert"], data, learning_rate=1e30))
    assert not Layout(tmp_path / "run").model("classify").exists()


def test_classes_are_in_the_order_of_numbers_or_names(
    sources: dict[str, Path], put: Any, tmp_path: Path, tiny: Fixture
) -> None:
    for labels, expected in ((["10", "9", "-1"], ("-1", "9", "10")), (["b", "a", "10"], ("10", "a", "b"))):
        data = put([{"text": text, "label": labels[i % 3]} for i, text in enumerate(sentences(60))])
        with tiny.run(tmp_path / expected[0]) as run:
            assert load_texts(config_of(tmp_path / "x", sources["bert"], data), run).labels == expected


# Judging.


def texts_of(rows: Sequence[Mapping[str, Any]], put: Any, tmp_path: Path, sources: Any, tiny: Fixture) -> Any:
    with tiny.run(tmp_path / "judging") as run:
        texts = load_texts(config_of(tmp_path / "x", sources["bert"], put(rows), eval_fraction=0), run)
    return texts, list(map(row_encoder(texts, load_reader(sources["bert"]), CONTEXT), texts.train))


def test_figures_by_hand(sources: dict[str, Path], put: Any, tmp_path: Path, tiny: Fixture) -> None:
    texts, examples = texts_of(
        [{"text": f"cat {w}", "label": x} for w, x in zip(WORDS, "aaaaab", strict=False)], put, tmp_path, sources, tiny
    )
    logits = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 2)  # four a's right, one taken for b, b right
    found = classifier_figures(texts, examples, logits, majority_labels(examples))
    assert found["confusion"] == [[4, 1], [0, 1]] and found["accuracy"] == 5 / 6
    assert found["baseline_majority"] == 5 / 6 and found["baseline_label"] == "a"
    assert found["mcc"] == pytest.approx((4 * 1 - 1 * 0) / math.sqrt(5 * 4 * 1 * 2))
    assert found["eval_loss"] == pytest.approx((5 * math.log(1 + math.e**-1) + math.log(1 + math.e)) / 6)
    first = sample_rows(texts, examples, logits)[0]
    assert (first["labels"], first["predicted_labels"]) == (["a"], ["b"])


def test_many_label_figures_by_hand(sources: dict[str, Path], put: Any, tmp_path: Path, tiny: Fixture) -> None:
    given = [["a"], ["a", "b"], [], ["a"]]
    texts, examples = texts_of(
        [{"text": f"cat {w}", "labels": x} for w, x in zip(WORDS, given, strict=False)], put, tmp_path, sources, tiny
    )
    logits = torch.tensor([[2.0, -1.0], [1.0, -1.0], [-3.0, -3.0], [-1.0, 4.0]])  # right; b missed; right; a missed, b made up
    found = classifier_figures(texts, examples, logits, majority_labels(examples))
    assert found["accuracy"] == 2 / 4 and found["baseline_label"] == "a" and found["baseline_majority"] == 2 / 4
    assert "confusion" not in found and "mcc" not in found
    a, b = found["classes"]["a"], found["classes"]["b"]
    assert (a["precision"], a["recall"], a["rows"]) == (1.0, 2 / 3, 3) and (b["precision"], b["recall"]) == (0.0, 0.0)
    assert found["micro_f1"] == pytest.approx(2 * 2 / (3 + 4)) and found["macro_f1"] == pytest.approx(0.8 / 2)


FIGURES = {"accuracy": 0.8, "accuracy_low": 0.75, "baseline_majority": 0.7, "baseline_label": "a", "eval_rows": 9}
FIGURES |= {"loss_first": 1.0, "loss_last": 0.5}


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, "ok"),
        ({"baseline_majority": 0.75}, "warn"),
        ({"accuracy_low": 0.69}, "warn"),
        ({"baseline_majority": 0.8}, "fail"),
        ({"baseline_majority": 0.9}, "fail"),
    ],
)
def test_the_gate_on_the_majority(changed: dict[str, float], verdict: str) -> None:
    beats, learned = classifier_gates({**FIGURES, **changed})
    assert (beats.name, beats.verdict, learned.verdict) == ("classify_beats_majority", verdict, "ok")
    assert classifier_gates({**FIGURES, "loss_last": 1.1})[1].verdict == "fail"


# Going on.


@pytest.mark.slow
@pytest.mark.parametrize(("at", "save"), [(1, 3600.0), (7, 0.0), (14, 3600.0)])
def test_resuming_equals_never_having_stopped(sources: dict[str, Path], put: Any, tmp_path: Path, at: int, save: float) -> None:
    data = put(near_pairs())

    def config(name: str) -> Any:
        return config_of(
            tmp_path / name, sources["gpt2"], data, dedup_threshold=0.995, epochs=2, batch_size=8, top__save_every_seconds=save
        )

    straight = pipeline.run(config("straight"))["classify"]

    class Stop:
        def __init__(self) -> None:
            self.steps = 0

        def __call__(self, kind: str, row: dict[str, Any]) -> None:
            self.steps += kind == "metric"
            if self.steps == at and kind == "metric":
                import os
                import signal

                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        pipeline.run(config("broken"), listeners=[Stop()])
    assert pipeline.run(config("broken"))["classify"] == straight
    layouts = [Layout(tmp_path / name) for name in ("straight", "broken")]
    assert metric_rows(layouts[0].metrics) == metric_rows(layouts[1].metrics)
    assert read_rows(layouts[0].samples) == read_rows(layouts[1].samples)
    assert hash_folder(layouts[0].model("classify")) == hash_folder(layouts[1].model("classify"))


def test_other_data_in_the_same_folder_are_refused(sources: dict[str, Path], put: Any, tmp_path: Path) -> None:
    data = put([one_of(text) for text in sentences(60)])
    pipeline.run(config_of(tmp_path / "run", sources["bert"], data, epochs=0.5))
    with pytest.raises(SawyerError, match=r"changed: these settings: classify.dedup_threshold"):
        pipeline.run(config_of(tmp_path / "run", sources["bert"], data, epochs=0.5, dedup_threshold=0.9))
