"""Commands: what they do, and that a mistake is explained without a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from sawyer.cli.options import FORMER_BENCH_OPTIONS, FORMER_COMMANDS, FORMER_OPTIONS, CommandGroup
from sawyer.config import Config
from sawyer.errors import Interrupted, RunError
from sawyer.models.pretrained import brings_code, remote_code_kwargs
from sawyer.runs import Layout, Manifest
from sawyer.runs.journal import Journal

MINIMAL = "model: gpt2\nout: {out}\nsft: {{data: [a.json]}}\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL.format(out=tmp_path / "run"))
    return path


def test_version_and_help(sawyer: Callable[..., Any]) -> None:
    assert sawyer("--version").out.startswith("sawyer ")
    said = sawyer("--help").out
    for verb in (
        "demo",
        "init",
        "check",
        "run",
        "sft",
        "collect",
        "reward",
        "rl",
        "compare",
        "report",
        "chat",
        "runs",
        "world",
        "check-loss",
        "trust",
    ):
        assert verb in said


def test_unknown_command_names_the_nearest(sawyer: Callable[..., Any]) -> None:
    done = sawyer("comparre", "x")
    assert done.code == 2 and "compare" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("name", FORMER_COMMANDS)
def test_a_command_s_former_name_is_answered_by_the_new_one(sawyer: Callable[..., Any], name: str) -> None:
    done = sawyer(name, "x")
    assert done.code == 2 and f"did you mean `sawyer {FORMER_COMMANDS[name]}`?" in done.err


@pytest.mark.parametrize("option", FORMER_OPTIONS)
def test_an_option_s_former_name_is_answered_by_the_new_one(option: str) -> None:
    """By the commands that have the new one; elsewhere it is an option like any other that is not there."""
    group = CommandGroup(name="sawyer")
    new = FORMER_OPTIONS[option]

    def with_option(value: int = typer.Option(0, new)) -> None: ...

    def without() -> None: ...

    for name, function in (("with", with_option), ("without", without)):
        one = typer.Typer(add_completion=False)
        one.command(name)(function)
        group.add_command(typer.main.get_command(one), name)
    outer = CommandGroup(name="outer", commands={"inner": group})
    for top, path in ((group, ()), (outer, ("inner",))):
        for name, count in (("with", 1), ("without", 0)):
            with pytest.raises(Exception, match="No such option") as caught:
                top.main([*path, name, option, "3"], standalone_mode=False)
            assert caught.value.format_message().count(f"did you mean `{new}`?") == count


@pytest.mark.parametrize("option", FORMER_BENCH_OPTIONS)
def test_a_former_option_of_bench_is_answered_by_what_there_is(sawyer: Callable[..., Any], option: str) -> None:
    done = sawyer("bench", "sawyer.yaml", option, "2")
    words = " ".join(done.err.replace("│", " ").split())
    assert done.code == 2 and "python -m benchmarks" in words and "--steps" in words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "nowhere.yaml"), "there is no file nowhere.yaml"),
        (("sft", "nowhere.yaml"), "there is no file nowhere.yaml"),
        (("check", "nowhere.json"), "nowhere.json"),
        (("report", "nowhere"), "there is no run in nowhere"),
        (("runs", "nowhere"), "there is no folder nowhere"),
        (("chat", "nowhere"), "there is no run in nowhere"),
        (("world", "--out", "x", "--rater", "kind"), "there is no rater 'kind'"),
        (("check", "a.json", "--columns", "query"), "THEIRS=OURS"),
        (("check", "a.json", "--columns", "q=prompt,good=chosen"), "write --columns q=prompt --columns good=chosen"),
    ],
)
def test_a_mistake_is_explained(
    sawyer: Callable[..., Any], arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = sawyer(*arguments)
    assert done.code == 1 and done.out == "" and words in done.err
    assert "Traceback" not in done.err and done.err.startswith("Error: ")


def test_markup_in_a_users_words_is_not_taken_as_markup(sawyer: Callable[..., Any]) -> None:
    assert "[bold]x[/nope].yaml" in sawyer("run", "[bold]x[/nope].yaml").err


def test_overrides_and_the_stage_reach_the_pipeline(
    sawyer: Callable[..., Any], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Config, str | None, int]] = []

    def run(config: Config, *, only: str | None = None, collection: int = 1, listeners: Any = ()) -> dict[str, Any]:
        asked.append((config, only, collection))
        return {"out": config.out}

    monkeypatch.setattr("sawyer.pipeline.run", run)
    assert sawyer("run", config, "seed=5", "sft.epochs=3").code == 0
    assert sawyer("sft", config).code == 0
    assert (asked[0][0].seed, asked[0][0].sft.epochs, asked[0][1]) == (5, 3.0, None)
    assert asked[1][1:] == ("sft", 1)
    assert sawyer("collect", config, "--round", "2").code == 0 and asked[2][1:] == ("collect", 2)
    assert sawyer("collect", config, "--round", "0").code == 2


def test_a_stop_that_saved_is_no_error_and_not_done(
    sawyer: Callable[..., Any], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any, **__: Any) -> dict[str, Any]:
        raise Interrupted("sft was interrupted at step 3 of 9 (SIGINT); everything so far is saved", todo="run it again")

    monkeypatch.setattr("sawyer.pipeline.run", run)
    done = sawyer("run", config)
    assert (
        done.code == 130
        and done.err == ""
        and "Saved; run the same command to go on." in done.out
        and "step 3 of 9" in done.out
    )


def test_a_failure_of_the_run_is_explained(sawyer: Callable[..., Any], config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> dict[str, Any]:
        raise RunError("disk full while writing x", why="what was saved is intact", todo="free some space")

    monkeypatch.setattr("sawyer.pipeline.run", run)
    done = sawyer("run", config)
    assert done.code == 1
    assert done.err.split("\n")[:3] == [
        "Error: disk full while writing x",
        "  why it matters: what was saved is intact",
        "  what to do: free some space",
    ]


def test_the_unforeseen_is_short_here_and_whole_in_a_file(
    sawyer: Callable[..., Any], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any, **__: Any) -> dict[str, Any]:
        raise KeyError("an inner secret")

    monkeypatch.setattr("sawyer.pipeline.run", run)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = sawyer("run", config)
    assert done.code == 1 and "Traceback" not in done.err and "KeyError" in done.err
    (written,) = tmp_path.glob("sawyer-error-*.txt")
    assert str(written) in done.err and "Traceback" in written.read_text() and "an inner secret" in written.read_text()


def test_init_writes_once(sawyer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sawyer.config.template_file", lambda start: "model: gpt2\n")
    path = tmp_path / "mine.yaml"
    assert sawyer("init", path).code == 0 and path.read_text() == "model: gpt2\n"
    path.write_text("my settings")
    done = sawyer("init", path)
    assert done.code == 1 and "exists already" in done.err and path.read_text() == "my settings"
    assert sawyer("init", tmp_path / "none" / "x.yaml").code == 1
    assert sawyer("init", tmp_path).code == 0 and (tmp_path / "sawyer.yaml").exists()


def test_check_lists_and_counts(sawyer: Callable[..., Any], tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    row = {"instruction": "Say hello.", "input": "", "output": "Hello."}
    good.write_text(json.dumps(row) + "\n")
    bad.write_text(json.dumps(row) + "\n" + json.dumps({"instruction": "Say bye.", "input": ""}) + "\n{broken\n")
    done = sawyer("check", good, bad)
    assert done.code == 1 and f"Training would refuse {bad}" in done.out
    assert f"{bad}:2" in done.out and f"{bad}:3" in done.out and "counts:" in done.out
    assert sawyer("check", good).code == 0
    leaked = sawyer("check", good, "--held-out", good)
    assert leaked.code == 1 and "leak" in leaked.out


def test_check_shows_as_many_problems_as_asked(sawyer: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps({"instruction": f"Say {i}.", "input": "", "output": ""}) + "\n" for i in range(60)))
    assert "and 11 more (--limit 0 lists all)" in sawyer("check", path).out
    assert f"{path}:60" in sawyer("check", path, "--limit", "0").out


@pytest.mark.parametrize("options", [[], ["--trust-remote-code"]])
def test_check_opens_a_model_as_it_is_allowed_to(
    sawyer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    def opened(source: str, template: str) -> None:
        assert remote_code_kwargs(source)["trust_remote_code"] == bool(options)
        raise brings_code(source)

    monkeypatch.setattr("sawyer.models.open_language_model", opened)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    done = sawyer("check", tmp_path / "rows.jsonl", "--model", "some/model", *options)
    assert done.code == 1 and "--trust-remote-code" in done.err


def test_check_takes_other_column_names(sawyer: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"ask": "Say hello.", "tell": "Hello."}) + "\n")
    assert sawyer("check", path).code == 1
    assert sawyer("check", path, "--columns", "ask=prompt", "--columns", "tell=response").code == 0


@pytest.mark.slow
def test_world_writes_files_that_check_takes(sawyer: Callable[..., Any], tmp_path: Path) -> None:
    done = sawyer("world", "--out", tmp_path / "world", "--seed", "3")
    assert done.code == 0 and "instructions.json" in done.out
    assert sawyer("check", tmp_path / "world" / "comparisons.json").code == 0


def test_runs_lists_states_and_figures(sawyer: Callable[..., Any], tmp_path: Path) -> None:
    root = tmp_path / "runs" / "one"
    root.mkdir(parents=True)
    layout = Layout(root)
    manifest = Manifest(layout.manifest)
    manifest.update("sft", status="done", seconds=61.0)
    manifest.update("reward", status="failed", seconds=2.0)
    gold = {"sft": {"t07": 6.7}, "rl": {"t07": 8.1}}
    layout.summary.write_text(json.dumps({"gold": gold, "gates": {"a": "ok", "b": "warn"}}))
    (tmp_path / "runs" / "two").mkdir()
    (tmp_path / "runs" / "two" / "run.json").write_text("{")
    out = sawyer("runs", tmp_path / "runs").out
    assert "sft ✓" in out and "reward ✕" in out and "gold 6.70 / 8.10" in out and "1 ok, 1 warn" in out and "63 s" in out
    assert "two" in out and "cannot be read" in out
    assert "one" in sawyer("runs", root).out


def test_report_writes_the_page_and_says_where(sawyer: Callable[..., Any], tmp_path: Path) -> None:
    Journal(Layout(tmp_path)).metrics("sft", 0, {"loss": 2.0})
    assert sawyer("report", tmp_path).out.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").exists()


def test_the_end_of_a_run_shows_gold_wins_gates_time_report_and_chat(
    sawyer: Callable[..., Any], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    (root / "sft" / "model").mkdir(parents=True)
    (root / "report.html").write_text("")
    summary = {
        "out": str(root),
        "seconds": {"sft": 70.0, "rl": 130.0, "total": 200.0},
        "gold": {
            "base": {"t1": 2.0}, "sft": {"t1": 6.0, "t07": 7.0, "greedy": 8.4},
            "rl": {"t1": 8.0, "t07": 8.5, "greedy": 9.0}, "best_of_8": 7.7,
        },
        "compare": {"win_rate_rl_vs_sft": {"value": 0.71, "low": 0.66, "high": 0.76, "judge": "gold"}},
        "gates": {"sft_stops": "ok", "reward_rejects_damage": "warn"},
    }  # fmt: skip
    monkeypatch.setattr("sawyer.pipeline.run", lambda *_, **__: summary)
    out = sawyer("run", config).out
    for words in (
        "Gold", "2.00", "6.00", "8.40", "9.00", "best of 8", "7.70",
        "RL against SFT by gold, temperature 0.7: 71.0% (66.0% to 76.0%)",
        "1 ok, 1 warn", "reward_rejects_damage", "sft 70 s, rl 2 min; 3 min in all",
        str(root / "report.html"), f"sawyer chat {root}",
    ):  # fmt: skip
        assert words in out, words


def test_check_names_a_config_s_code_before_it_is_imported(
    sawyer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_printing.py").write_text("print('it runs')\n\n\ndef f(prompts, responses):\n    return [0.0] * len(responses)\n")
    Path("p.txt").write_text("What is up?\nWhat is down?\n")
    part = "{name: mine, function: 'my_printing:f'}"
    Path("a.yaml").write_text(f"model: nowhere/at/all\nrl: {{prompts: [p.txt], algorithm: grpo, rewards: [{part}]}}\n")
    done = sawyer("check", "a.yaml")
    assert done.code == 1 and "there is no model folder nowhere/at/all" in done.out
    named = done.out.index("rl runs Python that the config names: my_printing:f (my_printing.py)")
    assert named < done.out.index("it runs")
    sys.modules.pop("my_printing")
