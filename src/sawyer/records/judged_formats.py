"""Rows with judged answers: several with scores or ranks, pairs, votes between two, one answer with its score or label."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sawyer.records.conversation import (
    CHATS,
    INSTRUCTIONS,
    RESPONSES,
    json_list,
    prompt_from_turns,
    prompt_in_row,
    response_of,
    role_of,
    split_last_answer,
    transcript,
    turns,
    waits,
    with_system,
)
from sawyer.records.data_files import CELL_SUFFIXES, suffix_of
from sawyer.records.fields import (
    Fields,
    answer_of,
    first_field,
    has_any,
    inside,
    is_among,
    list_of,
    number_of,
    text_of,
    type_in_words,
)
from sawyer.records.problems import Unfit
from sawyer.records.record_types import Answer, JudgedPrompt, Message, Prompt, Record, Where

ANSWER_LISTS = ("responses_and_scores", "completions", "answers", "generations", "responses")
SCORE_LISTS = ("scores", "ratings", "rating")
SCORES = ("score", "overall_score", "fine-grained_score", "rating", "pm_score", "helpfulness")  # the last is HelpSteer's
LABELS = ("label", "kto_tag")
SOURCES = ("source", "model", "model_name")
ITEM_TEXTS = ("response", "answer", "text", "completion", "output", "content")
# A better and a worse answer: plain, OpenAI's, ms-swift's and OpenPipe's, where the better one is a conversation's last.
SIDES = (
    ("chosen", "rejected"),
    ("preferred_output", "non_preferred_output"),
    ("messages", "rejected_response"),
    ("response", "rejected_response"),
    ("messages", "rejected_message"),
)
SIDE_SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("chosen_avg_rating", "rejected_avg_rating"),
)


def is_listed(row: Mapping[str, Any]) -> bool:
    """Whether several answers stand in one list: objects, or texts beside a list of their scores."""
    return _answer_list(row) is not None


def _answer_list(row: Mapping[str, Any]) -> str | None:
    if "responses_and_scores" in row:
        return "responses_and_scores"
    for name in ANSWER_LISTS:
        given = row.get(name)
        if isinstance(given, list) and given:
            if all(isinstance(item, Mapping) and role_of(item.get("role", item.get("from"))) is None for item in given):
                return name
            if all(isinstance(item, str) for item in given) and any(isinstance(row.get(n), list) for n in SCORE_LISTS):
                return name
    return None


def read_answer_list(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """GPT-4-LLM's responses_and_scores, UltraFeedback's completions, Nectar's answers; texts and scores in two lists."""
    field = _answer_list({name: row.peek(name) for name in row}) or "responses_and_scores"
    items = _with_scores(row, field)
    prompt = prompt_in_row(row, where)
    ranked = _is_ranked(items)
    answers = []
    for place, item in enumerate(items):
        name = f"{field}[{place}]"
        if not isinstance(item, Mapping):
            raise Unfit(name, "type", f"an answer is {type_in_words(item)}, not an object", f"mend `{name}`")
        fields = row.inside(f"{field}[]", item)
        with inside(name):
            response = answer_of(fields, first_field(fields, ITEM_TEXTS), may_be_empty=True)
            source = _source(fields)
        try:
            score = number_of(fields, "rank" if ranked else first_field(fields, SCORES))
        except Unfit as unfit:  # as "N/A" among a hundred thousand: the answer waits for a score, the others teach
            yield Unfit(f"{name}.{unfit.field}", "score", f"{unfit.message}; the answer has no score", unfit.todo)
            score = None
        answers.append(Answer(response=response, score=score, source=source))
    answers = _from_ranks(answers) if ranked else answers
    yield from _empty_winners(answers, field)
    yield JudgedPrompt(prompt=prompt, answers=tuple(answers))


def _with_scores(row: Fields, field: str) -> list[Any]:
    """The list's items; texts each with the score at their place in the list beside them."""
    given = list_of(row, field)
    if field == "responses_and_scores" or not isinstance(given[0], str):
        return given
    beside = next(name for name in SCORE_LISTS if isinstance(row.peek(name), list))
    scores = list_of(row, beside)
    if len(scores) != len(given):
        raise Unfit(beside, "score", f"{len(scores)} scores of {len(given)} answers", "give one score for each answer")
    return [{"response": text, "score": score} for text, score in zip(given, scores, strict=True)]


def _is_ranked(items: Iterable[Any]) -> bool:
    """Whether the answers have ranks in place of scores."""
    given = [item for item in items if isinstance(item, Mapping)]
    scored = any(item.get(name) is not None for item in given for name in SCORES)
    return not scored and any(item.get("rank") is not None for item in given)


def _source(item: Fields, names: Sequence[str] = SOURCES) -> str:
    """Who wrote the answer, where somebody says so."""
    name = next((name for name in names if isinstance(item.peek(name), str)), None)
    return text_of(item, name, may_be_empty=True) if name else ""


def _from_ranks(answers: list[Answer]) -> list[Answer]:
    """The first rank is the best: each rank below it scores one less, and the worst scores 0."""
    worst = max((answer.score for answer in answers if answer.score is not None), default=0.0)
    return [Answer(response=a.response, score=None if a.score is None else worst - a.score, source=a.source) for a in answers]


def _empty_winners(answers: list[Answer], field: str) -> Iterable[Unfit]:
    """An empty answer that lost is a judgement like any other; one that was judged better than another is worth a look."""
    lowest = min((answer.score for answer in answers if answer.score is not None), default=None)
    for place, answer in enumerate(answers):
        if not answer.response and answer.score != lowest:
            told = "the answer is empty; it is kept as one"
            yield Unfit(f"{field}[{place}].response", "empty", told, "remove it if it is a mistake")


def is_pair(row: Mapping[str, Any]) -> bool:
    """Whether a better and a worse answer stand side by side, as `chosen` and `rejected` or by another pair of names."""
    return _sides_of(row) is not None


def _sides_of(row: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((names for names in SIDES if names[0] in row and names[1] in row), None)


def is_transcripts(row: Mapping[str, Any]) -> bool:
    """Whether the two are whole transcripts, without a prompt beside them."""
    return "rejected" in row and isinstance(row.get("chosen"), str) and not has_any(row, (*INSTRUCTIONS, *CHATS))


def read_pair(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """Both sides as text, as one turn, as whole conversations; either may be a list of several texts."""
    margin = _margin(row)
    chosen, rejected = _sides_of(row) or SIDES[0]
    for before, better in _side(row, chosen, may_be_empty=False):
        for other, worse in _side(row, rejected, may_be_empty=True):
            if before and other and before != other:
                told = f"{chosen} and {rejected} differ before their last answer"
                raise Unfit(rejected, "pair", told, "remove the row; it is left out")
            prompt = _shared(row, before or other, chosen, where)
            yield JudgedPrompt.ready_made(prompt, better, worse, margin)


def _side(row: Fields, name: str, *, may_be_empty: bool) -> list[tuple[tuple[Message, ...], str]]:
    """What one side holds: (turns before the answer, the answer), several times where it is a list of texts."""
    value = row.peek(name)
    if isinstance(value, list) and value and all(isinstance(text, str) for text in row[name]):
        texts = Fields({f"{name}[{place}]": text for place, text in enumerate(value)})
        return [((), answer_of(texts, field, may_be_empty=may_be_empty)) for field in texts]
    if isinstance(value, list):
        return [split_last_answer(turns(row, name, last_may_be_empty=may_be_empty), name)]
    return [((), response_of(row, name, may_be_empty=may_be_empty))]


def _shared(row: Fields, before: tuple[Message, ...], field: str, where: Where) -> Prompt:
    """The turns that come before both answers; where there are none, the row's own prompt."""
    if not before and has_any(row, (*INSTRUCTIONS, *CHATS, "input")):
        return prompt_in_row(row, where)
    talk = row.peek(field)
    for name in INSTRUCTIONS:  # a prompt that repeats the turns before the answer
        given = row.peek(name)
        if isinstance(given, list) and isinstance(talk, list) and is_among(given, [talk[: len(given)]]):
            row.repeats(name)
    return prompt_from_turns(with_system(row, before), field, where)


def read_transcripts(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """Anthropic HH: two transcripts that differ in their last answer."""
    before, better = split_last_answer(transcript(row, "chosen"), "chosen")
    other, worse = split_last_answer(transcript(row, "rejected"), "rejected")
    if before != other:
        raise Unfit("rejected", "pair", "chosen and rejected differ before their last answer", "remove the row; it is left out")
    if not better:
        raise Unfit("chosen", "unanswered", "the chosen answer is empty", "remove the row; it is left out")
    prompt = prompt_from_turns(with_system(row, before), "chosen", where)
    yield JudgedPrompt.ready_made(prompt, better, worse, _margin(row))


def _margin(row: Fields) -> float | None:
    """How much better the chosen answer is: `margin`, or the difference of the two answers' scores."""
    margin = number_of(row, "margin")
    if margin is not None:
        return margin
    for chosen, rejected in SIDE_SCORES:
        if row.peek(chosen) is not None and row.peek(rejected) is not None:
            better, worse = number_of(row, chosen), number_of(row, rejected)
            return None if better is None or worse is None else better - worse
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """Two answers under the names `first` and `second`; `verdict` says how much better the first is (0: a tie)."""

    first: str
    second: str
    field: str  # where the verdict stands
    verdict: Callable[[Fields], float | None]


WINNERS = {
    **dict.fromkeys(("model_a", "response_a", "assistant_a", "a"), 1.0),
    **dict.fromkeys(("model_b", "response_b", "assistant_b", "b"), -1.0),
}
TIES = ("tie", "both", "neither")  # how the words for a tie begin: tie (bothbad)
ONE_OF_THREE = {"winner_model_a": 1.0, "winner_model_b": -1.0, "winner_tie": 0.0}


def _winner(row: Fields) -> float | None:
    """Arena's `winner`, or the three columns of which one is 1."""
    if "winner" not in row and has_any(row, tuple(ONE_OF_THREE)):
        won = [apart for name, apart in ONE_OF_THREE.items() if label_of({"label": row.get(name)})]
        return won[0] if len(won) == 1 else None
    said = row.get("winner")
    if said is None:
        return None
    word = said.strip().lower() if isinstance(said, str) else ""
    if word not in WINNERS and not word.startswith(TIES):
        raise Unfit("winner", "score", f"the winner is {reprlib.repr(said)}", "name model_a, model_b or tie")
    return WINNERS.get(word, 0.0)


def _strength(field: str) -> Callable[[Fields], float | None]:
    """HelpSteer's -3 (the first is much better) to 3 (the second is)."""

    def verdict(row: Fields) -> float | None:
        strength = number_of(row, field)
        return None if strength is None else 0.0 - strength

    return verdict


def _choice(field: str, first: float) -> Callable[[Fields], float | None]:
    """A field that holds `first` where the first answer is better, else 1 - `first`."""

    def verdict(row: Fields) -> float | None:
        said = number_of(row, field)
        if said is not None and said not in (0.0, 1.0):
            todo = f"give {first:g} where the first answer is better, {1 - first:g} where the second is"
            raise Unfit(field, "score", f"`{field}` is {said:g}", todo)
        return None if said is None else 1.0 if said == first else -1.0

    return verdict


def _two_scores(row: Fields) -> float | None:
    first, second = number_of(row, "score_0"), number_of(row, "score_1")
    return None if first is None or second is None else first - second


VOTES = (
    Vote(first="conversation_a", second="conversation_b", field="winner", verdict=_winner),  # Arena, MT-bench
    Vote(first="response_a", second="response_b", field="winner", verdict=_winner),
    Vote(first="response1", second="response2", field="overall_preference", verdict=_strength("overall_preference")),
    Vote(first="response_1", second="response_2", field="preference_strength", verdict=_strength("preference_strength")),
    Vote(first="response_0", second="response_1", field="better_response_id", verdict=_choice("better_response_id", 0.0)),
    Vote(first="human_ref_A", second="human_ref_B", field="labels", verdict=_choice("labels", 1.0)),  # SHP
    Vote(first="answer_0", second="answer_1", field="score_0", verdict=_two_scores),  # WebGPT
)


def _vote_of(row: Mapping[str, Any]) -> Vote | None:
    return next((vote for vote in VOTES if vote.first in row and vote.second in row), None)


def is_vote(row: Mapping[str, Any]) -> bool:
    """Whether two answers stand side by side under names of which neither says that it won."""
    return _vote_of(row) is not None


def read_vote(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """Two answers and which is better: the winner is `chosen`, how much better it is the margin; a tie has margin 0."""
    kind = _vote_of(row)
    if kind is None:
        raise Unfit("row", "missing", "there are no two answers", "give both")
    apart = kind.verdict(row)
    talks = _parse_table_turns(row, kind) if suffix_of(where.file) in CELL_SUFFIXES else row
    (before, one), (other, two) = (_side(talks, name, may_be_empty=True)[0] for name in (kind.first, kind.second))
    if before and other and before != other:
        told = "the two conversations differ before their last answer"
        raise Unfit(kind.second, "pair", told, "remove the row; it is left out")
    prompt = _shared(row, before or other, kind.first, where) if before or other else prompt_in_row(row, where)
    if apart is None:
        raise Unfit(kind.field, "unranked", "nobody said which answer is better", "add it; the row is left out")
    better, worse = (one, two) if apart >= 0 else (two, one)
    yield JudgedPrompt.ready_made(prompt, better, worse, abs(apart))


def _parse_table_turns(row: Fields, kind: Vote) -> Fields:
    """Arena's table: prompt and answers are lists of the turns' texts, as JSON. Any other row is as it is."""
    texts = [json_list(row.peek(name)) for name in ("prompt", kind.first, kind.second)]
    if any(given is None for given in texts):
        return row
    questions, *answers = ([text for text in given or [] if isinstance(text, str)] for given in texts)
    talks = {}
    for name, said in zip((kind.first, kind.second), answers, strict=True):
        if len(said) != len(questions):
            told = f"`{name}` does not answer each turn of the prompt"
            raise Unfit(name, "pair", told, "remove the row; it is left out")
        turns_said = (
            ({"role": "user", "content": q}, {"role": "assistant", "content": a}) for q, a in zip(questions, said, strict=True)
        )
        talks[name] = [turn for both in turns_said for turn in both]
        row.get(name)
    row.get("prompt")
    return Fields(talks)


def label_of(row: Mapping[str, Any]) -> float | None:
    """KTO's label of an answer, wanted or not: 1 or 0. A label of any other kind is a class, and None."""
    for name in LABELS:
        said = row.get(name)
        said = said.strip().lower() if isinstance(said, str) else said
        if said in (True, "true", "1", "1.0"):  # 1 == True and 1.0 == True: as tables write it
            return 1.0
        if said is not None and said in (False, "false", "0", "0.0"):
            return 0.0
    return None


def is_labelled_answer(row: Mapping[str, Any]) -> bool:
    """KTO: an answer that is wanted or not. It is never imitated."""
    return has_any(row, LABELS) and is_answered(row) and label_of(row) is not None


def is_scored_answer(row: Mapping[str, Any]) -> bool:
    """An answer with a score beside it."""
    return has_any(row, SCORES) and is_answered(row) and any(isinstance(row.get(name), int | float | str) for name in SCORES)


def is_answered(row: Mapping[str, Any]) -> bool:
    """Whether the row holds a prompt and one answer to it."""
    return (has_any(row, INSTRUCTIONS) and has_any(row, RESPONSES)) or (has_any(row, CHATS) and not waits(row))


def read_single_answer(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """One answer with its score or label; rows of the same prompt are one record in the end."""
    if has_any(row, INSTRUCTIONS) and has_any(row, RESPONSES):
        prompt, response = prompt_in_row(row, where), response_of(row, first_field(row, RESPONSES), may_be_empty=True)
    else:
        field = first_field(row, CHATS)
        before, response = split_last_answer(turns(row, field, last_may_be_empty=True), field)
        prompt = prompt_from_turns(with_system(row, before), field, where)
    writer, score = _source(row, SOURCES[1:]), None  # a row's own `source` says which data set it comes from
    try:
        score = _own_score(row)
    except Unfit as unfit:
        yield Unfit(unfit.field, "score", f"{unfit.message}; the answer has no score", unfit.todo)
    yield JudgedPrompt(prompt=prompt, answers=(Answer(response=response, score=score, source=writer),))


def _own_score(row: Fields) -> float | None:
    label = label_of({name: row.peek(name) for name in LABELS})
    if label is not None:
        row.get(first_field(row, LABELS))
        return label
    return number_of(row, first_field(row, SCORES))


def is_tree(row: Mapping[str, Any]) -> bool:
    """Whether the prompt is a message with replies."""
    return isinstance(row.get("prompt"), Mapping)


def read_tree(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """OpenAssistant: every prompter's message with two or more ranked replies. Rank 0 is the best of K and scores K - 1."""
    root = row.get("prompt")
    if not isinstance(root, Mapping):
        raise Unfit("prompt", "type" if root else "missing", f"`prompt` is {type_in_words(root)}, not a message")
    found = False
    pending: list[tuple[str, Fields, tuple[Message, ...]]] = [("prompt", row.inside("prompt", root), ())]
    for name, node, before in pending:  # grows as it goes
        said = node.get("role", "assistant" if before and before[-1].role == "user" else "prompter")
        role = role_of(said)
        if role is None or role == (before[-1].role if before else "assistant"):
            kind = "type" if role is None else "order"
            raise Unfit(f"{name}.role", kind, f"a message is by {reprlib.repr(said)}", "prompter and assistant take turns")
        with inside(name):
            read = answer_of if role == "assistant" else text_of
            messages = (*before, Message(role=role, content=read(node, "text")))
            replies = list_of(node, "replies") if node.get("replies") else []
        answers = []
        for place, reply in enumerate(replies):
            path = f"{name}.replies[{place}]"
            if not isinstance(reply, Mapping):
                raise Unfit(path, "type", f"a reply is {type_in_words(reply)}, not an object", f"mend `{path}`")
            fields = row.inside("replies[]", reply)
            pending.append((path, fields, messages))
            with inside(path):
                rank = number_of(fields, "rank")
                if rank is not None:
                    source = _source(fields) or "person"
                    answers.append(Answer(response=answer_of(fields, "text"), score=rank, source=source))
        if role == "user" and len(answers) > 1:
            found = True
            yield JudgedPrompt(prompt=Prompt(messages=messages, where=where), answers=tuple(_from_ranks(answers)))
    if not found:
        raise Unfit("prompt", "unranked", "no message of the tree has two ranked replies", "rank them; the tree is left out")
