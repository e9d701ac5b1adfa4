"""A raw row -> its records. Its fields decide which of the published formats it has: one table, below."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from sawyer.records.conversation import CHATS, INSTRUCTIONS, RESPONSES, parse_turn_cells, waits
from sawyer.records.data_files import CELL_SUFFIXES, suffix_of
from sawyer.records.fields import Fields, has_any, text_of
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
from sawyer.records.problems import Unfit
from sawyer.records.record_types import JudgedPrompt, Prompt, Record, Where, prompt_in, prompt_of
from sawyer.records.unjudged_formats import (
    is_labelled,
    read_chat,
    read_demonstration,
    read_instances,
    read_labelled,
    read_prompt,
)

Want = Literal["prompts", "demonstrations", "scored", "pairs", "comparisons", "answers", "labels", "text"]
Gives = Literal["prompts", "demonstrations", "scored", "pairs", "labels"]
# Kinds that say nothing of how well a file is made, as every large one has them: such rows are left out and counted, however
# many there are. All others are bad rows, of which a file may have few (`max_bad_rows`).
LEFT_OUT = ("tied", "reversed", "order", "pair", "unanswered", "unranked")


class Format(NamedTuple):
    """One format: `fits` looks at an object's keys, `read` makes its records (and notes what is odd about them)."""

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
    notes: tuple[Unfit, ...] = ()
    unread: tuple[str, ...] = ()  # such as `id` or `messages[].weight`
    format: str  # its name, for the user
    joins: bool = False


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: all(name in row for name in names)


def _is_answers_list(row: Mapping[str, Any]) -> bool:
    return "question" in row and ("answer" in row or isinstance(row.get("answers"), Mapping))


def _is_prompt(row: Mapping[str, Any]) -> bool:
    return has_any(row, CHATS) or any(name in row and not isinstance(row[name], Mapping) for name in INSTRUCTIONS)


# In order: the first that fits a row is its format.
FORMATS: tuple[Format, ...] = (
    Format("scored answers (GPT-4-LLM)", "scored", _has("responses_and_scores"), read_answer_list,
           "user_input responses_and_scores"),
    Format("several answers (UltraFeedback, Nectar)", "scored", is_listed, read_answer_list,
           "instruction completions | prompt answers"),
    Format("message trees (OpenAssistant)", "scored", is_tree, read_tree, "prompt (a tree of replies)"),
    Format("transcripts (Anthropic HH)", "pairs", is_transcripts, read_transcripts, "chosen rejected (transcripts)"),
    Format("pairs", "pairs", is_pair, read_pair, "prompt chosen rejected"),
    Format("votes (Arena, HelpSteer 3)", "pairs", is_vote, read_vote,
           "conversation_a conversation_b winner | context response1 response2 overall_preference"),
    Format("labelled answers (KTO)", "scored", is_labelled_answer, read_single_answer, "prompt completion label", joins=True),
    Format("an answer and its score (HelpSteer)", "scored", is_scored_answer, read_single_answer, "prompt response score",
           joins=True),
    Format("tasks with instances (self-instruct)", "demonstrations", _has("instances"), read_instances,
           "instruction instances"),
    Format("chat messages (OpenAI)", "demonstrations", _has("messages"), read_chat, "messages"),
    Format("conversations (ShareGPT)", "demonstrations", lambda row: has_any(row, CHATS[1:]), read_chat, "conversations"),
    Format("instructions (Alpaca)", "demonstrations", lambda row: "instruction" in row and has_any(row, RESPONSES),
           read_demonstration, "instruction input output"),
    Format("prompt and completion", "demonstrations", _has("prompt", "completion"), read_demonstration, "prompt completion"),
    Format("question and answer", "demonstrations", _is_answers_list, read_demonstration, "question answer"),
    Format("prompt and response", "demonstrations", lambda row: has_any(row, INSTRUCTIONS) and has_any(row, RESPONSES),
           read_demonstration, "prompt response"),
    Format("labelled texts", "labels", is_labelled, read_labelled, "text label | text labels (a list)"),
    Format("prompts", "prompts", _is_prompt, read_prompt,
           "lines of text | prompt | instruction | question | text | messages"),
)  # fmt: skip
PROMPTS = FORMATS[-1]
# What each wish accepts: a row's format must give one of these.
FORMATS_FOR: Mapping[Want, tuple[Gives, ...]] = {
    "prompts": ("prompts", "demonstrations", "scored", "pairs", "labels"),
    "demonstrations": ("demonstrations",),
    "scored": ("scored",),
    "pairs": ("pairs",),
    "comparisons": ("scored", "pairs"),
    "answers": ("scored", "pairs", "demonstrations"),
    "labels": ("labels",),
}
# Where rows of a kind belong: the advice for rows in the wrong setting.
SETTING_FOR: Mapping[Want, str] = {
    "comparisons": "reward.data",
    "demonstrations": "sft.data",
    "labels": "classify.data",
    "prompts": "rl.prompts",
}


def fits(format: Format, row: Mapping[str, Any]) -> bool:
    """Whether the row has this format. An answer that was labelled wanted or unwanted is never imitated: it is a judgement."""
    return format.fits(row) and not (format.gives == "demonstrations" and is_labelled_answer(row))


def format_of(row: Mapping[str, Any], want: Want) -> Format | None:
    """The first format that fits the row and gives what is wanted."""
    if want == "prompts" and PROMPTS.fits(row) and "instances" not in row:
        return PROMPTS  # whatever else the row has is not needed, so it cannot be wrong
    return next((format for format in FORMATS if format.gives in FORMATS_FOR[want] and fits(format, row)), None)


def expected(want: Want) -> str:
    """The fields of every format that gives what is wanted: what an error advises."""
    formats = [PROMPTS] if want == "prompts" else [format for format in FORMATS if format.gives in FORMATS_FOR[want]]
    more = "; a table without a header: `columns: {2: label, 4: text}` by number" if want == "labels" else ""
    return " | ".join(format.fields for format in formats) + more


def read_row(value: Any, where: Where, want: Want, example: Mapping[str, Any] | None = None) -> RowRecords:
    """Read one row as what is wanted. One without a format is read as `example`, another row of its file: the error then names
    what it lacks. Raises Unfit where it gives nothing: where pairs are wanted, a tie and a contradictory pair do."""
    if isinstance(value, str) and want == "prompts":
        prompt = prompt_of(text_of(Fields({"row": value}), "row"), where=where)
        return RowRecords(records=(prompt,), format="lines of text")
    if not isinstance(value, Mapping):
        is_turns = isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping) for turn in value)
        todo = 'write it as {"messages": [...]}' if is_turns else "use one object with named fields a row"
        raise Unfit("row", "type", f"a row is a {type(value).__name__}, not an object", todo)
    if suffix_of(where.file) in CELL_SUFFIXES:  # elsewhere a list is a list, and text that looks like one is text
        value = parse_turn_cells(value)
    format = format_of(value, want)
    if format is None and example:
        format, value = format_of(example, want), {**dict.fromkeys(example), **value}
    if format is None:
        raise _no_format(value, want)
    row = Fields(value)
    try:
        output = list(format.read(row, where))
    except Unfit as unfit:
        if unfit.kind == "missing" and example:  # named as the file's other rows name it, if they do
            list(format.read(Fields({**dict.fromkeys(example), **value}), where))
        raise
    records = [record for record in output if not isinstance(record, Unfit)]
    notes = [note for note in output if isinstance(note, Unfit)]
    unread = row.unread()
    if want == "prompts":
        records = [_with_fields(prompt_in(record), row, unread) for record in records]
    elif want in ("pairs", "comparisons"):
        faults = [_pair_problem(record) for record in records]
        if records and all(faults):
            raise next(fault for fault in faults if fault)
        notes += [fault for fault in faults if fault]
        records = [record for record, fault in zip(records, faults, strict=True) if fault is None]
    printable = (path if path.isprintable() and len(path) <= 80 else repr(path)[1:-1][:80] for path in unread)
    return RowRecords(
        records=tuple(records), notes=tuple(notes), unread=tuple(printable), format=format.name, joins=format.joins
    )


def _with_fields(prompt: Prompt, row: Fields, unread: Sequence[str]) -> Prompt:
    """The prompt with the row's other fields, those of which a part was not read among them."""
    parts = {name: row.peek(name) for path in unread if (name := re.split(r"[.\[]", path)[0]) in row}
    return replace(prompt, fields={**row.others, **parts})


def _no_format(row: Mapping[str, Any], want: Want) -> Unfit:
    """The error for a row of no format that gives what is wanted; it says where a row of another use belongs."""
    names = ", ".join(repr(name)[1:-1][:40] for name in list(row)[:12]) or "nothing"
    other = next((use for use in SETTING_FOR if use not in (want, "prompts") and format_of(row, use)), None)
    if other is not None and want in ("demonstrations", "comparisons", "labels"):
        todo = f"name the file in {SETTING_FOR[other]}, or give rows with {expected(want)}; other names go into `columns:`"
        if want == "demonstrations" and is_labelled_answer(row):
            todo += ", where `{label: class}` sets a label aside that judges nothing"
        return Unfit("row", "shape", f"a row with {names} gives {other}, not {want}", todo)
    no_answer = f"a row with {names} holds no answer"
    message = no_answer if want == "answers" else f"fields {names} match none of the formats for {want}"
    return Unfit("row", "shape", message, f"expected {expected(want)}; other names go into `columns:`")


def _pair_problem(record: Record) -> Unfit | None:
    """Why a ready-made pair says nothing of which answer is better."""
    if not isinstance(record, JudgedPrompt) or not record.is_pair:
        return None
    if len({response.strip() for response in record.responses}) == 1:
        return Unfit("rejected", "tied", "chosen and rejected are the same text", "remove the row; it is left out")
    if record.margin == 0:
        return Unfit("rejected", "tied", "the two answers are judged equal", "judge more finely; the row is left out")
    if record.margin is not None and record.margin < 0:
        message = f"the rejected answer has the higher score, by {-record.margin:g}"
        return Unfit("rejected", "reversed", message, "exchange the two, or mend the scores; the row is left out")
    return None


def purpose(rows: Sequence[Any]) -> Want:
    """What rows are for: the richest use of most of them. Answers with a score are comparisons where a prompt has several."""
    uses: Counter[Want] = Counter()
    single_prompts: list[str] = []
    for row in rows:
        if isinstance(row, str) or (waits(row) and format_of(row, "comparisons") is None):
            uses["prompts"] += 1
        elif isinstance(row, Mapping):
            format = format_of(row, "comparisons")
            if format is not None and format.joins and not is_labelled_answer(row):
                single_prompts.append(_prompt_key(row))
            elif use := next((use for use in SETTING_FOR if format_of(row, use)), None):
                uses[use] += 1
    has_several = len(set(single_prompts)) < len(single_prompts)
    uses["comparisons" if has_several else "demonstrations"] += len(single_prompts)
    return max(SETTING_FOR, key=lambda want: uses[want]) if any(uses.values()) else "demonstrations"


def _prompt_key(row: Mapping[str, Any]) -> str:
    """Equal for two rows with an answer that have the same prompt, without reading either."""
    chats = [turns[:-1] for name in CHATS if isinstance(turns := row.get(name), list)]
    return repr([row.get(name) for name in INSTRUCTIONS] + chats)
