"""Rows with judged answers: several with scores or ranks, pairs, votes between two, one answer with its score or label."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

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
# What `scored_row` writes beside a judgement that people made.
WEIGHT, RATER, BOTH_BAD = "judgement_weight", "rater", "both_bad"
ITEM_TEXTS = ("response", "answer", "text", "completion", "output", "content")
# A better and a worse answer: plain, OpenAI's, ms-swift's and OpenPipe's, where the better one ends the conversation.
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
Turns = tuple[Message, ...]


def is_listed(row: Mapping[str, Any]) -> bool:
    """Whether several answers stand in one list: objects, or texts beside a list of their scores."""
    return _answer_list(row) is not None


def _answer_list(row: Mapping[str, Any]) -> str | None:
    if "responses_and_scores" in row:
        return "responses_and_scores"
    for name in ANSWER_LISTS:
        items = row.get(name)
        if isinstance(items, list) and items:
            if all(isinstance(item, Mapping) and role_of(item.get("role", item.get("from"))) is None for item in items):
                return name
            if all(isinstance(item, str) for item in items) and any(isinstance(row.get(n), list) for n in SCORE_LISTS):
                return name
    return None


def read_answer_list(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """GPT-4-LLM's responses_and_scores, UltraFeedback's completions, Nectar's answers; texts and scores in two lists."""
    field = _answer_list({name: row.peek(name) for name in row}) or "responses_and_scores"
    items = _with_scores(row, field)
    prompt = prompt_in_row(row, where)
    objects = [item for item in items if isinstance(item, Mapping)]
    has_scores = any(item.get(name) is not None for item in objects for name in SCORES)
    has_ranks = not has_scores and any(item.get("rank") is not None for item in objects)
    answers = []
    for i, item in enumerate(items):
        name = f"{field}[{i}]"
        if not isinstance(item, Mapping):
            raise Unfit(name, "type", f"an answer is {type_in_words(item)}, not an object", f"mend `{name}`")
        fields = row.inside(f"{field}[]", item)
        with inside(name):
            response = answer_of(fields, first_field(fields, ITEM_TEXTS), may_be_empty=True)
            source = _source(fields)
        try:
            score = number_of(fields, "rank" if has_ranks else first_field(fields, SCORES))
        except Unfit as unfit:  # as "N/A" among a hundred thousand: the answer waits for a score, the others teach
            yield Unfit(f"{name}.{unfit.field}", "score", f"{unfit.message}; the answer has no score", unfit.todo)
            score = None
        answers.append(Answer(response=response, score=score, source=source))
    answers = _from_ranks(answers) if has_ranks else answers
    # An empty answer that lost is a judgement like any other; one that was judged better than another is worth a look.
    lowest = min((answer.score for answer in answers if answer.score is not None), default=None)
    for i, answer in enumerate(answers):
        if not answer.response and answer.score != lowest:
            todo = "remove it if it is a mistake"
            yield Unfit(f"{field}[{i}].response", "empty", "the answer is empty; it is kept as one", todo)
    yield JudgedPrompt(prompt=prompt, answers=tuple(answers), weight=_weight(row), rater=_rater(row), both_bad=_both_bad(row))


def _weight(row: Fields) -> float:
    """`judgement_weight`, 1 where there is none. Raises Unfit where it is no finite number above 0."""
    weight = number_of(row, WEIGHT)
    if weight is not None and weight <= 0:
        raise Unfit(WEIGHT, "score", f"`{WEIGHT}` is {weight:g}, not above 0", "give a weight above 0, or remove the row")
    return 1.0 if weight is None else weight


def _rater(row: Fields) -> str:
    """Who judged: a name or a number. Any other value is no rater."""
    rater = row.peek(RATER)
    is_named = isinstance(rater, str | int) and not isinstance(rater, bool)
    return str(row[RATER]).strip() if is_named else ""


def _both_bad(row: Fields) -> bool:
    """Whether the tie is one of bad answers. Raises Unfit where the field is neither true nor false."""
    both_bad = row.get(BOTH_BAD)
    if both_bad is not None and not isinstance(both_bad, bool):
        message = f"`{BOTH_BAD}` is {reprlib.repr(both_bad)}, not true or false"
        raise Unfit(BOTH_BAD, "type", message, "write true or false, or remove the field")
    return bool(both_bad)


def _with_scores(row: Fields, field: str) -> list[Any]:
    """The list's items; texts each with the score at their index in the list beside them."""
    items = list_of(row, field)
    if field == "responses_and_scores" or not isinstance(items[0], str):
        return items
    beside = next(name for name in SCORE_LISTS if isinstance(row.peek(name), list))
    scores = list_of(row, beside)
    if len(scores) != len(items):
        raise Unfit(beside, "score", f"{len(scores)} scores of {len(items)} answers", "give one score for each answer")
    return [{"response": text, "score": score} for text, score in zip(items, scores, strict=True)]


def _source(item: Fields, names: Sequence[str] = SOURCES) -> str:
    """The answer's writer, where the row names one."""
    name = next((name for name in names if isinstance(item.peek(name), str)), None)
    return text_of(item, name, may_be_empty=True) if name else ""


def _from_ranks(answers: list[Answer]) -> list[Answer]:
    """The first rank is the best: each rank below it scores one less, and the worst scores 0."""
    worst = max((answer.score for answer in answers if answer.score is not None), default=0.0)
    return [replace(answer, score=None if answer.score is None else worst - answer.score) for answer in answers]


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
            if before and other:
                _check_same_start(before, other, rejected, f"{chosen} and {rejected}")
            prompt = _prompt_of_both(row, before or other, chosen, where)
            yield JudgedPrompt.ready_made(prompt, better, worse, margin)


def _check_same_start(before: Turns, other: Turns, field: str, what: str) -> None:
    if before != other:
        raise Unfit(field, "pair", f"{what} differ before their last answer", "remove the row; it is left out")


def _side(row: Fields, name: str, *, may_be_empty: bool) -> list[tuple[Turns, str]]:
    """What one side holds: (turns before the answer, the answer), several times where it is a list of texts."""
    value = row.peek(name)
    if isinstance(value, list) and value and all(isinstance(text, str) for text in row[name]):
        texts = Fields({f"{name}[{i}]": text for i, text in enumerate(value)})
        return [((), answer_of(texts, field, may_be_empty=may_be_empty)) for field in texts]
    if isinstance(value, list):
        return [split_last_answer(turns(row, name, last_may_be_empty=may_be_empty), name)]
    return [((), response_of(row, name, may_be_empty=may_be_empty))]


def _prompt_of_both(row: Fields, before: Turns, field: str, where: Where) -> Prompt:
    """The turns that come before both answers; where there are none, the row's own prompt."""
    if not before and has_any(row, (*INSTRUCTIONS, *CHATS, "input")):
        return prompt_in_row(row, where)
    side = row.peek(field)
    for name in INSTRUCTIONS:  # a prompt that repeats the turns before the answer
        prompt = row.peek(name)
        if isinstance(prompt, list) and isinstance(side, list) and is_among(prompt, [side[: len(prompt)]]):
            row.repeats(name)
    return prompt_from_turns(with_system(row, before), field, where)


def read_transcripts(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """Anthropic HH: two transcripts that differ in their last answer."""
    before, better = split_last_answer(transcript(row, "chosen"), "chosen")
    other, worse = split_last_answer(transcript(row, "rejected"), "rejected")
    _check_same_start(before, other, "rejected", "chosen and rejected")
    if not better:
        raise Unfit("chosen", "unanswered", "the chosen answer is empty", "remove the row; it is left out")
    prompt = prompt_from_turns(with_system(row, before), "chosen", where)
    yield JudgedPrompt.ready_made(prompt, better, worse, _margin(row))


def _margin(row: Fields) -> float | None:
    """How much better the chosen answer is: `margin`, or the difference of the two answers' scores."""
    margin = number_of(row, "margin")
    if margin is not None:
        return margin
    names = next((both for both in SIDE_SCORES if all(row.peek(name) is not None for name in both)), None)
    return None if names is None else _score_difference(row, *names)


def _score_difference(row: Fields, first: str, second: str) -> float | None:
    ours, theirs = number_of(row, first), number_of(row, second)
    return None if ours is None or theirs is None else ours - theirs


WINNERS = {
    **dict.fromkeys(("model_a", "response_a", "assistant_a", "a"), 1.0),
    **dict.fromkeys(("model_b", "response_b", "assistant_b", "b"), -1.0),
}
TIES = ("tie", "both", "neither")  # how the words for a tie begin: tie (bothbad)
ONE_OF_THREE = {"winner_model_a": 1.0, "winner_model_b": -1.0, "winner_tie": 0.0}


def _winner(row: Fields, field: str) -> float | None:
    """Arena's `winner`, or the three columns of which one is 1."""
    if field not in row and has_any(row, tuple(ONE_OF_THREE)):
        wins = [lead for name, lead in ONE_OF_THREE.items() if label_of({"label": row.get(name)})]
        return wins[0] if len(wins) == 1 else None
    winner = row.get(field)
    if winner is None:
        return None
    word = winner.strip().lower() if isinstance(winner, str) else ""
    if word not in WINNERS and not word.startswith(TIES):
        raise Unfit(field, "score", f"the winner is {reprlib.repr(winner)}", "name model_a, model_b or tie")
    return WINNERS.get(word, 0.0)


def _strength(row: Fields, field: str) -> float | None:
    """HelpSteer's -3 (the first is much better) to 3 (the second is)."""
    strength = number_of(row, field)
    return None if strength is None else 0.0 - strength


def _choice(row: Fields, field: str, first: float) -> float | None:
    """A field that holds `first` where the first answer is better, else 1 - `first`."""
    choice = number_of(row, field)
    if choice is not None and choice not in (0.0, 1.0):
        todo = f"give {first:g} where the first answer is better, {1 - first:g} where the second is"
        raise Unfit(field, "score", f"`{field}` is {choice:g}", todo)
    return None if choice is None else 1.0 if choice == first else -1.0


class VoteColumns(NamedTuple):
    """Two answers under the names `first` and `second`; `lead` says how much better the first is (0: a tie)."""

    first: str
    second: str
    field: str  # where the verdict stands
    lead: Callable[[Fields, str], float | None]


VOTES = (
    VoteColumns("conversation_a", "conversation_b", "winner", _winner),  # Arena, MT-bench
    VoteColumns("response_a", "response_b", "winner", _winner),
    VoteColumns("response1", "response2", "overall_preference", _strength),
    VoteColumns("response_1", "response_2", "preference_strength", _strength),
    VoteColumns("response_0", "response_1", "better_response_id", partial(_choice, first=0.0)),
    VoteColumns("human_ref_A", "human_ref_B", "labels", partial(_choice, first=1.0)),  # SHP
    VoteColumns("answer_0", "answer_1", "score_0", partial(_score_difference, second="score_1")),  # WebGPT
)


def _vote_of(row: Mapping[str, Any]) -> VoteColumns | None:
    return next((vote for vote in VOTES if vote.first in row and vote.second in row), None)


def is_vote(row: Mapping[str, Any]) -> bool:
    """Whether two answers stand side by side under names of which neither says that it won."""
    return _vote_of(row) is not None


def read_vote(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """Two answers and which is better: the winner is `chosen`, how much better it is the margin; a tie has margin 0."""
    vote = _vote_of(row)
    if vote is None:
        raise Unfit("row", "missing", "there are no two answers", "give both")
    lead = vote.lead(row, vote.field)
    fields = _parse_table_turns(row, vote) if suffix_of(where.file) in CELL_SUFFIXES else row
    (before, one), (other, two) = (_side(fields, name, may_be_empty=True)[0] for name in (vote.first, vote.second))
    if before and other:
        _check_same_start(before, other, vote.second, "the two conversations")
    prompt = _prompt_of_both(row, before or other, vote.first, where) if before or other else prompt_in_row(row, where)
    if lead is None:
        raise Unfit(vote.field, "unranked", "it does not say which answer is better", "add it; the row is left out")
    better, worse = (one, two) if lead >= 0 else (two, one)
    yield JudgedPrompt.ready_made(prompt, better, worse, abs(lead))


def _parse_table_turns(row: Fields, vote: VoteColumns) -> Fields:
    """Arena's table: prompt and answers are lists of the turns' texts, as JSON. Any other row is as it is."""
    lists = [json_list(row.peek(name)) for name in ("prompt", vote.first, vote.second)]
    if any(one is None for one in lists):
        return row
    questions, *both = ([text for text in one or [] if isinstance(text, str)] for one in lists)
    conversations = {}
    for name, answers in zip((vote.first, vote.second), both, strict=True):
        if len(answers) != len(questions):
            raise Unfit(name, "pair", f"`{name}` does not answer each turn of the prompt", "remove the row; it is left out")
        conversations[name] = [
            {"role": role, "content": text}
            for turn in zip(questions, answers, strict=True)
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        row.get(name)
    row.get("prompt")
    return Fields(conversations)


def label_of(row: Mapping[str, Any]) -> float | None:
    """KTO's label of an answer, wanted or not: 1 or 0. A label of any other kind is a class, and None."""
    for name in LABELS:
        label = row.get(name)
        label = label.strip().lower() if isinstance(label, str) else label
        if label in (True, "true", "1", "1.0"):  # 1 == True and 1.0 == True: as tables write it
            return 1.0
        if label is not None and label in (False, "false", "0", "0.0"):
            return 0.0
    return None


def is_labelled_answer(row: Mapping[str, Any]) -> bool:
    """KTO: an answer that is wanted or not. It is never imitated."""
    return has_any(row, LABELS) and _has_one_answer(row) and label_of(row) is not None


def is_scored_answer(row: Mapping[str, Any]) -> bool:
    """An answer with a score beside it."""
    return has_any(row, SCORES) and _has_one_answer(row) and any(isinstance(row.get(n), int | float | str) for n in SCORES)


def _has_one_answer(row: Mapping[str, Any]) -> bool:
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
    source = _source(row, SOURCES[1:])  # a row's own `source` says which data set it comes from
    score = label_of({name: row.peek(name) for name in LABELS})
    try:
        if score is None:
            score = number_of(row, first_field(row, SCORES))
        else:
            row.get(first_field(row, LABELS))
    except Unfit as unfit:
        yield Unfit(unfit.field, "score", f"{unfit.message}; the answer has no score", unfit.todo)
    yield JudgedPrompt(prompt=prompt, answers=(Answer(response=response, score=score, source=source),))


def is_tree(row: Mapping[str, Any]) -> bool:
    """Whether the prompt is a message with replies."""
    return isinstance(row.get("prompt"), Mapping)


def read_tree(row: Fields, where: Where) -> Iterable[Record | Unfit]:
    """OpenAssistant: every prompter's message with two or more ranked replies. Rank 0 is the best of K and scores K - 1."""
    root = row.get("prompt")
    if not isinstance(root, Mapping):
        raise Unfit("prompt", "type" if root else "missing", f"`prompt` is {type_in_words(root)}, not a message")
    has_ranks = False
    queue: list[tuple[str, Fields, Turns]] = [("prompt", row.inside("prompt", root), ())]
    for name, node, before in queue:  # grows as it goes
        speaker = node.get("role", "assistant" if before and before[-1].role == "user" else "prompter")
        role = role_of(speaker)
        if role is None or role == (before[-1].role if before else "assistant"):
            kind = "type" if role is None else "order"
            raise Unfit(f"{name}.role", kind, f"a message is by {reprlib.repr(speaker)}", "prompter and assistant take turns")
        with inside(name):
            read = answer_of if role == "assistant" else text_of
            messages = (*before, Message(role=role, content=read(node, "text")))
            replies = list_of(node, "replies") if node.get("replies") else []
        answers = []
        for i, reply in enumerate(replies):
            path = f"{name}.replies[{i}]"
            if not isinstance(reply, Mapping):
                raise Unfit(path, "type", f"a reply is {type_in_words(reply)}, not an object", f"mend `{path}`")
            fields = row.inside("replies[]", reply)
            queue.append((path, fields, messages))
            with inside(path):
                rank = number_of(fields, "rank")
                if rank is not None:
                    source = _source(fields) or "person"
                    answers.append(Answer(response=answer_of(fields, "text"), score=rank, source=source))
        if role == "user" and len(answers) > 1:
            has_ranks = True
            yield JudgedPrompt(prompt=Prompt(messages=messages, where=where), answers=tuple(_from_ranks(answers)))
    if not has_ranks:
        raise Unfit("prompt", "unranked", "no message of the tree has two ranked replies", "rank them; the tree is left out")
