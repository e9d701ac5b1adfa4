"""`sawyer check` as a user meets it: what it prints and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from sawyer.cli.main import main

Put = Callable[[str, Any], str]


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`checked("a.json", ...)` -> (exit code, standard output, standard error)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sawyer", "check", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err and "unforeseen" not in captured.err
        return code, captured.out, captured.err

    return run


def test_a_sound_file(put: Put, checked: Callable[..., tuple[int, str, str]]) -> None:
    put("a.jsonl", [{"question": "Up?", "answer": "Down."}])
    assert checked("a.jsonl") == (
        0,
        "✓ a.jsonl  (1 record, read as question and answer)\n\nTraining would take the file\n",
        "",
    )


def test_problems_are_listed_counted_and_refused(put: Put, checked: Callable[..., tuple[int, str, str]]) -> None:
    put("a.jsonl", '{"prompt": "[bold]x"}\n{"prompt": ""}\n{"prompt": "[bold]x"}\n{"prompt": 3}\n{"promp')
    code, out, err = checked("a.jsonl")
    assert (code, err) == (1, "")
    assert out.split("\n") == [
        "✕ a.jsonl  (1 record, read as prompts)",
        "  a.jsonl: 2 of 4 rows cannot be used, and max_bad_rows: 0.01 lets fewer pass",
        "      mend `prompt`, or name its column in `columns:`; or leave them out with max_bad_rows: 0.5 "
        "(of a command: `--max-bad-rows 0.5`)",
        "  a.jsonl:2:prompt: `prompt` is empty",
        "      mend `prompt`, or name its column in `columns:`",
        "  a.jsonl:3:row: the same as a.jsonl:1; left out",
        "      remove it",
        "  a.jsonl:4:prompt: `prompt` is a number, not text",
        "      mend `prompt`, or name its column in `columns:`",
        "  a.jsonl:5: the last line is cut off (Unterminated string starting at, column 2)",
        "      copy the file again, or remove what is cut off",
        "  counts: 1 bad rows, 1 empty, 1 duplicate, 1 type, 1 truncated",
        "",
        "Training would refuse a.jsonl",
        "",
    ]
    shown = checked("a.jsonl", "--limit", "1")[1]
    assert "and 4 more (--limit 0 lists all)" in shown and "a.jsonl:3" not in shown


def test_what_is_only_left_out_does_not_refuse(put: Put, checked: Callable[..., tuple[int, str, str]]) -> None:
    put("a.jsonl", [{"prompt": "x"}, {"prompt": "x"}])
    code, out, _ = checked("a.jsonl")
    assert code == 0 and out.startswith("! a.jsonl") and "  counts: 1 duplicate\n" in out


def test_held_out_and_columns(put: Put, checked: Callable[..., tuple[int, str, str]]) -> None:
    put("a.jsonl", [{"q": "x"}])
    put("b.jsonl", [{"q": "x"}])
    assert checked("a.jsonl", "b.jsonl", "--columns", "q=prompt")[0] == 0
    code, out, _ = checked("a.jsonl", "--held-out", "b.jsonl", "--columns", "q=prompt")
    assert code == 1 and "b.jsonl:1:prompt: the prompt is also in the training file (a.jsonl:1)" in out
    assert out.endswith("Training would refuse b.jsonl\n")
    assert checked("a.jsonl")[0] == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b"", "a.json: the file is empty"),
        ("a.json", b'[\n{"prompt": "x"},\n{},\n{},\n{},\n{},\n{"prompt" "x"}\n]', "a.json:7: not JSON"),
        ("a.json", bytes(range(256)) * 4, "a.json: a binary file"),
        ("a.json", b'["\\ud800", "\\ud800", "a\\u001b[31mb"]', "a.json"),
        ("a.parquet", b"PAR1PAR1", "a.parquet: not a Parquet file"),
        ("a.json", b'{"\\ud800": 1}', "fields \\ud800"),
    ],
)
def test_bad_input_shows_no_traceback(
    put: Put, checked: Callable[..., tuple[int, str, str]], name: str, content: bytes, words: str
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    put(name, content)
    code, out, _ = checked(name)
    assert code == 1 and words in out
