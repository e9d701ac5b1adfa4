"""The classifier's section: from figures by hand, whatever the labels and texts are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from report_run import HOSTILE

from sawyer.cli.inspect import _key_figures
from sawyer.cli.summary_tables import show_classifier, show_summary
from sawyer.report import build
from sawyer.runs import Layout, Manifest
from sawyer.runs.journal import Journal

SCORES = {"precision": 0.8, "recall": 0.9, "f1": 0.85, "rows": 40, "predicted_rows": 44}


def figures(*labels: str, many: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {
        "eval_rows": 80,
        "many": many,
        "labels": list(labels),
        "accuracy": 0.812,
        "accuracy_low": 0.71,
        "accuracy_high": 0.88,
        "baseline_majority": 0.525,
        "baseline_label": labels[0],
        "macro_f1": 0.791,
        "classes": {label: SCORES for label in labels},
        "eval_loss": 0.4,
    }
    if many:
        return found | {"micro_f1": 0.777}
    size = range(len(labels))
    return found | {"mcc": 0.613, "confusion": [[36 if i == j else 1111 for j in size] for i in size]}


def run_of(root: Path, found: dict[str, Any]) -> Path:
    layout = Layout(root)
    root.mkdir()
    journal = Journal(layout)
    for step in range(40):
        journal.metrics("classify", step, {"loss": 0.7 - step / 100, "accuracy": 0.5 + step / 100, "grad_norm": 1.0})
    journal.metrics("classify", 40, {"eval_loss": 0.4, "accuracy": 0.812})
    journal.event("classify", "deduplicated", message="dedup_threshold: 0.95 leaves out 7 of 90 as near-duplicates")
    shown = {"labels": [found["labels"][0]], "predicted_labels": [found["labels"][-1]]}
    journal.samples("classify", 40, [{"text": HOSTILE, **shown, "probabilities": {}}])
    layout.config.write_text("model: bert\nclassify: {data: [a.csv]}\n")
    Manifest(layout.manifest).update("classify", status="done", seconds=3.0, figures=found)
    return root


def test_the_page_has_the_table_the_curves_and_the_texts(tmp_path: Path) -> None:
    text = build(run_of(tmp_path / "run", figures("ham", HOSTILE))).read_text(encoding="utf-8")
    assert "<script>" not in text and "onerror=alert(1)>" not in text
    assert "Confusion table" in text and "1,111" in text and "Texts to look at" in text
    assert "81 %" in text and "71 % to 88 %" in text and "+0.61" in text
    assert "dedup_threshold: 0.95 leaves out 7 of 90" in text
    assert text.count("<figure>") == 2 and "most common label" in text


def test_many_labels_and_many_classes_have_no_confusions(tmp_path: Path) -> None:
    text = build(run_of(tmp_path / "many", figures("a", "b", many=True))).read_text(encoding="utf-8")
    assert "Each class" in text and "Confusion table" not in text and "0.777" in text
    crowd = figures(*(f"class {i}" for i in range(40)))
    text = build(run_of(tmp_path / "crowd", crowd)).read_text(encoding="utf-8")
    assert "Each class" in text and "class 39" in text and "1,111" not in text


def test_a_classifier_that_is_not_done_has_its_curves_alone(tmp_path: Path) -> None:
    root = run_of(tmp_path / "run", figures("a", "b"))
    Manifest(Layout(root).manifest).update("classify", status="running", figures={})
    text = build(root).read_text(encoding="utf-8")
    assert "running" in text and "Confusion table" not in text and text.count("<figure>") == 2


def test_the_terminal_says_the_same(capsys: Any, monkeypatch: Any) -> None:
    from sawyer.cli.console import stdout

    monkeypatch.setenv("COLUMNS", "200")
    show_classifier(stdout(), figures("[red]ham[/red]", "spam"))
    said = capsys.readouterr().out
    assert "Accuracy 81.2% (71.0% to 88.0%) on held-out texts; always predicting '[red]ham[/red]' gets 52.5%" in said
    assert "Macro F1 0.791, Matthews correlation 0.613" in said and "1,111" in said and "said spam" in said
    show_summary(stdout(), {"classify": figures("a", "b", many=True)})
    assert "Micro F1 0.777" in capsys.readouterr().out
    for models, unit in ((("base", "sft"), "SFT answers' deviations"), (("base", "rl"), "reward model's own unit")):
        show_summary(stdout(), {"reward_mean": {model: {"t1": 0.5} for model in models}})
        assert f"Reward (mean, in the {unit})" in capsys.readouterr().out
    show_classifier(stdout(), figures(*"abcdefghi"))
    assert "said" not in capsys.readouterr().out
    assert _key_figures({"classify": figures("a", "b")}) == "classifier 81%"
