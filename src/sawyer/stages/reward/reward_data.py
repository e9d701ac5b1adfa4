"""What the reward model learns from and is examined on: judged prompts, read, split, encoded, and those left out counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sawyer.config import Config, judged_sources, required_section
from sawyer.errors import DataError
from sawyer.maths import RewardLoss, ScoreNormalizer
from sawyer.models import LanguageModel, RewardModel, near_duplicates
from sawyer.records import JudgedPrompt, Prompt, insufficient, join_names, split
from sawyer.runs import Run
from sawyer.stages.reward.loss_choice import open_loss
from sawyer.text import RewardEncoder, limit_tokens, plain_row
from sawyer.train import NO_NORMALIZER, EncodedPrompt, Placement, distributed, encode_all, encode_judged, read_judged_files

STAGE = "reward"
SAME_TOKENS = "its answers are the same tokens as they are read"  # cut where they begin to differ
NO_PAIR = "no answer is better than another"
# Reasons for leaving a prompt out that any large file has: the plan counts them. All other reasons are warnings.
EXPECTED_REASONS = (
    "no answer has a score",
    "a single scored answer has nothing to compare with",
    "all scores are equal",
    NO_PAIR,
    SAME_TOKENS,
)


class NothingToLearnError(DataError):
    """No prompt has two answers of which one is better. `records` are all that was read."""

    records: tuple[JudgedPrompt, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardData:
    """Judged prompts for training and for evaluation; no prompt is in both."""

    train_prompts: tuple[EncodedPrompt, ...]
    eval_prompts: tuple[EncodedPrompt, ...]  # each with a pair at least
    format: str
    normalizer: ScoreNormalizer = NO_NORMALIZER  # of the training scores
    remarks: str = ""  # for the plan, "; " before each
    unread: Mapping[str, int] = field(default_factory=dict)  # column or field -> rows in which it was not read
    records: tuple[JudgedPrompt, ...] = ()  # every row that was read, those that cannot teach among them

    @property
    def examined_prompts(self) -> tuple[EncodedPrompt, ...]:
        """What the trained model is examined on: the evaluation prompts; without any, the training prompts with a pair."""
        return self.eval_prompts or tuple(prompt for prompt in self.train_prompts if prompt.pairs)


def load_reward_data(config: Config, run: Run, reader: RewardModel | LanguageModel) -> RewardData:
    """Read the config's files and, where there are any, the collected answers that have been scored.

    The loss decides what can teach: answers with a score, or pairs of which one is better. Raises DataError where nothing can.
    """
    settings = required_section(config.reward, "reward")
    loss = open_loss(settings.loss)
    sources = judged_sources(config, STAGE, run.layout.judged_files())
    files = read_judged_files(run, STAGE, sources, reader.prompt_encoder, config.max_bad_rows)
    if (problem := insufficient(files.prompts, "comparisons")) is not None:
        raise _nothing_to_learn(files.prompts, problem.where)
    train, evaluation = split(files.prompts, settings.eval_fraction)
    if evaluation and not train:
        raise DataError(
            f"reward.eval_fraction is {settings.eval_fraction:g}: all {len(evaluation):,} rows of reward.data are held out, "
            "none is left to train on",
            expected="rows on both sides",
            todo="lower reward.eval_fraction, or give more judged prompts",
        )
    encoder, left_out = limit_tokens(reader.prompt_encoder, settings.max_tokens), LeftOut()
    train_prompts = _encode_prompts(train, encoder, run, left_out, loss)
    eval_candidates = _encode_prompts(evaluation, encoder, run, left_out, loss)
    for prompt in eval_candidates:
        if not prompt.pairs:  # it teaches `regression`, but examines nothing
            left_out.add(NO_PAIR, prompt.record.prompt)
    if message := left_out.warning(encoder.context, settings.max_tokens):
        run.journal.event(STAGE, "warning", message=message)
    if not any(prompt.pairs for prompt in train_prompts):
        raise _nothing_to_learn(files.prompts)
    return RewardData(
        train_prompts=train_prompts,
        eval_prompts=tuple(prompt for prompt in eval_candidates if prompt.pairs),
        format=files.format,
        normalizer=normalizer_of(train_prompts),
        remarks=files.remarks + left_out.remarks(encoder.context, settings.max_tokens),
        unread=files.unread,
        records=files.prompts,
    )


def _nothing_to_learn(records: tuple[JudgedPrompt, ...], where: str = "") -> NothingToLearnError:
    judgements = [record for record in records if record.rater]  # not the answers that still wait
    raters = len({record.rater for record in judgements})
    by = f": {len(judgements):,} judgements by {raters:,} rater{'s' * (raters != 1)}" if raters else ""
    error = NothingToLearnError(
        f"there is nothing to learn: no prompt of reward.data has two answers with different scores{by}",
        where=where,
        expected="at least one pair of answers of which one is better",
        why="a reward model learns from differences alone",
        todo="score the answers (collect/answers.jsonl, if they were collected), or name another file"
        if not raters
        else "have answers judged by somebody who prefers one to another: `sawyer rate` on the run's folder, then run the same "
        "command again",
    )
    error.records = records
    return error


def normalizer_of(prompts: Sequence[EncodedPrompt]) -> ScoreNormalizer:
    """Weighted mean and deviation of the prompts' scores, which `regression` learns to give."""
    if not prompts:
        return NO_NORMALIZER
    records = [prompt.record for prompt in prompts]
    weights = [record.weight for record in records for _ in record.scores]
    return ScoreNormalizer.of([score for record in records for score in record.scores], weights)


@dataclass(slots=True)
class LeftOut:
    """What cannot teach: by reason the prompts' places in the files, and counts of what is left out inside other prompts."""

    lines: dict[str, list[str]] = field(default_factory=dict)
    ties: int = 0
    same_tokens: int = 0  # pairs whose answers are the same tokens to the model
    cut: int = 0

    def add(self, reason: str, prompt: Prompt) -> None:
        # The file's name alone: the message is the same wherever a run lies.
        self.lines.setdefault(reason, []).append(Path(str(prompt.where)).name)

    def warning(self, context: int, max_tokens: int | None) -> str:
        """What the data's owner should act on; empty where there is nothing."""
        parts = [f"{words} ({join_names(self.lines[reason])})" for reason, words in self._reasons(expected=False)]
        if self.cut and context != max_tokens:
            parts.append(f"{count_text(self.cut, 'answer')} cut to the model's {context:,} tokens")
        return "; ".join(parts)

    def remarks(self, context: int, max_tokens: int | None) -> str:
        """What any large file has, and what `max_tokens` costs, for the plan."""
        parts = [words for _, words in self._reasons(expected=True)]
        parts += [f"{count_text(self.ties, 'tied pair')} left out"] if self.ties else []
        parts += [f"{count_text(self.same_tokens, 'pair')} left out: the same tokens twice"] if self.same_tokens else []
        if self.cut and context == max_tokens:
            parts.append(f"reward.max_tokens: {count_text(self.cut, 'answer')} cut to {context:,} tokens")
        return "".join(f"; {part}" for part in parts)

    def _reasons(self, *, expected: bool) -> list[tuple[str, str]]:
        """(reason, how many prompts it leaves out)"""
        return [
            (reason, f"{count_text(len(lines), 'prompt')} left out: {reason}")
            for reason, lines in self.lines.items()
            if (reason in EXPECTED_REASONS) == expected
        ]


def count_text(count: int, what: str) -> str:
    """`1 pair is`, `3 pairs are`"""
    return f"1 {what} is" if count == 1 else f"{count:,} {what}s are"


def _encode_prompts(
    records: Sequence[JudgedPrompt], encoder: RewardEncoder, run: Run, left_out: LeftOut, loss: RewardLoss
) -> tuple[EncodedPrompt, ...]:
    """The records that can teach, encoded; the others go to `left_out`."""
    prompts: list[EncodedPrompt] = []
    for prompt in encode_all(run, STAGE, records, lambda record: encode_judged(record, encoder), "prompts encoded"):
        if reason := _unfit(prompt, loss):
            left_out.add(reason, prompt.record.prompt)
            continue
        pairs = prompt.record.pairs()
        left_out.same_tokens += len(pairs.preferences) + pairs.same_text - len(prompt.pairs)
        left_out.ties += pairs.ties if loss.counts == "pairs" else 0  # other losses learn from ties, too
        left_out.cut += prompt.cut
        prompts.append(prompt)
    return tuple(prompts)


def _unfit(prompt: EncodedPrompt, loss: RewardLoss) -> str:
    """Why the loss can learn nothing from this prompt; empty where it can."""
    by_answer, answers = loss.counts == "answers", len(prompt.record.answers)
    # A list of equals is drawn together: the listwise loss learns that none of them is better.
    is_tied_list = loss.counts == "prompts" and len({row.ids for row in prompt.rows}) > 1
    if by_answer and prompt.record.is_pair:
        return "a pair has no score to learn"
    if not answers:
        return "no answer has a score"
    if not prompt.has_room:
        return "the prompt leaves no room for an answer"
    if prompt.pairs or by_answer or is_tied_list:
        return ""
    pairs = prompt.record.pairs()
    if pairs.preferences or pairs.same_text:
        return SAME_TOKENS
    return "a single scored answer has nothing to compare with" if answers == 1 else "all scores are equal"


def deduplicate(
    config: Config, run: Run, reader: LanguageModel | RewardModel, placement: Placement, data: RewardData
) -> RewardData:
    """The training prompts without near-duplicates by a model's states, where `reward.dedup_threshold` is set.

    A prompt that is judged several times, word for word, keeps all its judgements: prompts are deduplicated, not judgements.
    """
    settings = required_section(config.reward, "reward")
    if settings.dedup_threshold is None:
        return data
    prompts = list(dict.fromkeys(prompt.record.prompt.messages for prompt in data.train_prompts))
    # Without the chat template, which all prompts share: it would make them more alike than they are.
    texts = ["\n".join(message.content for message in messages) for messages in prompts]
    reader.model.to(placement.device)
    with placement.autocast():
        duplicates = near_duplicates(
            reader.model,
            [plain_row(reader.tokenizer, text, reader.prompt_encoder.context) for text in texts],
            settings.dedup_threshold,
            pad_id=reader.prompt_encoder.pad_id,
            token_budget=config.micro_batch_tokens,
            map_rows=distributed.map_sharded,
        )
    distinct = {prompts[index] for index in duplicates.indices}
    run.journal.event(STAGE, "deduplicated", message=f"prompts: {duplicates.summary(texts, settings.dedup_threshold)}")
    train_prompts = tuple(prompt for prompt in data.train_prompts if prompt.record.prompt.messages in distinct)
    return replace(data, train_prompts=train_prompts, normalizer=normalizer_of(train_prompts))
