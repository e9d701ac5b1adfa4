"""tools/check_names.py finds every kind of banned name, and lets what is allowed stand. Each case plants one file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tools.check_names import ROOT, Rules, check, room_of

RULES = Rules.read(ROOT / "tools" / "names.toml")
CODE = "src/sawyer/records/read.py"


def findings(root: Path, files: dict[str, str]) -> list[str]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [str(finding) for finding in check(root, ["src", "docs", "tests", "README.md", "CHANGELOG.md"], RULES)]


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        # Names that code binds: variables, parameters, attributes, loops, walrus, aliases, functions, classes, constants.
        (CODE, "found = 1\n", "1: found -> name the content"),
        (CODE, "def load(told): ...\n", "1: told -> summary"),
        (CODE, "def load():\n    x.asked = 1\n", "2: asked -> settings"),
        (CODE, "for place in x:\n    ...\n", "1: place -> device"),
        (CODE, "if own := x():\n    ...\n", "1: own -> user_function"),
        (CODE, "import torch as given\n", "1: given -> source"),
        (CODE, "def _opened(): ...\n", "1: _opened -> model"),
        (CODE, "class Judged: ...\n", "1: Judged -> JudgedBatch"),
        (CODE, "class _Room: ...\n", "1: _Room -> StaticCache"),
        (CODE, "Part = TypeVar('Part')\n", "1: Part -> Minibatch"),
        (CODE, "def stop_if_asked(): ...\n", "1: stop_if_asked -> requested"),
        (CODE, "rows_found = 1\n", "1: rows_found -> name the content"),
        ("src/sawyer/report/page.html.j2", "<p>as ever</p>\n", "1: as ever -> as usual"),
        (CODE, "SHOWN = 1\n", "1: SHOWN -> a participle alone"),
        (CODE, "scored = 1\n", "1: scored -> a participle alone"),
        (CODE, "fitting = 1\n", "1: fitting -> a participle alone"),
        (CODE, "def first(x): ...\n", "1: first -> on_rank_zero"),
        (CODE, "def overheard(x): ...\n", "1: overheard -> captured_states"),
        # Modules and what exists twice.
        ("src/sawyer/models/attend.py", "", "1: module attend -> models/fast/attention"),
        ("src/sawyer/text/judge.py", "", "1: module judge -> reward_model"),
        # Settings, metrics, events, commands.
        ("src/sawyer/config/schema.py", "class Rl:\n    clip: float = 0.2\n", "2: clip -> rl.clip_range"),
        (CODE, "x = config.rl.lam\n", "1: rl.lam -> rl.gae_lambda"),
        (CODE, "x = 'eos_share'\n", "1: eos_share -> eos_rate"),
        (CODE, "x = 'held_out_kl'\n", "1: held_out_kl -> eval_*"),
        (CODE, "journal.event('thinned')\n", "1: thinned -> event deduplicated"),
        ("tests/test_a.py", "x = 'rl.minibatches=2'\n", "1: rl.minibatches -> rl.num_minibatches"),
        ("tests/test_a.py", "x = Speaker()\n", "1: Speaker -> LanguageModel"),
        ("tests/test_a.py", "x = train.Learner\n", "1: Learner -> OptimizerStep"),
        ("docs/a.md", "See `Codec`.\n", "1: `Codec -> PromptEncoder"),
        ("docs/a.md", "Run `sawyer ablate`.\n", "1: sawyer ablate -> sawyer study losses"),
        ("docs/a.md", "Say `--grow 2`.\n", "1: --grow -> bench --steps"),
        ("docs/a.md", "Set `sft.held_out`.\n", "1: sft.held_out -> eval_fraction"),
        ("docs/a.md", "```yaml\nrl:\n  guards:\n    kl:\n      streak: 2\n```\n", "5: rl.guards.kl.streak -> patience"),
        ("src/sawyer/config/a.yaml", "reward:\n  # by: prompt\n", "2: reward.by -> reward.normalize_by"),
        ("docs/a.md", "`freeze: trunk`\n", "1: freeze: trunk -> freeze: all_but_head"),
        # Phrases, over a line's end too.
        ("README.md", "One process, as\never.\n", "1: as ever -> as usual"),
        ("CHANGELOG.md", "It is nobody's.\n", "1: nobody's -> say whose"),
        (CODE, '"""None\nof those."""\n', "1: None of those -> name the noun"),
        (CODE, "x = 1  # as\n# ever\n", "1: as ever -> as usual"),
        (CODE, "raise E('something unforeseen')\n", "1: something unforeseen -> unexpected error"),
    ],
)
def test_planted_names(tmp_path: Path, file: str, text: str, expected: str) -> None:
    messages = findings(tmp_path, {file: text})
    assert [m for m in messages if m.startswith(f"{file}:{expected}")], messages
    assert len(messages) == 1


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (CODE, "seed = padding = chosen = rejected = expected = missing = 1\n"),
        (CODE, "first = 1\ndef load(number): ...\n"),  # functions only
        (CODE, "opened_files = part = room = 1\n"),  # a participle with its noun; ordinary words in lower case
        (CODE, "x = library.found + library.place\n"),  # read, not bound
        (CODE, "x = config.rl.clip_range; rl.clip(1)\n"),
        (CODE, "held_out_rows = 1\n"),
        (CODE, "x = 'answers are kept'\n"),
        ("src/sawyer/models/base.py", "clip: float = 0.2\n"),  # a schema's field only
        ("src/sawyer/errors.py", "def raise_it(given): ...\n"),  # an exception of the table
        ("tests/test_a.py", '"""Opened here. Episodes end."""\n'),  # ordinary words
        (CODE, "x = config.reward.ensemble.by\n"),  # a setting of another section
        ("tests/test_a.py", "found = told = 1  # as ever\n"),  # tests: the interface's names only
        ("docs/a.md", "```yaml\nrl:\n  clip_range: 0.2\nother:\n  clip: 1\n```\n"),
        ("docs/a.md", "Run `sawyer check-loss`, `--own-file` and `my--own`.\n"),
    ],
)
def test_names_that_may_stand(tmp_path: Path, file: str, text: str) -> None:
    assert findings(tmp_path, {file: text}) == []


def test_a_module_or_class_that_the_package_has_twice(tmp_path: Path) -> None:
    messages = findings(
        tmp_path, {"src/sawyer/text/rows.py": "class Row: ...\n", "src/sawyer/records/rows.py": "class Row: ...\n"}
    )
    assert messages == [
        "src/sawyer/records/rows.py:1: class Row -> one class a name; also src/sawyer/text/rows.py:1",
        "src/sawyer/records/rows.py:1: module rows -> one module a name; also src/sawyer/text/rows.py:1",
    ]


def test_a_private_helper_that_three_files_have(tmp_path: Path) -> None:
    files = {f"src/sawyer/text/{name}.py": "def _check(x): ...\n" for name in ("a", "b")}
    assert findings(tmp_path, files) == []
    assert len(findings(tmp_path, {**files, "src/sawyer/maths/c.py": "def _check(x): ...\n"})) == 3


def test_rooms() -> None:
    assert room_of("src/sawyer/stages/rl/guards.py") == "src/sawyer/stages/rl"
    assert room_of("src/sawyer/models/fast/packing.py") == "src/sawyer/models"
    assert room_of("src/sawyer/chat.py") == "src/sawyer/chat.py"
    assert room_of("docs/a.md") == "docs"


def test_exit_code_and_count() -> None:
    """The command fails on a file with a finding, and passes on its own source."""
    command = [sys.executable, str(ROOT / "tools" / "check_names.py")]
    clean = subprocess.run([*command, "tools/check_names.py"], cwd=ROOT, capture_output=True, text=True)
    assert clean.returncode == 0 and "0 names to change" in clean.stderr, clean.stdout
    counts = subprocess.run([*command, "--count", "tools"], cwd=ROOT, capture_output=True, text=True)
    assert counts.returncode == ("0 names to change" not in counts.stderr)
    assert subprocess.run([*command, "not/there"], cwd=ROOT, capture_output=True).returncode == 2
