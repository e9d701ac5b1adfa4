"""A raw row -> its records, by the shapes people publish. Which one a row has is told by its fields: one table, below."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sawyer.records.class_labels import is_labelled, read_labelled
from sawyer.records.conversation import (
    CHATS,
    INSTRUCTIONS,
    RESPONSES,
    parse_turn_cells,
    prompt_from_turns,
    prompt_in_row,
    response_of,
    split_last_answer,
    turns,
    waiting,
    waits,
    with_system,
)
from sawyer.records.data_files import CELL_SUFFIXES, suffix_of
from sawyer.records.fields import Fields, Unfit, answer_of, first_field, has_any, inside, list_of, text_of, type_in_words
from sawyer.records.judged_formats import (
    is_labelled_answer,
    is_listed,
    is_pair,
    is_scored_answer,
    is_transcripts,
    is_tree,
    is_vote,
    read_answer_list,
    read_pair,
    read_single_answer,
    read_transcripts,
    read_tree,
    read_vote,
)
from sawyer.records.record_types import Demonstration, JudgedPrompt, Prompt, Record, Where, prompt_in, prompt_of

Want = Literal["prompts", "demonstrations", "scored", "pairs", "comparisons", "answers", "labels", "text"]
Gives = Literal["prompts", "demonstrations", "scored", "pairs", "labels"]
# What says nothing of how well a file is made, as every large one has it: such a row is left out and counted, however many
# there are. All else is a bad row, of which a file may have few (`max_bad_rows`).
LEFT_OUT = ("tied", "reversed", "order", "pair", "unanswered", "unranked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One shape: `fits` looks at an object's keys, `read` makes its records (and tells what is odd about them)."""

    name: str
    gives: Gives
    fits: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Fields, Where], Iterable[Record | Unfit]]
    fields: str  # what an error advises: docs/data.md has a row of each
    joins: bool = False  # each row is one judged answer: those of the same prompt become one record


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRecords:
    """What one row gives: its records, what is odd about them, and the paths of the fields that were not read."""

    records: tuple[Record, ...]
    notes: tuple[Unfit, ...]
    unread: tuple[str, ...]  # such as `id` or `messages[].weight`
    shape: str  # its name, for the user
    joins: bool


def _demonstration(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    if not has_any(row, RESPONSES) and isinstance(row.peek("answers"), Mapping):  # SQuAD: any of its answers is right
        prompt = prompt_in_row(row, where)
        with inside("answers"):
            texts = list_of(row.inside("answers", row["answers"]), "text")
            yield Demonstration(prompt=prompt, response=answer_of(Fields({"text[0]": texts[0]}), "text[0]"))
        return
    yield Demonstration(prompt=prompt_in_row(row, where), response=response_of(row, first_field(row, RESPONSES)))


def _chat(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """A conversation up to the last answer that is imitated; what is said after that teaches nothing."""
    field = first_field(row, CHATS)
    messages = turns(row, field)
    if all(message.role != "assistant" for message in messages):
        raise Unfit(field, "missing", "no turn is the assistant's", "add its answer")
    if messages[-1].role != "assistant":
        yield Unfit(field, "unanswered", "the last turn has no answer; that turn is left out", "add its answer, or remove it")
    imitated = [place for place, message in enumerate(messages) if message.role == "assistant" and message.trained]
    if not imitated:
        raise Unfit(field, "unanswered", "no answer has a weight above 0", "give one the weight 1; the row is left out")
    before, response = split_last_answer(messages[: imitated[-1] + 1], field)
    yield Demonstration(prompt=waiting(with_system(row, before), field, where), response=response)


def _instances(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """self-instruct: one instruction with several {input, output}."""
    text_of(row, "instruction")
    for place, instance in enumerate(list_of(row, "instances")):
        name = f"instances[{place}]"
        if not isinstance(instance, Mapping):
            raise Unfit(name, "type", f"an instance is {type_in_words(instance)}, not an object", f"mend `{name}`")
        fields = row.inside("instances[]", instance)
        joined = Fields({"instruction": row["instruction"], "input": fields.get("input")})
        with inside(name):
            yield Demonstration(prompt=prompt_in_row(joined, where), response=answer_of(fields, "output"))


def _prompt(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    if not has_any(row, CHATS):
        yield prompt_in_row(row, where)
        return
    field = first_field(row, CHATS)
    messages = turns(row, field)
    if messages and messages[-1].role == "assistant":  # the answer is no part of the prompt, but somebody may compare with it
        row.inside(f"{field}[-1]", {"content": messages[-1].content})
        messages = messages[:-1]
    yield prompt_from_turns(with_system(row, messages), field, where)


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: all(name in row for name in names)


def _demonstration_format(
    name: str,
    fits: Callable[[Mapping[str, Any]], bool],
    read: Callable[[Fields, Where], Iterable[Record | Unfit]],
    fields: str,
) -> Format:
    """A shape whose answers are imitated. One that was judged wanted or unwanted never is: it is a judgement."""
    return Format(
        name=name,
        gives="demonstrations",
        fits=lambda row: fits(row) and not is_labelled_answer(row),
        read=read,
        fields=fields,
    )


# In order: the first that fits a row is its shape.
FORMATS: tuple[Format, ...] = (
    Format(
        name="scored answers (GPT-4-LLM)",
        gives="scored",
        fits=_has("responses_and_scores"),
        read=read_answer_list,
        fields="user_input responses_and_scores",
    ),
    Format(
        name="several answers (UltraFeedback, Nectar)",
        gives="scored",
        fits=is_listed,
        read=read_answer_list,
        fields="instruction completions | prompt answers",
    ),
    Format(
        name="message trees (OpenAssistant)", gives="scored", fits=is_tree, read=read_tree, fields="prompt (a tree of replies)"
    ),
    Format(
        name="transcripts (Anthropic HH)",
        gives="pairs",
        fits=is_transcripts,
        read=read_transcripts,
        fields="chosen rejected (transcripts)",
    ),
    Format(name="pairs", gives="pairs", fits=is_pair, read=read_pair, fields="prompt chosen rejected"),
    Format(
        name="votes (Arena, HelpSteer 3)",
        gives="pairs",
        fits=is_vote,
        read=read_vote,
        fields="conversation_a conversation_b winner | context response1 response2 overall_preference",
    ),
    Format(
        name="labelled answers (KTO)",
        gives="scored",
        fits=is_labelled_answer,
        read=read_single_answer,
        fields="prompt completion label",
        joins=True,
    ),
    Format(
        name="an answer and its score (HelpSteer)",
        gives="scored",
        fits=is_scored_answer,
        read=read_single_answer,
        fields="prompt response score",
        joins=True,
    ),
    Format(
        name="tasks with instances (self-instruct)",
        gives="demonstrations",
        fits=_has("instances"),
        read=_instances,
        fields="instruction instances",
    ),
    _demonstration_format("chat messages (OpenAI)", _has("messages"), _chat, "messages"),
    _demonstration_format("conversations (ShareGPT)", lambda r: has_any(r, CHATS[1:]), _chat, "conversations"),
    _demonstration_format(
        "instructions (Alpaca)",
        lambda r: "instruction" in r and has_any(r, RESPONSES),
        _demonstration,
        "instruction input output",
    ),
    _demonstration_format("prompt and completion", _has("prompt", "completion"), _demonstration, "prompt completion"),
    _demonstration_format(
        "question and answer",
        lambda r: "question" in r and ("answer" in r or isinstance(r.get("answers"), Mapping)),
        _demonstration,
        "question answer",
    ),
    _demonstration_format(
        "prompt and response",
        lambda r: has_any(r, INSTRUCTIONS) and has_any(r, RESPONSES),
        _demonstration,
        "prompt response",
    ),
    Format(
        name="labelled texts", gives="labels", fits=is_labelled, read=read_labelled, fields="text label | text labels (a list)"
    ),
    Format(
        name="prompts",
        gives="prompts",
        fits=lambda r: has_any(r, CHATS) or any(name in r and not isinstance(r[name], Mapping) for name in INSTRUCTIONS),
        read=_prompt,
        fields="lines of text | prompt | instruction | question | text | messages",
    ),
)
PROMPTS = FORMATS[-1]
# What each wish accepts: a row's shape must give one of these.
ACCEPTED: Mapping[Want, tuple[Gives, ...]] = {
    "prompts": ("prompts", "demonstrations", "scored", "pairs", "labels"),
    "demonstrations": ("demonstrations",),
    "scored": ("scored",),
    "pairs": ("pairs",),
    "comparisons": ("scored", "pairs"),
    "answers": ("scored", "pairs", "demonstrations"),
    "labels": ("labels",),
}
# Where rows of a kind belong, when they are given to a stage that learns from another.
PLACES: Mapping[Want, str] = {
    "comparisons": "reward.data",
    "demonstrations": "sft.data",
    "labels": "classify.data",
    "prompts": "rl.prompts",
}


def shape_of(row: Mapping[str, Any], want: Want) -> Format | None:
    """The first shape that fits the row and gives what is wanted."""
    if want == "prompts" and PROMPTS.fits(row) and "instances" not in row:
        return PROMPTS  # whatever else the row has is not needed, so it cannot be wrong
    return next((shape for shape in FORMATS if shape.gives in ACCEPTED[want] and shape.fits(row)), None)


def expected(want: Want) -> str:
    """The fields of every shape that gives what is wanted: what an error advises."""
    shapes = [PROMPTS] if want == "prompts" else [shape for shape in FORMATS if shape.gives in ACCEPTED[want]]
    more = "; a table without a header: `columns: {2: label, 4: text}` by number" if want == "labels" else ""
    return " | ".join(shape.fields for shape in shapes) + more


def read_row(value: Any, where: Where, want: Want, model: Mapping[str, Any] | None = None) -> RowRecords:
    """Read one row as what is wanted. One without a shape is read as `model`, another row of its file: what it lacks is named.

    Raises Unfit where it gives nothing: a tie and a pair whose scores contradict it are such rows where pairs are wanted.
    """
    if isinstance(value, str) and want == "prompts":
        prompt = prompt_of(text_of(Fields({"row": value}), "row"), where=where)
        return RowRecords(records=(prompt,), notes=(), unread=(), shape="lines of text", joins=False)
    if not isinstance(value, Mapping):
        told = f"a row is a {type(value).__name__}, not an object"
        turned = isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping) for turn in value)
        todo = 'write it as {"messages": [...]}' if turned else "use one object with named fields a row"
        raise Unfit("row", "type", told, todo)
    if suffix_of(where.file) in CELL_SUFFIXES:  # elsewhere a list is a list, and text that looks like one is text
        value = parse_turn_cells(value)
    shape = shape_of(value, want)
    if shape is None and model:
        shape, value = shape_of(model, want), {**dict.fromkeys(model), **value}
    if shape is None:
        raise _no_shape(value, want)
    row = Fields(value)
    try:
        found = list(shape.read(row, where))
    except Unfit as unfit:
        if unfit.kind == "missing" and model:  # named as the file's other rows name it, if they do
            list(shape.read(Fields({**dict.fromkeys(model), **value}), where))
        raise
    records = tuple(record for record in found if not isinstance(record, Unfit))
    unread = (path if path.isprintable() and len(path) <= 80 else repr(path)[1:-1][:80] for path in row.unread())
    if want == "prompts":
        records = tuple(_with_fields(prompt_in(record), row) for record in records)
    elif want in ("pairs", "comparisons"):
        faults = [fault for record in records if (fault := _pair_problem(record)) is not None]
        if len(faults) == len(records):
            raise faults[0]
        found += faults
        records = tuple(record for record in records if _pair_problem(record) is None)
    return RowRecords(
        records=records,
        notes=tuple(note for note in found if isinstance(note, Unfit)),
        unread=tuple(unread),
        shape=shape.name,
        joins=shape.joins,
    )


def _with_fields(prompt: Prompt, row: Fields) -> Prompt:
    """The prompt with the row's other fields, those of which a part was not read among them."""
    parts = {name: row.peek(name) for path in row.unread() if (name := re.split(r"[.\[]", path)[0]) in row}
    return replace(prompt, fields={**row.others, **parts})


def _no_shape(row: Mapping[str, Any], want: Want) -> Unfit:
    """A row of no shape that gives what is wanted; one of another use is told where it belongs."""
    given = ", ".join(repr(name)[1:-1][:40] for name in list(row)[:12]) or "nothing"
    other = next((use for use in PLACES if use not in (want, "prompts") and shape_of(row, use)), None)
    if other is not None and want in ("demonstrations", "comparisons", "labels"):
        todo = f"name the file in {PLACES[other]}, or give rows with {expected(want)}; other names go into `columns:`"
        if want == "demonstrations" and is_labelled_answer(row):
            todo += ", where `{label: class}` sets a label aside that judges nothing"
        return Unfit("row", "shape", f"a row with {given} gives {other}, not {want}", todo)
    said = "holds no answer" if want == "answers" else f"is none of the shapes that give {want}"
    return Unfit("row", "shape", f"a row with {given} {said}", f"expected {expected(want)}; other names go into `columns:`")


def _pair_problem(record: Record) -> Unfit | None:
    """Why a pair says nothing of which answer is better."""
    if not isinstance(record, JudgedPrompt) or not record.is_pair:
        return None
    if len({response.strip() for response in record.responses}) == 1:
        return Unfit("rejected", "tied", "chosen and rejected are the same text", "remove the row; it is left out")
    if record.margin == 0:
        return Unfit("rejected", "tied", "the two answers are judged equal", "judge more finely; the row is left out")
    if record.margin is not None and record.margin < 0:
        told = f"the rejected answer has the higher score, by {-record.margin:g}"
        return Unfit("rejected", "reversed", told, "exchange the two, or mend the scores; the row is left out")
    return None


def purpose(rows: Sequence[Any]) -> Want:
    """What rows are for: the richest use of most of them. Answers with a score are comparisons where a prompt has several."""
    uses: Counter[Want] = Counter()
    single_prompts: list[str] = []
    for row in rows:
        if isinstance(row, str) or (waits(row) and shape_of(row, "comparisons") is None):
            uses["prompts"] += 1
        elif isinstance(row, Mapping):
            judged = shape_of(row, "comparisons")
            if judged is not None and judged.joins and not is_labelled_answer(row):
                single_prompts.append(_prompt_key(row))
            else:
                use = next((use for use in PLACES if shape_of(row, use)), None)
                uses.update([use] if use else [])
    repeated = len(set(single_prompts)) < len(single_prompts)
    uses["comparisons" if repeated else "demonstrations"] += len(single_prompts)
    return max(PLACES, key=lambda want: uses[want]) if any(uses.values()) else "demonstrations"


def _prompt_key(row: Mapping[str, Any]) -> str:
    """What tells whether two rows with an answer have the same prompt, without reading either."""
    return repr(
        [row.get(name) for name in INSTRUCTIONS] + [said[:-1] for name in CHATS if isinstance(said := row.get(name), list)]
    )
