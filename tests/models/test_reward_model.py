"""Encoders read pairs: ids, scores, padding, truncation, all against plain transformers fed the pair in the plain way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from encoders import BUILD, CONTEXT, noisy, tokenizer_of, write

from sawyer.errors import ModelError
from sawyer.models import Member, RewardScorer, new_reward_model, save_model, sequence_logits
from sawyer.models.forward import is_causal
from sawyer.models.load import load_tokenizer
from sawyer.models.reward_model import load_reward_model
from sawyer.records import Message, Prompt, prompt_of
from sawyer.text import TextPairEncoder, conversation, pad_right

ENCODERS = list(BUILD)
PROMPTS = ["what is the opposite of up ?", "where ?", "is a question a question ?", ""]
ANSWERS = ["down .", "the opposite of up is down . yes", "no", ""]
CHAT = Prompt(
    messages=(
        Message(role="system", content="be brief"),
        Message(role="user", content="what is up ?"),
        Message(role="assistant", content="down"),
        Message(role="user", content="where ?"),
    )
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = write(tmp_path_factory.mktemp(name), name)
        return made[name]

    return folder


def plain_scores(folder: Path, firsts: list[str], seconds: list[str]) -> list[float]:
    """As anybody would with transformers: all pairs in one padded batch."""
    model = hf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(firsts, seconds, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return [float(score) for score in model(**inputs).logits[:, 0]]


def saved(folder: Path, source: Path) -> Path:
    judge = new_reward_model(source, seed=3)
    noisy(judge.model)
    save_model(folder, judge.model, judge.tokenizer)
    return folder


@pytest.mark.parametrize("name", ENCODERS)
def test_plain_transformers_gives_the_same_scores(source: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path, source(name))
    scorer = RewardScorer.load(folder)
    found = scorer([prompt_of(text) for text in PROMPTS], ANSWERS)
    expected = plain_scores(folder, PROMPTS, ANSWERS)
    assert found == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 3) for score in found}) == 4
    # The comparison can fail: the two texts in one, or the other way round, are scored otherwise.
    joined = plain_scores(folder, [f"{p} {a}" for p, a in zip(PROMPTS, ANSWERS, strict=True)], [""] * 4)
    assert max(abs(a - b) for a, b in zip(found, joined, strict=True)) > 1e-2
    assert max(abs(a - b) for a, b in zip(found, plain_scores(folder, ANSWERS, PROMPTS), strict=True)) > 1e-2


@pytest.mark.parametrize("name", ENCODERS)
def test_a_batch_scores_as_each_alone(source: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    scorer = RewardScorer.load(saved(tmp_path, source(name)))
    prompts = [prompt_of(text) for text in PROMPTS]
    alone = [scorer([prompt], [answer])[0] for prompt, answer in zip(prompts, ANSWERS, strict=True)]
    assert scorer(prompts, ANSWERS) == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_rows_are_the_tokenizer_s_pairs(source: Callable[[str], Path], name: str) -> None:
    prompt_encoder = new_reward_model(source(name), seed=0).prompt_encoder
    assert isinstance(prompt_encoder, TextPairEncoder)
    ids = tokenizer_of(name).get_vocab()
    row = prompt_encoder.answer(prompt_of("where ?"), "up .")
    first, second = [ids["where"], ids["?"]], [ids["up"], ids["."]]
    if name == "roberta":
        assert row.ids == (0, *first, 2, 2, *second, 2) and row.prompt_length == 5
    else:
        assert row.ids == (1, *first, 2, *second, 2) and row.prompt_length == 4
    assert row.types == ((0, 0, 0, 0, 1, 1, 1) if name in ("bert", "deberta_typed") else ())
    assert sum(row.loss_mask) == 3 and row.loss_mask[-3:] == (True, True, True)
    assert any(prompt_encoder.answer(prompt_of("where ?"), "").loss_mask)
    assert (pad_right([row, prompt_encoder.answer(prompt_of(""), "")], prompt_encoder.pad_id).types is None) is (not row.types)


def test_types_reach_the_model(source: Callable[[str], Path]) -> None:
    judge = new_reward_model(source("bert"), seed=0)
    noisy(judge.model)
    batch = pad_right([judge.prompt_encoder.answer(prompt_of("where ?"), "up .")], judge.prompt_encoder.pad_id)
    assert batch.types is not None
    other = type(batch)(
        ids=batch.ids, mask=batch.mask, positions=batch.positions, loss_mask=batch.loss_mask, types=1 - batch.types
    )
    assert not torch.allclose(sequence_logits(judge.model, batch)[:, 0], sequence_logits(judge.model, other)[:, 0], atol=1e-3)


@pytest.mark.parametrize("name", ENCODERS)
def test_long_pairs_are_cut_as_transformers_cuts_them_and_counted(
    source: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = saved(tmp_path, source(name))
    scorer = RewardScorer.load(folder)
    assert scorer.prompt_encoder.context == CONTEXT
    firsts = ["word " * 30, "word " * 30, "where ?", "where ?"]
    seconds = ["up", "up " * 30, "down " * 40, "down"]
    rows = [scorer.prompt_encoder.answer(prompt_of(a), b) for a, b in zip(firsts, seconds, strict=True)]
    assert [row.cut for row in rows] == [True, True, True, False]
    assert [len(row.ids) for row in rows[:3]] == [CONTEXT] * 3
    assert sum(rows[0].loss_mask) == 2  # the short response is whole
    assert scorer([prompt_of(a) for a in firsts], seconds) == pytest.approx(plain_scores(folder, firsts, seconds), abs=1e-5)
    assert scorer.cut == 3


def test_several_turns_are_one_readable_text(source: Callable[[str], Path], tmp_path: Path) -> None:
    text = "System: be brief\nUser: what is up ?\nAssistant: down\nUser: where ?"
    assert conversation(CHAT) == text
    assert conversation(prompt_of("where ?")) == "where ?"
    folder = saved(tmp_path, source("bert"))
    assert RewardScorer.load(folder)([CHAT], ["up"]) == pytest.approx(plain_scores(folder, [text], ["up"]), abs=1e-5)


def test_special_tokens_in_a_text_end_nothing(source: Callable[[str], Path]) -> None:
    prompt_encoder = new_reward_model(source("bert"), seed=0).prompt_encoder
    separators = prompt_encoder.answer(prompt_of("where [SEP] up ?"), "no [SEP] yes").ids.count(2)
    assert separators == 2


@pytest.mark.parametrize("name", [*ENCODERS, "gpt2"])
def test_the_new_head_begins_small(source: Callable[[str], Path], make: Callable[[str], Path], name: str) -> None:
    """N(0, 1/17) on a width of 16, for an encoder's last layer as for a decoder's."""
    folder = make(name) if name == "gpt2" else source(name)
    model: Any = new_reward_model(folder, seed=1, heads=400).model
    head = {"gpt2": lambda: model.score, "roberta": lambda: model.classifier.out_proj}.get(name, lambda: model.classifier)()
    assert float(head.weight.detach().square().mean()) * 17**2 == pytest.approx(1, abs=4 * (2 / 6400) ** 0.5)
    assert head.bias is None or not head.bias.any()


def test_which_networks_are_causal(source: Callable[[str], Path], make: Callable[[str], Path]) -> None:
    assert not any(is_causal(new_reward_model(source(name), seed=0).model) for name in ENCODERS)
    assert all(is_causal(new_reward_model(make(name), seed=0).model) for name in ("gpt2", "llama", "opt", "gemma2"))
    untrained = hf.AutoModelForSequenceClassification.from_config(BUILD["bert"]()).eval()
    assert not is_causal(untrained)


def test_a_reward_model_that_is_given_keeps_its_head(source: Callable[[str], Path], tmp_path: Path) -> None:
    folder = saved(tmp_path, source("bert"))
    before, again = load_reward_model(folder), new_reward_model(folder, seed=9)
    assert all(torch.equal(a, b) for a, b in zip(before.model.parameters(), again.model.parameters(), strict=True))


def test_an_encoder_needs_no_end_and_a_decoder_does(source: Callable[[str], Path], make: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match="no EOS"):
        load_tokenizer(source("bert"))
    assert new_reward_model(source("bert"), seed=0).reads == "text pairs"
    assert new_reward_model(make("gpt2"), seed=0).reads == "its own chat template, `question`"


def test_a_decoder_from_elsewhere_has_no_template(make: Callable[[str], Path], tmp_path: Path) -> None:
    judge = new_reward_model(make("gpt2"), seed=0)
    save_model(tmp_path, judge.model, judge.tokenizer)
    (tmp_path / "chat_template.jinja").unlink()
    scorer = RewardScorer.load(tmp_path)
    assert scorer.note.endswith("is read by the template `question` (its tokenizer brings none)")
    assert scorer([prompt_of("Up?")], ["Down."]) == pytest.approx(
        RewardScorer(prompt_encoder=judge.prompt_encoder, members=[Member(model=judge.model)])([prompt_of("Up?")], ["Down."])
    )
    mine = judge.prompt_encoder.answer(prompt_of("Up?"), "x").ids
    for other in (load_reward_model(tmp_path, template="chatml"), load_reward_model(tmp_path, fallback="chatml")):
        assert "`chatml`" in other.reads and other.prompt_encoder.answer(prompt_of("Up?"), "x").ids != mine


def test_a_template_that_leaves_out_turns_gives_way(make: Callable[[str], Path], tmp_path: Path) -> None:
    judge = new_reward_model(make("gpt2"), seed=0)
    save_model(tmp_path, judge.model, judge.tokenizer)
    assert "its own" in load_reward_model(tmp_path, fallback="chatml").reads  # what it brings is used where it can be
    assert "`chatml`" in load_reward_model(tmp_path, template="chatml").reads  # unless another is asked for
    (tmp_path / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}")
    found = load_reward_model(tmp_path)
    assert found.reads.startswith("the template `question` (its own leaves out what a turn says")
    assert found.note.startswith(str(tmp_path))


def test_an_encoder_that_reads_padding_is_refused(source: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run = hf.BertForSequenceClassification.forward

    def forgetful(self: Any, *given: Any, attention_mask: Any = None, **named: Any) -> Any:
        return run(self, *given, **named)

    monkeypatch.setattr(hf.BertForSequenceClassification, "forward", forgetful)
    with pytest.raises(ModelError, match="scores that change with padding"):
        new_reward_model(source("bert"), seed=0)


def test_an_encoder_whose_tokenizer_pads_otherwise_is_refused(source: Callable[[str], Path], tmp_path: Path) -> None:
    tokenizer_of("roberta").save_pretrained(tmp_path)
    model = hf.AutoModelForMaskedLM.from_config(hf.RobertaConfig.from_pretrained(source("roberta"), pad_token_id=3))
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="pads with the token 3, its tokenizer with 1"):
        new_reward_model(tmp_path, seed=0)
