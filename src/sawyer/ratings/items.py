"""What there is to judge: items from files of answers, and from a run's collected answers."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from sawyer.errors import DataError
from sawyer.ratings.choices import GRADES, MAX_ANSWERS
from sawyer.ratings.rating_types import Item, Method
from sawyer.records import Answer, Message, Problem, Prompt, check, read_answers
from sawyer.records.record_types import JudgedPrompt, prompt_in, responses_of
from sawyer.runs.atomic_files import read_rows
from sawyer.runs.layout import Layout

MAX_PAIRED = 32  # answers to one prompt whose pairs become items: 496 pairs, more than anybody judges
MAX_ROUNDS = 1000


class AnswerReward(NamedTuple):
    """The reward model's score of an answer, and how far an ensemble's members disagree on it (None: a single model)."""

    reward: float
    disagreement: float | None


Conversation = tuple[tuple[str, str], ...]  # (role, content) of each message
Rewards = Mapping[tuple[Conversation, str], AnswerReward]


def item_id(prompt: Prompt, responses: Iterable[str]) -> str:
    """A hash of the conversation and the responses, whatever their order: 32 hexadecimal digits."""
    return _combined_id(_prompt_hash(prompt), sorted(map(_text_hash, responses)))


def item_of(prompt: Prompt, answers: Iterable[Answer], *, round: int = 1, uncertainty: float | None = None) -> Item:
    """The item of these answers. Of answers with the same text the first one counts.

    The answers stand in the order of their hashes: neither the file's order nor its judgement (the chosen answer first) shows.
    Raises DataError where fewer than two texts differ.
    """
    first: dict[str, Answer] = {}
    for answer in answers:
        first.setdefault(answer.response, answer)
    if len(first) < 2:
        raise DataError("an item has fewer than two different answers", where=str(prompt.where), expected="two or more")
    hashes = {_text_hash(response): answer for response, answer in first.items()}
    return _item(_bare(prompt), _prompt_hash(prompt), hashes, tuple(sorted(hashes)), round, uncertainty)


def items_from(
    source: str | Path | Sequence[str | Path] | Layout, method: Method, problems: list[Problem], seed: int = 0
) -> list[Item]:
    """The items of files of answers (any format that training reads: scored, unscored, pairs), or of a run.

    pair, graded: K answers to a prompt give their K(K-1)/2 pairs. rank, score: all K are one item, of more than 8 the first 8.
    The same text twice is one answer. Prompts come in an order that `seed` draws, and each gives one pair before any gives a
    second. What cannot be judged is appended to `problems`. A run's answers have their round, and an uncertainty where the
    reward model has scored them. Raises DataError where nothing can be judged.
    """
    if isinstance(source, Layout):
        files: list[tuple[int, str | Path]] = [
            (number, path) for number in range(1, MAX_ROUNDS) if (path := source.answers_of(number)).exists()
        ]
        rewards = _read_rewards(source.answer_rewards)
        if not files:
            raise DataError(
                f"the run {source.root} has no answers yet",
                expected=f"answers to judge in {source.answers}",
                todo="collect them first: `sawyer collect CONFIG`, or `sawyer run CONFIG` as far as that",
            )
    else:
        paths = [source] if isinstance(source, str | Path) else source
        files, rewards = [(1, path) for path in paths], {}
    before = len(problems)
    items: list[Item] = []
    seen: set[str] = set()
    for number, group in _by_round(files).items():
        of_round = _items_of_round(group, number, method, problems, seed, rewards)
        items += [item for item in of_round if item.id not in seen]
        seen.update(item.id for item in of_round)
    if not items:
        raise _nothing_to_judge([str(path) for _, path in files], problems[before:])
    return items


def _by_round(files: Iterable[tuple[int, str | Path]]) -> dict[int, list[str]]:
    groups: dict[int, list[str]] = {}
    for number, path in files:
        groups.setdefault(number, []).append(str(path))
    return groups


def _items_of_round(
    paths: Sequence[str], number: int, method: Method, problems: list[Problem], seed: int, rewards: Rewards
) -> list[Item]:
    answers = _read_by_prompt(paths, problems)
    most = MAX_PAIRED if method in GRADES else MAX_ANSWERS
    tiers: list[tuple[int, bytes, Item]] = []
    for prompt, by_text in answers.values():
        if len(by_text) < 2:
            problems.append(_problem(prompt, "one answer", "the prompt has one answer", "add another; the prompt is left out"))
            continue
        if len(by_text) > most:
            message = f"the prompt has {len(by_text):,} answers, of which the first {most} are judged"
            problems.append(_problem(prompt, "many answers", message, "put the ones to judge first"))
        conversation, prompt_hash = _bare(prompt), _prompt_hash(prompt)
        hashes = {_text_hash(response): answer for response, answer in list(by_text.items())[:most]}
        order = _draw(seed, prompt_hash)
        sets = list(combinations(sorted(hashes), 2)) if method in GRADES else [tuple(sorted(hashes))]
        random.Random(order).shuffle(sets)
        for tier, keys in enumerate(sets):
            uncertainty = _uncertainty(conversation, [hashes[key].response for key in keys], rewards) if rewards else None
            tiers.append((tier, order, _item(conversation, prompt_hash, hashes, keys, number, uncertainty)))
    tiers.sort(key=lambda entry: entry[:2])
    return [item for _, _, item in tiers]


def _read_by_prompt(paths: Sequence[str], problems: list[Problem]) -> dict[Conversation, tuple[Prompt, dict[str, Answer]]]:
    """Conversation -> (prompt, response -> its first answer), both in the files' order."""
    answers: dict[Conversation, tuple[Prompt, dict[str, Answer]]] = {}
    for row in read_answers(paths, problems):
        for record in row.records:
            prompt = prompt_in(record)
            _, by_text = answers.setdefault(_conversation(prompt), (prompt, {}))
            if isinstance(record, JudgedPrompt):
                for answer in record.answers:
                    by_text.setdefault(answer.response, answer)
            else:
                for response in responses_of(record):
                    by_text.setdefault(response, Answer(response=response, score=None))
    return answers


def _read_rewards(path: Path) -> Rewards:
    """The reward model's scores of a run's answers; none where it has not scored them. Raises RunError for a damaged file."""
    rewards: dict[tuple[Conversation, str], AnswerReward] = {}
    for row in read_rows(path):
        try:
            # Rows of answers are read without white space at an answer's end; the reward model may have seen it.
            key = tuple((turn["role"], turn["content"]) for turn in row["prompt"]), row["response"].rstrip()
        except (KeyError, TypeError, AttributeError):
            continue  # another version's row: items without an uncertainty are judged in a random order
        reward, disagreement = row.get("reward"), row.get("disagreement")
        if _is_finite(reward):
            rewards[key] = AnswerReward(float(reward or 0), disagreement if _is_finite(disagreement) else None)
    return rewards


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _uncertainty(prompt: Prompt, responses: Sequence[str], rewards: Rewards) -> float | None:
    """How unsure the reward model is: its ensemble's mean disagreement on these answers; of a single model, minus the smallest
    difference between two rewards. None where an answer has no reward."""
    conversation = _conversation(prompt)
    scores = [rewards[key] for response in responses if (key := (conversation, response)) in rewards]
    if len(scores) < len(responses):
        return None
    disagreements = [score.disagreement for score in scores if score.disagreement is not None]
    if len(disagreements) == len(scores):
        return math.fsum(disagreements) / len(disagreements)
    values = sorted(score.reward for score in scores)
    return -min(above - below for below, above in pairwise(values))


def _nothing_to_judge(paths: Sequence[str], problems: Sequence[Problem]) -> DataError:
    """Why no item came of the files, by what most rows lack."""
    where = paths[0] if len(paths) == 1 else ", ".join(paths)
    single = sum(problem.kind == "one answer" for problem in problems)
    if not single and all(report.want == "prompts" and report.records for report in check(paths)):
        return DataError(
            "the rows are prompts without answers",
            where=where,
            expected="two or more answers to each prompt: scored, unscored or pairs",
            todo="have a model answer them first: name the file in `collect: {prompts: [...]}` and run `sawyer collect CONFIG`",
        )
    if single:
        return DataError(
            "the only prompt has one answer" if single == 1 else f"each of the {single:,} prompts has one answer",
            where=where,
            expected="two or more different answers to a prompt",
            todo="add a second answer to each prompt, or have a model write several: `sawyer collect CONFIG`",
        )
    first = problems[0] if problems else None
    return DataError(
        "there is nothing to judge" + (f": {first.message}" if first else ""),
        where=first.where if first else where,
        expected="rows with a prompt and two or more different answers",
        todo=first.todo if first else "name a file with rows",
    )


def _problem(prompt: Prompt, kind: str, message: str, todo: str) -> Problem:
    return Problem(where=str(prompt.where), kind=kind, message=message, todo=todo)


def _item(
    prompt: Prompt,
    prompt_hash: bytes,
    hashes: Mapping[bytes, Answer],
    keys: tuple[bytes, ...],
    number: int,
    uncertainty: float | None,
) -> Item:
    answers = tuple(hashes[key] for key in keys)
    return Item(id=_combined_id(prompt_hash, keys), prompt=prompt, answers=answers, round=number, uncertainty=uncertainty)


def _bare(prompt: Prompt) -> Prompt:
    """The conversation alone: the same from whatever file it comes."""
    if all(message.in_loss for message in prompt.messages):
        return Prompt(messages=prompt.messages)
    return Prompt(messages=tuple(replace(message, in_loss=True) for message in prompt.messages))


def _conversation(prompt: Prompt) -> Conversation:
    return tuple((message.role, message.content) for message in prompt.messages)


def messages_json(messages: Iterable[Message]) -> str:
    """A conversation as ASCII JSON: halves of characters and NUL, which SQLite and UTF-8 do not take, are escaped."""
    return json.dumps([[message.role, message.content] for message in messages])


def _prompt_hash(prompt: Prompt) -> bytes:
    return hashlib.sha256(messages_json(prompt.messages).encode()).digest()


def _text_hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _combined_id(prompt_hash: bytes, response_hashes: Iterable[bytes]) -> str:
    return hashlib.sha256(prompt_hash + b"".join(response_hashes)).hexdigest()[:32]


def _draw(seed: int, *keys: bytes) -> bytes:
    """A random sort key: a function of the seed and the content, not of where it stands in a file."""
    return hashlib.blake2b(b"".join(keys), digest_size=8, key=str(seed).encode()[:64]).digest()
