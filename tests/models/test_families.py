"""Instruct and reward models of the families that people download, against plain transformers with their own templates."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from families import CLOSED, FAMILIES, QWEN3, R1, Family, tokenizer_of, write_instruct, write_reward
from tokenizers import Tokenizer

from sawyer import pipeline
from sawyer.config import parse_config
from sawyer.errors import ModelError
from sawyer.models import RewardScorer, new_reward_model, open_language_model, sample, save_model
from sawyer.models.reward_model import load_reward_model
from sawyer.records import Demonstration, Message, Prompt, prompt_of
from sawyer.runs import Layout, read_rows
from sawyer.text import PromptEncoder, fix_date, set_template

QUESTIONS = ["What is red?", "Say hi to me, please."]
ANSWERS = ["It is red.", " No idea, sorry!\nBe terse."]
CONVERSATION = Prompt(
    messages=(
        Message(role="user", content="What is red?"),
        Message(role="assistant", content="It is red."),
        Message(role="user", content="Say hi."),
    )
)


@pytest.fixture(scope="module")
def instruct(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = write_instruct(tmp_path_factory.mktemp(name), FAMILIES[name])
        return made[name]

    return folder


def turns(prompt: Prompt, answer: str | None = None) -> list[dict[str, str]]:
    said = [{"role": message.role, "content": message.content} for message in prompt.messages]
    return said if answer is None else [*said, {"role": "assistant", "content": answer}]


def plain_ids(tokenizer: Any, prompt: Prompt, answer: str | None = None) -> tuple[int, ...]:
    """As anybody would with transformers."""
    return tuple(tokenizer.apply_chat_template(turns(prompt, answer), add_generation_prompt=answer is None)["input_ids"])


def plain_score(folder: Path, prompt: Prompt, answer: str) -> float:
    """One row, as model cards compute it."""
    model = hf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = torch.tensor([plain_ids(hf.AutoTokenizer.from_pretrained(folder), prompt, answer)])
    with torch.no_grad():
        return float(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, 0])


def trained_text(prompt_encoder: PromptEncoder, row: Any) -> str:
    return str(prompt_encoder.tokenizer.decode([token for token, on in zip(row.ids, row.loss_mask, strict=True) if on]))


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_masks_and_ends_are_the_makers(instruct: Callable[[str], Path], name: str) -> None:
    family, theirs = FAMILIES[name], hf.AutoTokenizer.from_pretrained(instruct(name))
    speaker = open_language_model(instruct(name))
    prompt_encoder = speaker.prompt_encoder
    assert speaker.reads.startswith("its own chat template")
    assert {*prompt_encoder.end_ids} == {*theirs.convert_tokens_to_ids([*family.ends, family.end, family.eos])}
    assert prompt_encoder.eos_id == theirs.convert_tokens_to_ids(family.end)
    assert prompt_encoder.pad_id not in (prompt_encoder.eos_id, theirs.convert_tokens_to_ids(family.eos))
    for prompt in (*map(prompt_of, QUESTIONS), CONVERSATION):
        for answer in ANSWERS:
            row = prompt_encoder.demonstration(Demonstration(prompt=prompt, response=answer))
            assert prompt_encoder.prompt(prompt) == plain_ids(theirs, prompt) == row.ids[: row.prompt_length]
            assert row.ids == plain_ids(theirs, prompt, answer)
            trained = trained_text(prompt_encoder, row)
            assert trained.endswith(f"{answer.strip()}{family.end}") and trained.count(family.end) <= 2
            assert sum(prompt_encoder.answer(prompt, answer).loss_mask) <= sum(row.loss_mask)
            assert row.ids.count(theirs.bos_token_id) == ("bos_token" in family.template)


def test_earlier_answers_are_trained_unless_the_template_rewrites_them(instruct: Callable[[str], Path]) -> None:
    record = Demonstration(prompt=CONVERSATION, response="hi")
    plain = open_language_model(instruct("qwen25"))
    assert trained_text(plain.prompt_encoder, plain.prompt_encoder.demonstration(record)) == "It is red.<|im_end|>hi<|im_end|>"
    assert "rewrites" not in plain.reads
    thinking = open_language_model(instruct("qwen3"))
    found = trained_text(thinking.prompt_encoder, thinking.prompt_encoder.demonstration(record))
    assert found == "<think>\n\n</think>\n\nhi<|im_end|>"
    assert thinking.reads.endswith("which rewrites earlier turns: of a conversation the last answer alone is trained")
    # Mistral's system text moves to the last question: with one, the earlier answer followed another prompt.
    moving = open_language_model(instruct("mistral")).prompt_encoder
    system = Prompt(messages=(Message(role="system", content="Be terse."), *CONVERSATION.messages))
    assert trained_text(moving, moving.demonstration(record)).count("</s>") == 2
    assert trained_text(moving, moving.demonstration(Demonstration(prompt=system, response="hi"))).count("</s>") == 1
    untrained = Prompt(messages=tuple(Message(role=m.role, content=m.content, in_loss=False) for m in CONVERSATION.messages))
    assert (
        trained_text(plain.prompt_encoder, plain.prompt_encoder.demonstration(Demonstration(prompt=untrained, response="hi")))
        == "hi<|im_end|>"
    )


def test_a_thought_that_the_prompt_opens_is_closed_by_the_answer() -> None:
    """DeepSeek-R1's template leaves the thought out once it is there: what is sampled begins within it all the same."""
    specials = ("<s>", "</s>", "<User>", "<Assistant>")
    family = Family(template=R1, specials=specials, bos="<s>", eos="</s>", end="</s>", ends=("</s>",))
    tokenizer = tokenizer_of(family)
    tokenizer.pad_token = "</s>"
    assert "rewrites earlier turns" in set_template(tokenizer, "auto")
    prompt_encoder = PromptEncoder(tokenizer=tokenizer, context=256)
    prompt = prompt_of("What is red?")
    for answer, trained in (
        ("It is.", "\n</think>\n\nIt is.</s>"),
        ("<think>\nHm.\n</think>\n\nIt is.", "Hm.\n</think>\n\nIt is.</s>"),
        ("Hm.\n</think>It is.", "Hm.\n</think>\n\nIt is.</s>"),
    ):
        row = prompt_encoder.answer(prompt, answer)
        assert row.ids[: row.prompt_length] == prompt_encoder.prompt(prompt) == plain_ids(tokenizer, prompt)
        assert tokenizer.decode(prompt_encoder.prompt(prompt)).endswith("<Assistant><think>\n")
        assert trained_text(prompt_encoder, row) == trained


def test_a_prompt_that_closes_its_thought_is_followed_by_the_answer() -> None:
    """Some templates write an empty thought into the prompt alone; what is trained follows what is served."""
    family = Family(template=CLOSED, specials=("<s>", "</s>", "<turn>"), bos="<s>", eos="</s>", end="</s>", ends=("</s>",))
    tokenizer = tokenizer_of(family)
    tokenizer.pad_token = "</s>"
    set_template(tokenizer, "auto")
    prompt_encoder = PromptEncoder(tokenizer=tokenizer, context=256)
    for answer in ("It is red.", ""):
        row = prompt_encoder.answer(prompt_of("What is red?"), answer)
        assert row.ids[: row.prompt_length] == plain_ids(tokenizer, prompt_of("What is red?"))
        assert trained_text(prompt_encoder, row) == f"{answer}</s>"


def test_a_token_that_would_reach_over_the_prompts_end_is_split_there() -> None:
    """Qwen 3.5: the prompt ends in a line's end and the answer begins with one, which together are one token."""
    template = QWEN3.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}")
    family = Family(**{**asdict(FAMILIES["qwen3"]), "template": template})
    tokenizer = tokenizer_of(family)
    set_template(tokenizer, "auto")
    prompt_encoder, prompt = PromptEncoder(tokenizer=tokenizer, context=256), prompt_of("What is red?")
    row, whole = prompt_encoder.answer(prompt, "It is."), plain_ids(tokenizer, prompt, "It is.")
    assert row.ids[: row.prompt_length] == plain_ids(tokenizer, prompt) != whole[: row.prompt_length]
    assert tokenizer.decode(row.ids) == tokenizer.decode(whole)
    assert trained_text(prompt_encoder, row) == "\n</think>\n\nIt is.<|im_end|>"


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_answers_end_as_transformers_ends_them(instruct: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    """From the makers' folder and from what is saved of it; some answers must end by themselves, and by more than one token."""
    speaker = open_language_model(instruct(name))
    generator = torch.Generator().manual_seed(0)
    tokenizer, model = speaker.tokenizer, hf.AutoModelForCausalLM.from_pretrained(instruct(name))
    save_model(tmp_path, speaker.model, tokenizer)
    again = hf.AutoModelForCausalLM.from_pretrained(tmp_path)
    prompts = [prompt_of(f"{a} {b}") for a in ("What is", "Say", "Be", "No") for b in ("red", "me", "sorry", "idea", "?")]
    encoded = [speaker.prompt_encoder.prompt(prompt) for prompt in prompts]
    ends = speaker.prompt_encoder.end_ids
    with torch.no_grad():  # each end is what the state of one of the prompts likes best
        likes = [model.model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in encoded[: len(ends)]]
        for network in (speaker.model, model, again):
            head = network.get_output_embeddings().weight
            for end, state in zip(ends, likes, strict=True):
                head[end] = 50 * state / state.square().sum()
            if speaker.prompt_encoder.pad_id < len(head) and speaker.prompt_encoder.pad_id not in ends:
                head[speaker.prompt_encoder.pad_id] = 0.0
    found = sample(
        speaker.model,
        encoded,
        prompt_encoder=speaker.prompt_encoder,
        max_new_tokens=12,
        temperature=1.0,
        generator=generator,
        greedy=True,
    )
    assert {found[place].ids for place in range(len(ends))} == {(end,) for end in ends}
    for ids, completion in zip(encoded, found, strict=True):
        for network in (model, again):
            given = torch.tensor([ids])
            out = network.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=12, do_sample=False)
            assert tuple(out[0, len(ids) :].tolist()) == completion.ids


@pytest.mark.parametrize("pad", ["as it is", "eos", "none"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_downloaded_reward_model_scores_as_its_makers_do(tmp_path: Path, name: str, pad: str) -> None:
    family = FAMILIES[name]
    eos = tokenizer_of(family).convert_tokens_to_ids(family.eos)
    more = {} if pad == "as it is" else {"pad_token_id": eos if pad == "eos" else None}
    folder = write_reward(tmp_path, family, **more)
    scorer = RewardScorer.load(folder)
    prompts = [*map(prompt_of, QUESTIONS), CONVERSATION]
    answers = [*ANSWERS, "hi"]
    expected = [plain_score(folder, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    assert scorer(prompts, answers) == pytest.approx(expected, abs=1e-4)
    assert not scorer.note
    # Read one token further or less, it scores otherwise: the comparison can fail.
    model = hf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = scorer.prompt_encoder.answer(prompts[0], answers[0]).ids
    with torch.no_grad():
        shorter = float(model(input_ids=torch.tensor([ids[:-1]])).logits[0, 0])
    assert shorter != pytest.approx(expected[0], abs=1e-3)


@pytest.mark.parametrize("word", [False, True], ids=["config", "tokenizer too"])
def test_a_reward_model_that_pads_with_a_word(tmp_path: Path, word: bool) -> None:
    """`pad_token_id: 0` is an exclamation mark in many a vocabulary: in a text it stays one, whoever names it."""
    tokenizer = tokenizer_of(FAMILIES["qwen25"])
    mark = tokenizer.convert_tokens_to_ids("!")
    folder = write_reward(tmp_path, FAMILIES["qwen25"], pad_token_id=mark)
    if word:
        tokenizer.pad_token = "!"
        tokenizer.save_pretrained(folder)
    scorer, prompts, answers = RewardScorer.load(folder), [prompt_of("Say hi! Me!!")] * 2, ["Hi!", "No!!! idea!"]
    expected = [plain_score(folder, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    assert scorer(prompts, answers) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_our_own_reward_model_scores_the_same_in_transformers(
    instruct: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """Trained heads on an instruct model; in a padded batch too, as anybody would call it."""
    judge = new_reward_model(instruct(name), seed=0)
    save_model(tmp_path, judge.model, judge.tokenizer)
    prompts, scorer = [*map(prompt_of, QUESTIONS), CONVERSATION], RewardScorer.load(tmp_path)
    answers = [*ANSWERS, "hi"]
    found = scorer(prompts, answers)
    expected = [plain_score(tmp_path, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    assert found == pytest.approx(expected, abs=1e-4)
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path)
    texts = [tokenizer.apply_chat_template(turns(p, a), tokenize=False) for p, a in zip(prompts, answers, strict=True)]
    for side in ("left", "right"):
        inputs = tokenizer(texts, padding=True, padding_side=side, add_special_tokens=False, return_tensors="pt")
        model = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        with torch.no_grad():
            batch = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, 0].tolist()
        assert batch == pytest.approx(expected, abs=1e-4)
    assert load_reward_model(tmp_path).prompt_encoder.pad_id == tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize(("name", "pad"), [("llama3", "<|finetune_right_pad_id|>"), ("mistral", "<unk>"), ("gemma", "<pad>")])
def test_the_vocabulary_does_not_grow_for_a_pad_token(instruct: Callable[[str], Path], name: str, pad: str) -> None:
    theirs, ours = hf.AutoTokenizer.from_pretrained(instruct(name)), open_language_model(instruct(name)).tokenizer
    assert ours.pad_token == pad and len(ours) == len(theirs)


def test_the_day_is_written_into_what_is_saved(instruct: Callable[[str], Path], tmp_path: Path) -> None:
    with fix_date(date(2024, 7, 26)):
        speaker = open_language_model(instruct("llama3"))
    assert speaker.reads == "its own chat template, dated 2024-07-26"
    save_model(tmp_path, speaker.model, speaker.tokenizer)
    prompt = prompt_of("What is red?")
    assert "Today Date: 26 Jul 2024\n" in speaker.tokenizer.decode(speaker.prompt_encoder.prompt(prompt))
    assert plain_ids(hf.AutoTokenizer.from_pretrained(tmp_path), prompt) == speaker.prompt_encoder.prompt(prompt)
    assert open_language_model(tmp_path).prompt_encoder.prompt(prompt) == speaker.prompt_encoder.prompt(prompt)
    today = hf.AutoTokenizer.from_pretrained(instruct("llama3"))
    assert (
        plain_ids(today, prompt)
        == open_language_model(instruct("llama3")).prompt_encoder.prompt(prompt)
        != speaker.prompt_encoder.prompt(prompt)
    )


def test_a_tokenizer_of_another_model_is_refused(instruct: Callable[[str], Path], tmp_path: Path) -> None:
    other = tokenizer_of(FAMILIES["gemma"])
    config = hf.GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=1, n_positions=32)
    hf.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    other.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"the tokenizer has tokens up to number \d+, the model embeddings for 300"):
        open_language_model(tmp_path)


def test_a_tokenizer_that_leaves_numbers_out(tmp_path: Path) -> None:
    """As those after cl100k do: ends beyond the number of its tokens end answers, and may be drawn."""
    tokenizer = tokenizer_of(FAMILIES["qwen25"])
    settings = json.loads(tokenizer._tokenizer.to_str())
    size = len(tokenizer)
    for token in settings["added_tokens"]:
        if token["content"] == "<|im_end|>":
            settings["model"]["vocab"].pop("<|im_end|>")
            token["id"] = settings["model"]["vocab"]["<|im_end|>"] = size + 20
    core = hf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(settings)), eos_token="<|im_end|>")
    core.chat_template, core.pad_token = tokenizer.chat_template, "<|endoftext|>"
    hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=size + 21, n_embd=8, n_layer=1, n_head=1, n_positions=64)).save_pretrained(
        tmp_path
    )
    core.save_pretrained(tmp_path)
    speaker = open_language_model(tmp_path)
    assert speaker.prompt_encoder.eos_id == size + 20 and speaker.prompt_encoder.size == size + 21 > len(speaker.tokenizer)
    assert speaker.model.get_input_embeddings().weight.shape[0] == size + 21
    with torch.no_grad():
        head = speaker.model.get_output_embeddings().weight
        state = speaker.model.transformer(torch.tensor([speaker.prompt_encoder.prompt(prompt_of("a"))])).last_hidden_state[
            0, -1
        ]
        head[size + 20] = 50 * state
    found = sample(
        speaker.model,
        [speaker.prompt_encoder.prompt(prompt_of("a"))],
        prompt_encoder=speaker.prompt_encoder,
        max_new_tokens=3,
        temperature=1.0,
        generator=torch.Generator(),
        greedy=True,
    )
    assert found[0].ids == (size + 20,) and found[0].ended


@pytest.mark.slow
def test_a_run_keeps_template_ends_and_the_day_that_it_began(instruct: Callable[[str], Path], tmp_path: Path) -> None:
    """SFT of an instruct model, no template named, in a run that began on another day."""
    rows = [{"messages": turns(prompt_of(question), "It is red.")} for question in QUESTIONS * 4]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    layout = Layout(tmp_path / "run")
    layout.root.mkdir()
    layout.manifest.write_text(json.dumps({"date": "2024-07-26"}))
    sft = {"data": [str(tmp_path / "rows.jsonl")], "epochs": 1, "eval_fraction": 0, "max_new_tokens": 4, "eval_prompts": 1}
    config = {"out": str(layout.root), "model": str(instruct("llama3_base_eos")), "device": "cpu", "sft": sft}
    pipeline.run(parse_config(config))
    folder = layout.model("sft")
    plan = next(row["message"] for row in read_rows(layout.events) if row["kind"] == "plan" and row["stage"] == "sft")
    assert "written with its own chat template, dated 2024-07-26" in plan
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    assert "Today Date: 26 Jul 2024\n" in tokenizer.decode(plain_ids(tokenizer, prompt_of("a")))
    ends = hf.GenerationConfig.from_pretrained(folder).eos_token_id
    assert ends == tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|end_of_text|>"])
    assert json.loads(layout.manifest.read_text())["date"] == "2024-07-26"
