"""Exports of other rating tools -> judgements: Argilla 2, Label Studio, feedloop. What cannot be read is counted by its reason.

The shapes are those that the tools write: Argilla's `dataset.records.to_json` and `to_list(flatten=True)`, Label Studio's JSON
and JSON-MIN with Pairwise or Ranker, feedloop's JSON lines of prompt, chosen, rejected.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sawyer.errors import DataError
from sawyer.ratings.rating_types import Choice, Method
from sawyer.records import Prompt, prompt_from_messages, prompt_of

Row = Mapping[str, Any]
PROMPT_FIELDS = ("prompt", "instruction", "question", "query", "input", "messages", "conversation", "chat", "context")
ANSWER_PAIRS = tuple(
    (f"{name}{gap}{one}", f"{name}{gap}{two}")
    for name in ("text", "answer", "response", "completion", "output", "option", "generation", "summary")
    for gap in ("", "_", "-")
    for one, two in (("1", "2"), ("a", "b"), ("A", "B"), ("0", "1"))
)
OTHER_FIELDS = ("system", "system_prompt", "reference", "context", "source", "guidelines")  # texts that answer nothing
TIES = ("tie", "both", "neither", "equal", "same")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignVote:
    """One judgement of an export. Choice and answers are in the file's order."""

    prompt: Prompt
    answers: tuple[str, ...]
    method: Method
    choice: Choice
    rater: str
    seconds: float = 0.0  # 0: not known
    note: str = ""


@dataclass(slots=True)
class ForeignVotes:
    """What was read so far: judgements, and why others were left out."""

    votes: list[ForeignVote] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, vote: ForeignVote) -> None:
        """Take a judgement."""
        self.votes.append(vote)

    def drop(self, reason: str) -> None:
        """Count one that cannot be taken."""
        self.left_out[reason] += 1


class ForeignFormat(NamedTuple):
    """A tool's shape: whether a row has it, and how it is read."""

    name: str
    fits: Callable[[Row], bool]
    read: Callable[[Row, ForeignVotes], None]
    fields: str  # what an error names


# Argilla


def _is_argilla(row: Row) -> bool:
    return isinstance(row.get("fields"), Mapping) and isinstance(row.get("responses"), Mapping)


def _is_flat_argilla(row: Row) -> bool:
    return any(name.endswith(".responses.users") for name in row) or any(name.endswith(".responses") for name in row)


def _read_argilla(row: Row, result: ForeignVotes) -> None:
    """{"fields": {...}, "responses": {question: [{"value", "user_id"}]}}, the export of records as JSON."""
    _read_record(row["fields"], row["responses"], result)


def _read_flat_argilla(row: Row, result: ForeignVotes) -> None:
    """The flattened record: `question.responses`, `question.responses.users`, `question.responses.status` beside the fields."""
    fields = {name: value for name, value in row.items() if "." not in name and name not in ("id", "_server_id", "status")}
    responses: dict[str, list[dict[str, Any]]] = {}
    for name, values in row.items():
        if not name.endswith(".responses") or not isinstance(values, list):
            continue
        users, statuses = _list_of(row, f"{name}.users", len(values)), _list_of(row, f"{name}.status", len(values))
        responses[name.removesuffix(".responses")] = [
            {"value": value, "user_id": user, "status": status}
            for value, user, status in zip(values, users, statuses, strict=True)
        ]
    _read_record(fields, responses, result)


def _list_of(row: Row, name: str, length: int) -> list[Any]:
    value = row.get(name)
    return value if isinstance(value, list) and len(value) == length else [None] * length


def _read_record(fields: Row, responses: Row, result: ForeignVotes) -> None:
    by_user: dict[str, dict[str, tuple[Any, str]]] = {}
    for question, answers in responses.items():
        for answer in answers if isinstance(answers, list) else ():
            if isinstance(answer, Mapping) and answer.get("value") is not None:
                user = str(answer.get("user_id") or "argilla")
                by_user.setdefault(user, {})[question] = answer["value"], str(answer.get("status") or "")
    if not by_user:
        return result.drop("no response")
    prompt, texts = _prompt_in(fields), _texts(fields)
    if prompt is None or len(texts) < 2:
        return result.drop("no prompt" if prompt is None else "fewer than two answers")
    for user, values in by_user.items():
        _read_responses(prompt, texts, user, values, result)
    return None


def _texts(fields: Row) -> dict[str, str]:
    """The fields that hold answers: all texts but the prompt."""
    prompt = _prompt_field(fields)
    return {
        name: value
        for name, value in fields.items()
        if name != prompt and name not in OTHER_FIELDS and isinstance(value, str) and value
    }


def _read_responses(
    prompt: Prompt, texts: Mapping[str, str], user: str, values: Mapping[str, tuple[Any, str]], result: ForeignVotes
) -> None:
    """One user's answers to the record's questions: a ranking, a choice between two, or a rating of each answer."""
    statuses = {status for _, status in values.values()}
    if "draft" in statuses:
        return result.drop("a draft")
    names = list(texts)
    if "discarded" in statuses:
        method: Method = "pair" if len(names) == 2 else "rank"
        result.add(_vote(prompt, [texts[name] for name in names], method, Choice(skip=True), user))
        return None
    note = " ".join(value for question, (value, _) in values.items() if _is_remark(question, value))
    ratings: dict[str, int] = {}
    is_read = False
    for question, (value, _) in values.items():
        if isinstance(value, list) and value:
            is_read |= _read_ranking(prompt, texts, user, value, note, result)
        elif isinstance(value, str) and not _is_remark(question, value):
            choice = _choice_of(value, names) if len(names) == 2 else None
            if choice is not None:
                result.add(_vote(prompt, [texts[name] for name in names], "pair", choice, user, note=note))
                is_read = True
        elif isinstance(value, int) and not isinstance(value, bool):
            name = _named_answer(question, names)
            if name is not None and 0 <= value <= 10:
                ratings[name] = value
    if ratings:
        scores = tuple(ratings.get(name) for name in names)
        result.add(_vote(prompt, [texts[name] for name in names], "score", Choice(scores=scores), user, note=note))
    elif not is_read:
        result.drop("no question compares or rates the answers")
    return None


def _is_remark(question: str, value: Any) -> bool:
    words = ("reason", "rationale", "comment", "note", "explan", "feedback")
    return isinstance(value, str) and any(word in question.lower() for word in words)


def _read_ranking(
    prompt: Prompt, texts: Mapping[str, str], user: str, value: Sequence[Any], note: str, result: ForeignVotes
) -> bool:
    """Options best first, or with their ranks; each names a field, or has its number."""
    names = list(texts)
    ranks: dict[str, int] = {}
    for position, option in enumerate(value, 1):
        label, rank = (option.get("value"), option.get("rank")) if isinstance(option, Mapping) else (option, None)
        name = label if isinstance(label, str) and label in texts else _named_answer(str(label), names)
        if name is not None:
            ranks[name] = rank if isinstance(rank, int) and not isinstance(rank, bool) else position
    names = [name for name in names if name in ranks]
    if len(ranks) != len(value) or len(ranks) < 2:
        result.drop("a ranking whose options are no fields of the record")
        return True
    steps = sorted(set(ranks.values()))
    choice = Choice(ranks=tuple(steps.index(ranks[name]) + 1 for name in names))
    result.add(_vote(prompt, [texts[name] for name in names], "rank", choice, user, note=note))
    return True


def _named_answer(label: str, names: Sequence[str]) -> str | None:
    """The answer that a question or an option means: by its whole name inside the label, else by the one number both have."""
    inside = [name for name in names if name.lower() in label.lower()]
    if len(inside) == 1:
        return inside[0]
    number = re.findall(r"\d+", label)
    same = [name for name in names if number and re.findall(r"\d+", name) == number[-1:]]
    return same[0] if len(same) == 1 else None


def _choice_of(value: str, names: Sequence[str]) -> Choice | None:
    """A label for one of two answers: its name or its number, A or B, or a tie."""
    word = value.strip().lower()
    if word.startswith(TIES):
        return Choice(grade=0, both_bad="bad" in word or word.startswith("neither"))
    name = next((name for name in names if name.lower() == word), None) or _named_answer(word, names)
    if name is None:
        letter = re.fullmatch(r"(?:.*[^a-z])?([ab])", word)
        name = names["ab".index(letter[1])] if letter else None
    return None if name is None else Choice(grade=-1 if name == names[0] else 1)


# Label Studio


def _is_label_studio(row: Row) -> bool:
    return isinstance(row.get("data"), Mapping) and isinstance(row.get("annotations"), list)


def _is_small_label_studio(row: Row) -> bool:
    return "annotation_id" in row and "annotator" in row


def _read_label_studio(row: Row, result: ForeignVotes) -> None:
    """A task with its data and annotations."""
    if not row["annotations"]:
        return result.drop("no annotation")
    for annotation in row["annotations"]:
        if not isinstance(annotation, Mapping):
            result.drop("no annotation")
            continue
        regions = annotation.get("result")
        values = [
            region["value"] | {"to_name": region.get("to_name")}
            for region in (regions if isinstance(regions, list) else ())
            if isinstance(region, Mapping) and isinstance(region.get("value"), dict)
        ]
        rater, seconds = _annotator(annotation.get("completed_by")), annotation.get("lead_time")
        _read_results(row["data"], values, rater, seconds, annotation.get("was_cancelled") is True, result)
    return None


def _read_small_label_studio(row: Row, result: ForeignVotes) -> None:
    """JSON-MIN: the data's fields and the results' under their tags' names, in one object an annotation."""
    values = [value for values in row.values() if isinstance(values, list) for value in values if isinstance(value, Mapping)]
    _read_results(row, values, _annotator(row.get("annotator")), row.get("lead_time"), False, result)


def _annotator(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("email") or value.get("username") or value.get("id")
    return value if isinstance(value, str) and value.strip() else f"Label Studio user {value}"


def _read_results(data: Row, values: Sequence[Row], rater: str, lead_time: Any, is_skip: bool, result: ForeignVotes) -> None:
    prompt = _prompt_in(data)
    if prompt is None:
        return result.drop("no prompt")
    seconds = float(lead_time) if isinstance(lead_time, int | float) and not isinstance(lead_time, bool) else 0.0
    pair = next((value for value in values if value.get("selected") in ("left", "right")), None)
    ranker = next((value["ranker"] for value in values if isinstance(value.get("ranker"), list | Mapping)), None)
    items = _listed_answers(data)
    if ranker is None and (pair is not None or (is_skip and not items)):
        texts = _two_texts(data, "" if pair is None else pair.get("to_name"))
        if texts is None:
            return result.drop("the two texts stand under no known names")
        choice = Choice(skip=True) if pair is None or is_skip else Choice(grade=-1 if pair["selected"] == "left" else 1)
        return result.add(_vote(prompt, texts, "pair", choice, rater, seconds=seconds))
    if ranker is None and not is_skip:
        return result.drop("no choice of one of two and no ranking")
    if len(items) < 2:
        return result.drop("fewer than two answers")
    choice_or_none = Choice(skip=True) if is_skip else _ranker_choice(ranker, list(items))
    if choice_or_none is None:
        return result.drop("a ranking that does not name every answer")
    return result.add(_vote(prompt, list(items.values()), "rank", choice_or_none, rater, seconds=seconds))


def _two_texts(data: Row, to_name: Any) -> list[str] | None:
    tags = tuple(to_name.replace(" ", "").split(",")) if isinstance(to_name, str) else ()
    for names in ((tags,) if len(tags) == 2 else ()) + ANSWER_PAIRS:
        texts = [data.get(name) for name in names]
        if all(isinstance(text, str) for text in texts):
            return [str(text) for text in texts]
    return None


def _listed_answers(data: Row) -> dict[str, str]:
    """id -> text of the list that Ranker sorts: objects with an id and a body, html or title."""
    for items in data.values():
        if isinstance(items, list) and items and all(isinstance(item, Mapping) and "id" in item for item in items):
            texts = {str(item["id"]): next((item[n] for n in ("body", "html", "title") if item.get(n)), None) for item in items}
            if all(isinstance(text, str) for text in texts.values()):
                return {name: str(text) for name, text in texts.items()}
    return {}


def _ranker_choice(ranker: Any, names: Sequence[str]) -> Choice | None:
    """The ids best first; of several buckets, such as relevant and biased, no ranking follows."""
    buckets = [ranker] if isinstance(ranker, list) else [bucket for bucket in ranker.values() if bucket]
    ids = [str(name) for name in buckets[0]] if len(buckets) == 1 and isinstance(buckets[0], list) else []
    return Choice(ranks=tuple(ids.index(name) + 1 for name in names)) if sorted(ids) == sorted(names) else None


# feedloop


def _is_pair_row(row: Row) -> bool:
    return all(name in row for name in ("prompt", "chosen", "rejected"))


def _read_pair_row(row: Row, result: ForeignVotes) -> None:
    """A prompt with the better and the worse answer. The file names no rater, unless it is our own."""
    prompt, texts = _prompt_in(row), [_side_text(row["chosen"]), _side_text(row["rejected"])]
    if prompt is None or any(text is None for text in texts):
        return result.drop("no prompt" if prompt is None else "chosen or rejected is no text")
    rater = row.get("rater")
    name = rater if isinstance(rater, str) and rater.strip() else "feedloop"
    return result.add(_vote(prompt, [str(text) for text in texts], "pair", Choice(grade=-1), name))


def _side_text(side: Any) -> str | None:
    """A text, or the last turn of a list of messages."""
    if isinstance(side, list) and side and isinstance(side[-1], Mapping):
        side = side[-1].get("content")
    return side if isinstance(side, str) else None


# All of them


def _vote(
    prompt: Prompt, answers: Sequence[str], method: Method, choice: Choice, rater: str, *, seconds: float = 0.0, note: str = ""
) -> ForeignVote:
    return ForeignVote(
        prompt=prompt, answers=tuple(answers), method=method, choice=choice, rater=rater, seconds=seconds, note=note
    )


def _prompt_field(fields: Row) -> str | None:
    return next((name for name in PROMPT_FIELDS if isinstance(fields.get(name), str | list) and fields[name]), None)


def _prompt_in(fields: Row) -> Prompt | None:
    """A prompt's text, or a conversation up to the user's last turn."""
    name = _prompt_field(fields)
    value = fields[name] if name else None
    if isinstance(value, str):
        return prompt_of(value) if value.strip() else None
    try:
        return prompt_from_messages([{"role": str(turn["role"]), "content": str(turn["content"])} for turn in value or ()])
    except (DataError, KeyError, TypeError):
        return None


FOREIGN_FORMATS: tuple[ForeignFormat, ...] = (
    ForeignFormat("Argilla", _is_argilla, _read_argilla, "id, fields, responses (dataset.records.to_json)"),
    ForeignFormat(
        "Argilla, flattened",
        _is_flat_argilla,
        _read_flat_argilla,
        "fields beside QUESTION.responses and QUESTION.responses.users",
    ),
    ForeignFormat("Label Studio", _is_label_studio, _read_label_studio, "data, annotations (JSON)"),
    ForeignFormat(
        "Label Studio, JSON-MIN", _is_small_label_studio, _read_small_label_studio, "annotator, annotation_id (JSON-MIN)"
    ),
    ForeignFormat("feedloop", _is_pair_row, _read_pair_row, "prompt, chosen, rejected"),
)


def format_of_rows(rows: Sequence[Any]) -> ForeignFormat | None:
    """The tool whose shape most rows have; None: no known one."""
    fits = Counter(shape.name for row in rows for shape in _first_fit(row))
    if not fits:
        return None
    name, count = fits.most_common(1)[0]
    return next(shape for shape in FOREIGN_FORMATS if shape.name == name) if 2 * count > len(rows) else None


def _first_fit(row: Any) -> Iterator[ForeignFormat]:
    if isinstance(row, Mapping):
        yield from [shape for shape in FOREIGN_FORMATS if shape.fits(row)][:1]


def read_foreign_rows(rows: Sequence[Any], shape: ForeignFormat) -> ForeignVotes:
    """All judgements of an export, in the file's order."""
    result = ForeignVotes()
    for row in rows:
        if isinstance(row, Mapping) and shape.fits(row):
            shape.read(row, result)
        else:
            result.drop("a row of another shape")
    return result
