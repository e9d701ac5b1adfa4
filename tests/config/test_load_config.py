"""Reading a run's file: what is taken, and that whatever is not is refused in a user's words."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sawyer.config import Config, Reward, Rl, Sft, Start, demo_config, load_config, parse_config, start_of
from sawyer.config.error_messages import setting_fields
from sawyer.config.former_names import FORMER_GUARDS, FORMER_SETTINGS, FORMER_VALUES
from sawyer.config.sections import Classify
from sawyer.errors import ConfigError

BASE = "model: gpt2\nsft: {data: [a.json]}\n"
WITH_RL = BASE + "reward: {data: [b.json]}\nrl: {prompts: [c.jsonl]}\n"


@pytest.fixture
def asked(tmp_path: Path) -> Any:
    """Load a file with this text and these overrides."""

    def load_text(text: str, *overrides: str) -> Config:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides)

    return load_text


def refusal(asked: Any, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        asked(text, *overrides)
    return str(caught.value)


# What is taken.


def test_the_smallest_file_and_its_defaults(asked: Any) -> None:
    config = asked(BASE)
    assert (config.model, config.base, config.seed, config.template) == ("gpt2", None, 0, "auto")
    assert config.sft is not None and config.sft.data == ["a.json"] and config.sft.batch_size == 32
    assert config.reward is None and config.rl is None


def test_a_tilde_is_the_home_folder_in_every_path(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("USERPROFILE", "/home/ada")
    text = WITH_RL.replace("gpt2", "~/models/gpt2").replace("[", "[~/data/") + "out: ~/runs/a\ntemplate: ~/t.jinja\n"
    config = asked(
        text + "compare: {prompts: [q.jsonl, ~/q.jsonl], columns: {prompt: ~/name}}\n", "collect.prompts=[~/p.jsonl]"
    )
    assert (config.out, config.model) == ("/home/ada/runs/a", "/home/ada/models/gpt2")
    assert config.template == "/home/ada/t.jinja"
    assert config.sft and config.reward and config.rl and config.collect and config.compare
    assert config.sft.data == ["/home/ada/data/a.json"] and config.reward.data == ["/home/ada/data/b.json"]
    assert config.rl.prompts == ["/home/ada/data/c.jsonl"] and config.collect.prompts == ["/home/ada/p.jsonl"]
    assert config.compare.prompts == ["q.jsonl", "/home/ada/q.jsonl"]
    assert config.compare.columns == {"prompt": "~/name"}, "a column is no path"


def test_a_tilde_inside_a_name_is_a_tilde(asked: Any) -> None:
    assert asked(BASE + "out: runs/a~b\n").out == "runs/a~b"


def test_the_example_is_a_config() -> None:
    config = load_config(Path(__file__).parents[2] / "examples" / "real.yaml")
    assert config.base and config.sft and config.reward and config.rl and config.compare
    assert config.model is None and config.base.text == ["data/books/*.md"]


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("1e-3", 1e-3),
        ("5.0e-4", 5e-4),
        ("2E-5", 2e-5),
        ("1e+1", 10.0),
        (".5e-1", 0.05),
        ("3.e-2", 0.03),
        ("0.25", 0.25),
        ("1", 1.0),
    ],
)
def test_every_way_to_write_a_number_is_a_number(asked: Any, written: str, number: float) -> None:
    assert asked(f"model: gpt2\nsft: {{data: [a], learning_rate: {written}}}\n").sft.learning_rate == number
    assert asked(BASE, f"sft.learning_rate={written}").sft.learning_rate == number


@pytest.mark.parametrize("written", ["e3", "1e", "1e3x", "v1e3", "1-e3"])
def test_what_only_looks_like_a_number_stays_text(asked: Any, written: str) -> None:
    assert asked(BASE, f"out={written}").out == written


def test_a_date_is_text(asked: Any) -> None:
    assert asked(BASE + "out: 2024-01-31\n").out == "2024-01-31"


def test_large_numbers_may_be_grouped(asked: Any) -> None:
    assert asked("base: {text: [a.txt], tokens: 2_000_000}\n").base.tokens == 2_000_000


def test_a_section_without_settings_is_one_of_defaults_and_null_leaves_it_out(asked: Any) -> None:
    assert asked(BASE + "compare:\n").compare is not None
    assert asked(BASE + "compare: {}\n").compare is not None
    assert asked(BASE + "compare: null\n").compare is None
    assert asked(BASE + "compare: ~\n").compare is None
    assert asked(WITH_RL.replace("[c.jsonl]", "[c.jsonl], kl: ")).rl.kl.coefficient == 0.05


@pytest.mark.parametrize("text", ["\ufeff" + BASE, BASE.replace("\n", "\r\n"), "---\n" + BASE, "# a comment\n" + BASE])
def test_marks_line_ends_and_comments_do_not_matter(asked: Any, text: str) -> None:
    assert asked(text) == asked(BASE)


def test_an_anchor_may_be_used_again(asked: Any) -> None:
    config = asked("model: gpt2\nsft: &s {data: [a], epochs: 2}\nreward: {<<: *s, epochs: 1}\n".replace("[a]", "&d [a]"))
    assert config.reward.data == config.sft.data and (config.sft.epochs, config.reward.epochs) == (2, 1)


# Overrides.


def test_overrides_replace_add_and_remove(asked: Any) -> None:
    config = asked(WITH_RL, "rl.kl.coefficient=0.2", "sft.data=[x.json, y.json]", "reward.columns.query=prompt", "out=a=b")
    assert config.rl.kl.coefficient == 0.2 and config.sft.data == ["x.json", "y.json"]
    assert config.reward.columns == {"query": "prompt"} and config.out == "a=b"
    assert asked(WITH_RL, "rl=null").rl is None
    assert asked(BASE, "compare={}").compare is not None
    assert asked(BASE, "sft.epochs=2", "sft.epochs=3").sft.epochs == 3  # the last one counts


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sft.epochs", "expected: key=value"),
        ("=3", "expected: key=value"),
        ("sft..epochs=3", "expected: key=value"),
        ("sft.epochs=", "gives no value"),
        ("model=", "to leave it out: model=null"),
        ("seed=#3", "gives no value"),
        ("sft.data=[a", "this is not YAML"),
        ("sft.data.first=a", "`data` is a value, not a section"),
        ("seed.x=1", "`seed` is a value, not a section"),
        ("sft.epoch=1", "did you mean `sft.epochs`?"),
        ("kl.coefficient=1", "did you mean `rl.kl`?"),
        ("sft.max_length=9", "did you mean `sft.max_tokens`?"),
        ("rl.max_prompt_length=9", "did you mean `rl.max_prompt_tokens`?"),
        ("sft.data=b.json", "a list, such as [b.json]"),
        ("sft.epochs=yes", "`sft.epochs` is true"),
        ("seed=null", "`seed` is null; expected: a whole number"),
        ("out=&a [*a]", "recursive"),
        ("out=*a", "undefined alias"),
    ],
)
def test_overrides_that_are_refused(asked: Any, override: str, words: str) -> None:
    assert words in refusal(asked, BASE + "seed: 1\n", override)


NEW_NAMES = {
    **{f"rl.{old}": f"rl.{new}" for old, new in FORMER_SETTINGS.items() if new in Rl.model_fields},
    **{
        f"{section}.{old}": f"{section}.{new}"
        for section, kind in (("sft", Sft), ("reward", Reward), ("classify", Classify))
        for old, new in FORMER_SETTINGS.items()
        if new in kind.model_fields
    },
    "rl.guards.length.streak": "rl.guards.length.patience",
    **{f"rl.guards.{old}.action": f"rl.guards.{new}" for old, new in FORMER_GUARDS.items()},
}


def test_every_old_name_of_a_setting_is_of_some_section() -> None:
    assert {name.rpartition(".")[2] for name in NEW_NAMES} == {*FORMER_SETTINGS, "action"}


@pytest.mark.parametrize("old", NEW_NAMES)
def test_an_old_name_is_answered_by_the_new_one(asked: Any, old: str) -> None:
    """In an override, and in the file as well."""
    told = f"did you mean `{NEW_NAMES[old]}`?"
    assert told in refusal(asked, BASE, f"{old}=1")
    tree: Any = 1
    for name in reversed(old.split(".")):
        tree = {name: tree}
    assert told in refusal(asked, "model: gpt2\n" + yaml.safe_dump(tree))


@pytest.mark.parametrize(
    ("override", "new"),
    [
        ("classify.freeze=trunk", "all_but_head"),
        ("reward.freeze=trunk", "all_but_head"),
        ("reward.loss=plain", "bradley_terry"),
        ("reward.ensemble.reward=cautious", "mean_minus_variance"),
        ("rl.value_init=frozen", "ridge"),
    ],
)
def test_an_old_value_is_answered_by_the_new_one(asked: Any, override: str, new: str) -> None:
    told = refusal(asked, BASE, override)
    assert told.count(f"did you mean `{new}`?") == 1 and FORMER_VALUES[override.partition("=")[2]] == new


def test_a_limit_of_tokens_that_the_algorithm_has_no_use_for_is_answered_by_the_one_it_has(asked: Any) -> None:
    rl = BASE + "reward: {data: [b.json]}\nrl: {prompts: [c.jsonl], algorithm: %s, %s: 64}\n"
    assert "did you mean `rl.max_prompt_tokens`?" in refusal(asked, rl % ("ppo", "max_tokens"))
    assert "did you mean `rl.max_tokens`?" in refusal(asked, rl % ("dpo", "max_prompt_tokens"))


@pytest.mark.parametrize(
    ("override", "mend"),
    [
        ("sft.epochs=two", "override 'sft.epochs=two'"),
        ("sft={data: [a], epochs: two}", "override 'sft={data: [a], epochs: two}'"),
        ("rl.episodes=100", "override 'rl.episodes=100'"),
        ("rl.batch_size=33", "override 'rl.batch_size=33' or "),  # with the file's minibatches: either may be wrong
    ],
)
def test_a_wrong_override_is_what_is_to_be_mended(asked: Any, override: str, mend: str) -> None:
    said = refusal(asked, WITH_RL, override).partition("what to do: mend ")[2]
    assert said.startswith(mend) and (".yaml" in said) == mend.endswith("or ")


def test_a_wrong_file_is_to_be_mended_whatever_else_is_overridden(asked: Any, tmp_path: Path) -> None:
    assert refusal(asked, WITH_RL + "seed: two\n", "sft.epochs=2").endswith(f"mend {tmp_path / 'run.yaml'}")


# Files that cannot be read.


def test_no_such_file(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.yaml", tmp_path / "no" / "where.yaml"):
        with pytest.raises(ConfigError, match=r"there is no file .*where\.yaml[\s\S]*sawyer init"):
            load_config(path)
    (tmp_path / "file").write_text(BASE)
    with pytest.raises(ConfigError, match="there is no file"):
        load_config(tmp_path / "file" / "run.yaml")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have(name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read|is not a path"):
        load_config(name)


def test_not_allowed_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load_config(tmp_path / "run.yaml")


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"model: gpt2\nout: \xff\xfe\n")
    with pytest.raises(ConfigError, match=r"not text in UTF-8 \(byte 17\)"):
        load_config(path)
    path.write_bytes(b"\x00\x01\x02")
    with pytest.raises(ConfigError, match="this is not YAML"):
        load_config(path)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "null\n", "~"])
def test_an_empty_file(asked: Any, text: str) -> None:
    assert "is empty" in refusal(asked, text) and "sawyer init" in refusal(asked, text)


@pytest.mark.parametrize(("text", "words"), [("- a\n- b\n", "holds a list"), ("gpt2\n", "holds 'gpt2'"), ("3\n", "holds 3")])
def test_not_names_with_values(asked: Any, text: str, words: str) -> None:
    assert words in refusal(asked, text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("model: gpt2\nsft: {data: [a}\n", 2),
        ("model: gpt2\n\tsft: x\n", 2),
        ("model: gpt2: x\n", 1),
        ("model: gpt2\nout: 'x\n", 3),
        ("model: a\n---\nmodel: b\n", 2),
        (BASE + "out: !!python/object:os.system x\n", 3),
        (BASE + "out: &a [*a]\n", 3),
        ("&a\nmodel: *a\n", 1),
        (BASE + "<<: 3\n", 3),
        ("!!map [a]\n", 1),
    ],
)
def test_bad_yaml_names_the_line(asked: Any, text: str, line: int) -> None:
    said = refusal(asked, text)
    assert f"run.yaml, line {line}: this is not YAML: " in said


@pytest.mark.parametrize("text", ["a: " + "[" * 5000, BASE + "seed: !!bool x", BASE + "seed: !!int x"])
def test_values_that_yaml_cannot_hold(asked: Any, text: str) -> None:
    assert "there is a value that YAML cannot hold" in refusal(asked, text)


@pytest.mark.parametrize("form", ["[{0}, {0}]", "{{x: {0}, y: {0}}}", "{{<<: [{0}, {0}]}}"])
def test_aliases_that_double_are_refused_at_once(asked: Any, form: str) -> None:
    first = "{x: 1}" if "<<" in form else "1"
    lines = [f"a0: &a0 {first}", *(f"a{i}: &a{i} " + form.format(f"*a{i - 1}") for i in range(1, 60))]
    assert "stand for more than 100,000 values" in refusal(asked, "\n".join(lines))
    override = "sft.data=[" + ", ".join([f"&b0 {first}", *(f"&b{i} " + form.format(f"*b{i - 1}") for i in range(1, 60))]) + "]"
    assert "stand for more than 100,000 values" in refusal(asked, BASE, override)


def test_an_alias_may_stand_for_a_value(asked: Any) -> None:
    config = asked("model: gpt2\nsft: {data: &files [a.json]}\nreward: {data: *files}\n")
    assert config.reward.data == config.sft.data == ["a.json"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BASE + "model: other\n", "line 3: `model` stands there twice"),
        ("model: gpt2\nsft:\n  data: [a]\n  epochs: 1\n  data: [b]\n", "line 5: `data` stands there twice"),
        ("model: gpt2\n? [a]\n: b\n", "line 2: ['a'] stands where a name should"),
    ],
)
def test_no_name_twice_and_every_name_a_name(asked: Any, text: str, words: str) -> None:
    assert words in refusal(asked, text)


# Names and values that are not right.


@pytest.mark.parametrize(
    ("text", "name", "guess"),
    [
        (BASE + "sead: 1\n", "sead", "seed"),
        (BASE + "rewards: {}\n", "rewards", "reward"),
        ("model: gpt2\nsft: {data: [a], learning_rat: 1}\n", "sft.learning_rat", "sft.learning_rate"),
        ("model: gpt2\nsft: {data: [a], prompts: [b]}\n", "sft.prompts", "collect.prompts"),
        (BASE + "episodes: 5\n", "episodes", "rl.episodes"),
        (WITH_RL.replace("[c.jsonl]", "[c], kl: {coeficient: 1}"), "rl.kl.coeficient", "rl.kl.coefficient"),
        (WITH_RL.replace("[c.jsonl]", "[c], coefficient: 1"), "rl.coefficient", "rl.kl.coefficient"),
        (WITH_RL.replace("[c.jsonl]", "[c], num_episodes: 1"), "rl.num_episodes", "rl.episodes"),
        (BASE + "zzzzzz: 1\n", "zzzzzz", ""),
        (BASE + "1: 1\n", "1", ""),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(asked: Any, text: str, name: str, guess: str) -> None:
    said = refusal(asked, text)
    assert f"unknown setting `{name}`" in said and "expected: one of: " in said
    assert (f"did you mean `{guess}`?" in said) if guess else ("did you mean" not in said)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=yes", "`seed` is true (so YAML reads true, yes and on; false, no and off); expected: a whole number"),
        ("save_every_seconds=off", "`save_every_seconds` is false"),
        ("sft=on", "`sft` is true"),
        ("sft.data=[no]", "`sft.data.0` is false"),
        ("sft.columns={a: yes}", "`sft.columns.a` is true"),
        ("seed=abc", "`seed` is 'abc'; expected: a whole number"),
        ("seed=1.5", "`seed` is 1.5; expected: a whole number"),
        ("seed=-1", "`seed` is -1; expected: at least 0"),
        ("seed=4294967296", "expected: less than 4294967296"),
        ("model=7", "`model` is 7; expected: text: put it in quotes"),
        ("model=''", "`model` is ''; expected: text that is not empty"),
        ("out=''", "expected: text that is not empty"),
        ("precision=fp16", "`precision` is 'fp16'; expected: auto or fp32 or bf16"),
        ("sft=3", "`sft` is 3; expected: a section"),
        ("sft=[a]", "`sft` is a list; expected: a section"),
        ("sft.data=[]", "expected: a list with at least one entry"),
        ("sft.data={a: b}", "`sft.data` is a section; expected: a list"),
        ("sft.columns=[a]", "expected: names with values"),
        ("sft.epochs=0", "`sft.epochs` is 0; expected: more than 0"),
        ("sft.epochs=.inf", "expected: a finite number"),
        ("sft.epochs=.nan", "expected: a finite number"),
        ("sft.eval_fraction=1", "expected: less than 1"),
        (
            "reward.loss=huber",
            "`reward.loss` is 'huber'; expected: squared or bradley_terry or margin or scaled or listwise or",
        ),
        ("reward.loss='my loss:f'", "or your own as module:function"),
        ("reward.loss='loss.py:f g'", "or your own as module:function"),
        ("reward.normalize_by=answer", "`reward.normalize_by` is 'answer'; expected: pair or prompt"),
        ("collect.limit=some", "`collect.limit` is 'some'; expected: a whole number"),
        ("sft={epochs: 1}", "`sft.data` is missing; it has no default"),
        ("world.rater=kind", "expected: honest or length_lover or lazy or flipper"),
    ],
)
def test_wrong_values_are_told_with_what_is_right(asked: Any, override: str, words: str) -> None:
    assert words in refusal(asked, BASE, override)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"seed: {'1' * 5000}", "is too large"),
        (f"seed: 0x{'f' * 6000}", "line 1: the number 0xf"),
        (f"model: x\nsft: {{data: [0b{'1' * 20000}]}}", "line 2: the number 0b1"),
        ('model: "a\\0b"', "line 1: the text 'a\\x00b' holds the character NUL"),
        ("model: a\0b", "unacceptable character #x0000"),
        (f"{'x' * 900}: 1", "unknown setting `xxx"),
        (f"model: x\nsft: {{data: [x], epochs: {'x' * 5000}}}", "`sft.epochs` is 'xxx"),
    ],
)
def test_values_that_no_file_holds_by_right(asked: Any, text: str, words: str) -> None:
    said = refusal(asked, text)
    assert words in said and len(said) < 1000, "no more of it than can be read"


def test_a_default_that_hangs_on_a_wrong_setting_is_not_told(asked: Any) -> None:
    """The defaults of rl.group_size and rl.epochs come from the algorithm, that of lora.alpha from the rank."""
    said = refusal(asked, WITH_RL, "rl.algorithm=foo", "lora={rank: x}")
    assert "`rl.algorithm` is 'foo'" in said and "`lora.rank` is 'x'" in said
    assert "Undefined" not in said and "rl.group_size" not in said and "lora.alpha" not in said


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rl.guards.kll.action=off", "unknown name `rl.guards.kll`"),
        ("rl.kll.target=3", "unknown setting `rl.kll`"),
        ("rll.kl.target=3", "unknown setting `rll`"),
    ],
)
def test_an_override_inside_an_unknown_name_is_at_fault(asked: Any, override: str, words: str) -> None:
    """The file does not have the name: the override made it."""
    assert f"override '{override}': {words}" in refusal(asked, WITH_RL, "seed=1", override)


def test_all_that_is_wrong_is_told_at_once(asked: Any) -> None:
    said = refusal(asked, BASE, "seed=-1", "precision=fp16", "sft.epochs=x")
    assert all(f"`{name}`" in said for name in ("seed", "precision", "sft.epochs"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rl.num_minibatches=3", "rl.num_minibatches: 3 do not divide a batch of 64 answers"),
        ("rl.episodes=1000", "rl.episodes: 1000 are not a whole number of batches of 64; 1024 would be"),
        ("rl.episodes=10", "10 are not a whole number of batches of 64; 64 would be"),
        ("base={text: [a], width: 250}", "base.heads: 4 heads do not divide a width of 250"),
        ("base={text: [a], window: 600}", "base.window: 600 tokens are more than the context of 512"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_never_floored(asked: Any, override: str, words: str) -> None:
    assert words in refusal(asked, WITH_RL, override)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sft: {data: [a]}\n", "neither `model` nor `base`"),
        (BASE + "base: {text: [a.txt]}\n", "both `model` and `base`"),
        ("reward: {data: [a]}\n", "neither `model` nor `base`, and reward starts from one"),
        ("reward: {data: [a], model: gpt2}\ncompare:\n", "neither `model` nor `base`, and compare starts from one"),
        (BASE + "rl: {prompts: [a]}\n", "rl.rewards: none are named and the file has no section `reward:`"),
        (
            BASE + "rl: {prompts: [a], rewards: [{name: a, model: stage}]}\n",
            "a component is `model: stage`, the run's",
        ),
        (BASE + "rl: {algorithm: dpo, prompts: [a]}\n", "rl.data: dpo learns from judged pairs, and the file names none"),
        (BASE + "rl: {algorithm: grpo, rewards: [{name: a, function: 'm:f'}]}\n", "`rl.prompts` is missing; it has no default"),
        (BASE + "rl: {algorithm: dpo}\n", "`rl.prompts` or `rl.data`, the judged pairs, is missing"),
        (BASE + "rl: {prompts: [a], data: [b]}\n", "rl.data: it means nothing to ppo, only to dpo"),
        ("compare: {models: {rl: a}}\n", "compare.models: `rl` is no name for a model"),
        ("compare: {models: {Mine: a}}\n", "compare.models: `Mine` is no name for a model"),
        ("compare: {models: {mine: ''}}\n", "`compare.models.mine` is ''; expected: text that is not empty"),
        (BASE + "reward:\n", "reward.data: no file is named and no `collect:` section"),
    ],
)
def test_what_the_parts_need_of_each_other(asked: Any, text: str, words: str) -> None:
    assert words in refusal(asked, text)


@pytest.mark.parametrize(
    ("text", "stage", "starts"),
    [
        ("reward: {data: [a], model: b}\n", "reward", Start(source="b")),
        ("model: m\nreward: {data: [a]}\n", "reward", Start(source="m", template="auto")),
        (BASE + "reward: {data: [a]}\n", "reward", Start(stage="sft")),
        ("base: {text: [a]}\ncollect: {prompts: [a]}\n", "collect", Start(stage="base", template="auto")),
        ("model: m\nrl: {prompts: [a], rewards: [{name: a, model: r}]}\n", "rl", Start(source="m", template="auto")),
        ("model: m\nrl: {algorithm: dpo, data: [a]}\n", "rl", Start(source="m", template="auto")),
        (BASE + "rl: {algorithm: dpo, data: [a]}\n", "rl", Start(stage="sft")),
    ],
)
def test_any_stage_may_be_the_first(asked: Any, text: str, stage: str, starts: Start) -> None:
    assert start_of(asked(text), stage) == starts


def test_errors_name_the_file_and_never_pydantic(asked: Any) -> None:
    for text in (BASE + "seed: x\n", "sft: {data: [a]}\n", BASE + "sead: 1\n", BASE + "out: [\n"):
        said = refusal(asked, text)
        assert "run.yaml" in said and "pydantic" not in said and "Input should" not in said and "[type=" not in said


# The rest of the room.


def test_a_config_written_out_and_read_again_is_the_same(asked: Any) -> None:
    config = asked(WITH_RL, "compare={}", "collect.prompts=[p]")
    assert parse_config(config.model_dump(mode="json")) == config


def test_a_config_cannot_be_changed(asked: Any) -> None:
    config = asked(BASE)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3


def test_the_demo_is_a_valid_config(tmp_path: Path) -> None:
    config = demo_config(str(tmp_path / "d"), 7, "lazy")
    assert (config.seed, config.world.rater if config.world else "") == (7, "lazy")
    assert config.rl is not None and config.rl.prompts == [str(tmp_path / "d" / "data" / "prompts.jsonl")]
    with pytest.raises(ConfigError, match="expected: honest or length_lover"):
        demo_config("d", 7, "kind")


def test_every_setting_is_described() -> None:
    table = list(setting_fields())
    names = [name for name, _, _ in table]
    assert len(set(names)) == len(names) and {"model", "rl.kl.coefficient", "sft.data"} <= set(names)
    assert all(description for _, _, description in table)
    assert dict((name, default) for name, default, _ in table)["rl.kl"] == "a section"


# Whatever is thrown at it, a user sees a ConfigError.

SIGNS = "abx:{}[]&*!|>-?#%@`'\",\n\t ~<=\ufeff\x00\x85é"
TAGS = "set omap bool int float null binary timestamp map seq"
WORDS = (
    "\n  ",
    ": ",
    "- ",
    "&a ",
    "*a",
    "<<: *a",
    "---\n",
    "model",
    "sft",
    "data",
    "rl",
    "kl",
    "null",
    "yes",
    "1e-3",
    ".inf",
    "0x",
)
PIECES = st.sampled_from([*SIGNS, *WORDS, *(f"!!{tag} " for tag in TAGS.split())])


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.lists(PIECES, max_size=25).map("".join), at=st.integers(0, len(WITH_RL)))
def test_noise_is_taken_or_refused_never_worse(asked: Any, noise: str, at: int) -> None:
    for attempt in (
        lambda: asked(WITH_RL[:at] + noise + WITH_RL[at:]),
        lambda: asked(BASE, f"out={noise}"),
        lambda: asked(BASE, noise),
    ):
        try:
            assert isinstance(attempt(), Config)
        except ConfigError as error:
            assert str(error) and "Traceback" not in str(error)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, derandomize=True)
@given(name=st.sampled_from([name for name, _, _ in setting_fields()]), value=VALUES)
def test_any_value_for_any_setting(name: str, value: Any) -> None:
    tree: dict[str, Any] = {"model": "gpt2", "sft": {"data": ["a"]}, "reward": {"data": ["b"]}, "rl": {"prompts": ["c"]}}
    *sections, last = name.split(".")
    here = tree
    for section in sections:
        here = here.setdefault(section, {})
    here[last] = value
    with contextlib.suppress(ConfigError):
        parse_config(tree)


def test_a_home_is_written_out_wherever_a_path_is_named(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    config = asked("compare: {models: {mine: ~/m, theirs: owner/name}, reward: ~/r}\n")
    assert config.compare.models == {"mine": "/home/somebody/m", "theirs": "owner/name"}
    assert config.compare.reward == "/home/somebody/r"


def test_a_number_of_thousands_of_digits_is_told_as_one(asked: Any) -> None:
    for digits in ("9" * 5000, "0x" + "f" * 5000):
        assert "is too large" in refusal(asked, f"{BASE}seed: {digits}\n")
        assert "is too large" in refusal(asked, BASE, f"seed={digits}")


@pytest.mark.parametrize(("text", "told"), [("true", True), ("false", False), ("yes", True)])
def test_a_setting_that_is_true_or_false(tmp_path: Path, text: str, told: bool) -> None:
    (tmp_path / "c.yaml").write_text(f"model: gpt2\ntrust_remote_code: {text}\nsft: {{data: [a.jsonl]}}\n")
    assert load_config(tmp_path / "c.yaml").trust_remote_code is told
    (tmp_path / "c.yaml").write_text("model: gpt2\ntrust_remote_code: perhaps\nsft: {data: [a.jsonl]}\n")
    with pytest.raises(ConfigError, match=r"`trust_remote_code` is 'perhaps'; expected: true or false"):
        load_config(tmp_path / "c.yaml")
