"""A bad row costs a row: how many are let pass, what is a row and what is the file, and that a refusal's advice works."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sawyer.config import parse_config
from sawyer.errors import DataError
from sawyer.pipeline import preflight
from sawyer.records import MAX_BAD_ROWS, Problem, check, leave_out, read
from sawyer.records.formats import FORMATS, Want

Put = Callable[[str, Any], str]


def rows(good: int, bad: int) -> list[dict[str, Any]]:
    """Good rows, and bad ones at the end."""
    found: list[dict[str, Any]] = [{"prompt": f"q{i}", "completion": "a"} for i in range(good)]
    return found + [{"prompt": f"b{i}", "completion": None} for i in range(bad)]


@pytest.mark.parametrize(
    ("good", "bad", "share", "taken"),
    [
        (999, 1, 0.01, True),
        (990, 10, 0.01, True),  # exactly 1 %
        (989, 11, 0.01, False),
        (19, 1, 0.01, True),  # one is let pass in any file: 5 % of twenty rows are one mistake
        (18, 2, 0.01, False),
        (18, 2, 0.1, True),
        (1, 1, 0.01, True),
        (999, 1, 0.0, False),  # and none where none is wanted
        (93, 7, 0.07, True),  # 7 of 100, whatever 0.07 * 100 is in floating point
        (71, 29, 0.29, True),
    ],
)
def test_how_many_bad_rows_are_let_pass(put: Put, good: int, bad: int, share: float, taken: bool) -> None:
    name = put("a.jsonl", rows(good, bad))
    assert check([name], max_bad_rows=share)[0].is_refused is not taken
    if not taken:
        with pytest.raises(DataError) as refused:
            read(name, want="demonstrations", max_bad_rows=share)
        assert refused.value.where == f"a.jsonl:{good + 1}:completion"
        assert f"{bad} of {good + bad:,} rows cannot be used" in str(refused.value)
        return
    found = read(name, want="demonstrations", max_bad_rows=share)
    assert len(found.records) == good and [problem.bad for problem in found.problems] == [True] * bad
    assert found.warning.startswith(f"{bad} of {good + bad:,} rows cannot be used")
    assert f"a.jsonl:{good + 1}:completion" in found.warning


@pytest.mark.parametrize(("good", "bad"), [(5, 2), (989, 11), (60, 40), (2, 2)])
def test_the_limit_that_a_refusal_advises_is_enough(put: Put, good: int, bad: int) -> None:
    with pytest.raises(DataError) as refused:
        read(put("a.jsonl", rows(good, bad)), want="demonstrations")
    advised = float(refused.value.todo.partition("max_bad_rows: ")[2].split()[0])
    assert len(read("a.jsonl", want="demonstrations", max_bad_rows=advised).records) == good


def test_where_every_row_must_be_good_nobody_is_told_to_lower_that(put: Put) -> None:
    with pytest.raises(DataError) as refused:
        read(put("a.jsonl", rows(5, 1)), want="demonstrations", max_bad_rows=None)
    assert "1 of 6 rows cannot be used, and none of them may be lost" in str(refused.value)
    assert "max_bad_rows" not in str(refused.value)


def test_the_command_and_the_config_let_as_many_pass() -> None:
    assert parse_config({"base": {"text": ["a.txt"]}}).max_bad_rows == MAX_BAD_ROWS


def test_a_file_of_mostly_bad_rows_is_not_taken_for_one(put: Put) -> None:
    with pytest.raises(DataError) as refused:
        read(put("a.jsonl", rows(2, 8)), want="demonstrations")
    assert "max_bad_rows:" not in refused.value.todo and "mend `completion`" in refused.value.todo


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.jsonl", '{"prompt": "a"}\n{"prompt" 1}\n{"prompt": "b"}\n', 2),
        ("a.csv", "prompt,n\na,1\nb\nc,2\n", 3),
        ("a.tsv", "prompt\tn\na\t1\nb\t2\t3\nc\t2\n", 3),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": "\xe9"}\n{"prompt": "b"}\n', 2),
        ("a.csv", b"prompt\na\n\xe9\nb\n", 3),
        ("a.txt", b"a\n\xe9\nb\n", 2),
    ],
)
def test_what_is_a_row(put: Put, name: str, text: str | bytes, line: int) -> None:
    found = read(put(name, text), want="prompts")
    assert [prompt.text for prompt in found.records] == ([*"ac"] if "c" in str(text).split("prompt")[-1] else [*"ab"])
    assert [problem.where for problem in found.problems] == [f"{name}:{line}"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"prompt": "a"}\n' * 500 + '{"prompt": "b'),  # cut off: how many rows are missing?
        ("a.json", '[{"prompt": "a"}, {"prompt" 1}, {"prompt": "b"}]'),
        ("a.csv", 'prompt,n\na,1\n"b,2\nc,3\n'),
        ("a.csv", "prompt,n\na,1\nb"),
        ("a.csv", "prompt,prompt\na,1\n"),
    ],
)
def test_what_is_the_file(put: Put, name: str, text: str) -> None:
    assert check([put(name, text)], max_bad_rows=1.0)[0].is_refused
    with pytest.raises(DataError):
        read(name, want="prompts", max_bad_rows=1.0)


def test_rows_of_one_line_are_named_by_their_number(put: Put) -> None:
    name = put("a.json", json.dumps(rows(150, 1)))
    assert [problem.where for problem in read(name, want="demonstrations").problems] == ["a.json:151:completion"]


def test_a_quote_in_a_tsv_is_a_character(put: Put) -> None:
    """As `csv` reads it, four rows become two: the quote swallows what lies between it and the next."""
    text = 'prompt\tcompletion\n"Stop, he said.\tOne.\nWhat is up?\tTwo.\nHe cried: "\tThree.\nWhat is down?\tFour.\n'
    found = read(put("a.tsv", text), want="demonstrations")
    assert [record.response for record in found.records] == ["One.", "Two.", "Three.", "Four."]
    assert found.records[0].prompt.text == '"Stop, he said.' and not found.problems
    quoted = read(put("b.tsv", 'prompt\tcompletion\n"say ""hi"""\ta\n'), want="demonstrations")
    assert [problem.kind for problem in quoted.problems] == ["quotes"] and "save it with commas as .csv" in quoted.problems[
        0
    ].todo


@pytest.mark.parametrize("mark", [";", "\t", ","])
def test_a_table_is_separated_as_its_header_is(put: Put, mark: str) -> None:
    """Spreadsheets write semicolons where the comma is a decimal point."""
    text = f'\ufeffprompt{mark}completion\r\n"Up, or left?"{mark}"Down;\tor ""not"""\r\n'
    (record,) = read(put("a.csv", text), want="demonstrations").records
    assert (record.prompt.text, record.response) == ("Up, or left?", 'Down;\tor "not"')


def test_the_limit_of_csv_stays_as_a_program_set_it(put: Put) -> None:
    import csv

    before = csv.field_size_limit(1234)
    try:
        assert read(put("a.csv", "prompt\n" + "x" * 200_000 + "\n"), want="prompts").records
        with pytest.raises(DataError):
            read(put("b.csv", 'prompt\n"x"y\n'), want="prompts")
        assert csv.field_size_limit() == 1234
    finally:
        csv.field_size_limit(before)


def test_rows_that_a_template_cannot_render_are_bad_rows_like_others(put: Put) -> None:
    """A stand-in for the template refuses the prompts named here; the last row is bad already."""
    name = put("a.jsonl", rows(10, 1))
    read_in = read(name, want="demonstrations", max_bad_rows=0.2)
    refused = [Problem(where=f"{name}:3", kind="template", message="no system turn", todo="mend it", fatal=True)]
    left = leave_out(read_in, refused, 0.2)
    assert [record.where.line for record in left.records] == [1, 2, *range(4, 11)]
    assert left.warning.startswith("2 of 11 rows cannot be used") and "template (a.jsonl:3): no system turn" in left.warning
    with pytest.raises(DataError, match="2 of 11 rows"):
        leave_out(read_in, refused, 0.1)
    (report,) = check([name], find_unrenderable=lambda records: refused, max_bad_rows=0.2)
    assert report.records == 9 and not report.is_refused
    assert check([name], find_unrenderable=lambda records: refused, max_bad_rows=0.1)[0].is_refused


def test_a_conversation_without_a_name_is_told_the_name(put: Put) -> None:
    talk = [{"from": "human", "value": "Up?"}, {"from": "gpt", "value": "Down."}]
    with pytest.raises(DataError) as refused:
        read(put("a.json", [talk, talk]), want="demonstrations")
    assert 'write it as {"messages": [...]}' in refused.value.todo
    assert read(put("b.json", [{"messages": talk}]), want="demonstrations").records


def test_a_typed_end_is_told(put: Put) -> None:
    answers = ["Yes.<|endoftext|>", "No.</s> ", "Perhaps."]
    name = put("a.jsonl", [{"prompt": f"q{i}", "completion": answer} for i, answer in enumerate(answers)])
    (problem,) = check([name])[0].problems
    assert problem.where == "a.jsonl:1:response" and "2 of 3 answers end in a typed `<|endoftext|>`" in problem.message
    assert "2 of 3 answers end in a typed" in read(name, want="demonstrations").warning


# `check` and training decide alike


WANTS: tuple[Want, ...] = ("comparisons", "demonstrations", "labels", "prompts")


STAGES = {"comparisons": "reward", "demonstrations": "sft", "labels": "classify", "prompts": "collect"}


def as_training(want: Want, *names: str) -> bool:
    """Whether a run would begin with a stage that learns from these files, or answers them. Its model, which is yet to be made,
    reads any row."""
    stage = STAGES[want]
    config = parse_config({"base": {"text": ["a.txt"]}, stage: {"prompts" if stage == "collect" else "data": names}})
    (plan,) = preflight(config, only=stage)
    assert all(isinstance(problem, DataError) for problem in plan.problems)
    return not plan.problems


@pytest.mark.parametrize("want", WANTS)
def test_check_and_training_agree_over_every_shape(put: Put, shown: Any, want: Want) -> None:
    """Every row that the docs show, alone and beside damaged ones."""
    examples = [row for rows_shown in shown.values() for row in rows_shown]
    assert len(examples) > len(FORMATS)
    decided = set()
    for number, example in enumerate(examples):
        damaged: dict[str, None] = dict.fromkeys(example) if isinstance(example, dict) else {}
        named = isinstance(example, dict) and isinstance(example.get("label"), str)
        good = [example, {**example, "label": "another"} if named else example]
        files = ([example], good, [*good, damaged], [*good, *[damaged] * 3], [damaged], [*good, *[{"x": 1}] * 9])
        for more, content in enumerate(files):
            name = put(f"{number}-{more}.jsonl", content)
            taken = as_training(want, name)
            assert check([name], want=want)[0].is_refused is not taken, content
            decided.add(taken)
    assert decided == {True, False}


@pytest.mark.parametrize(
    ("content", "want", "words"),
    [
        ([{"text": f"t{i}", "label": "a"} for i in range(9)], "labels", "the label 'a' alone"),
        ([{"text": "x", "label": "a"}, {"text": "y", "labels": ["b"]}], "labels", "one row has `label`, another `labels`"),
        ([{"prompt": "x", "responses": ["a", "b"], "scores": [1, 1]}], "comparisons", "two answers with different scores"),
    ],
)
def test_what_the_rows_of_a_file_must_be_together(put: Put, content: Any, want: Want, words: str) -> None:
    (report,) = check([put("a.jsonl", content)])
    assert report.want == want and report.is_refused and any(words in problem.message for problem in report.problems)
    assert not as_training(want, "a.jsonl")


def test_two_files_of_one_class_each_are_enough_together(put: Put) -> None:
    names = [put(f"{label}.jsonl", [{"text": f"{label}{i}", "label": label} for i in range(3)]) for label in "ab"]
    assert not any(report.is_refused for report in check(names))
    assert as_training("labels", *names)
    assert check(names[:1])[0].is_refused and not as_training("labels", names[0])


def test_lines_of_text_are_no_demonstrations(put: Put) -> None:
    name = put("a.txt", "one\ntwo\n")
    assert not check([name])[0].is_refused and check([name])[0].want == "prompts"
    assert check([name], want="demonstrations")[0].is_refused and not as_training("demonstrations", name)


def test_prompts_that_are_all_too_long_refuse_the_file(put: Put) -> None:
    def length(prompt: Any, answer: str | None) -> int:
        return len(prompt.text)

    name = put("a.jsonl", [{"prompt": "x" * 9}, {"prompt": "y" * 9}])
    (report,) = check([name], length=length, context=9)
    assert report.is_refused and "no prompt leaves room" in report.problems[0].message
    assert not check([name], length=length, context=10)[0].is_refused
    both = check([name, put("b.jsonl", [{"prompt": "short"}])], length=length, context=9)
    assert not any(report.is_refused for report in both)  # training has a prompt left


# Paths


def test_a_pattern_over_links_to_their_own_folder_ends(put: Put, tmp_path: Path) -> None:
    put("a.jsonl", rows(1, 0))
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "b.jsonl").write_text("x")
    (tmp_path / "in" / ".hidden").mkdir()
    (tmp_path / "in" / ".hidden" / "c.jsonl").write_text("x")
    for place, target in (("one", "."), ("in/two", ".."), ("in/deep/three", "../.."), ("kept", "in/deep")):
        (tmp_path / place).symlink_to(target, target_is_directory=True)
    from sawyer.records import expand

    # Each folder once, by whichever of its names comes first, and none of its files is lost.
    assert sorted(Path(name).name for name in expand("**/*.jsonl")) == ["a.jsonl", "b.jsonl"]
    assert [Path(name).name for name in expand(f"{tmp_path}/**/*.jsonl")] == ["a.jsonl", "b.jsonl"]
    assert [Path(name).name for name in expand("in/**/b.jsonl")] == ["b.jsonl"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("somebody/some-pairs", "load_dataset('somebody/some-pairs', split='train').to_parquet('some-pairs.parquet')"),
        ("https://example.org/datasets/me/x", "load_dataset('me/x', split='train')"),
        ("https://example.org/rows.jsonl", "download it"),
        ("there/rows.jsonl", "check the path"),
        ("/dev/null", "to a file first"),
    ],
)
def test_what_to_do_where_there_is_no_such_file(put: Put, path: str, words: str) -> None:
    put("a.jsonl", "")
    with pytest.raises(DataError) as refused:
        check([path])
    assert words in refused.value.todo


def test_more_than_memory_holds_is_refused_by_its_size(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    name, packed = put("a.jsonl", rows(400, 0)), put("b.jsonl.gz", rows(400, 0))
    assert len(read([name, packed], want="demonstrations").records) == 400
    monkeypatch.setattr("sawyer.records.data_files.memory_free", lambda: 40_000)
    for path, words in ((name, "holds 0.0 GB"), (packed, "unpacks to more than 0.0 GB")):
        with pytest.raises(DataError, match=words):
            read(path, want="demonstrations")
