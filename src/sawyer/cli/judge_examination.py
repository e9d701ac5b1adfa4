"""`sawyer trust --judge`: a judge behind an endpoint, examined with the report that reward models get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sawyer.cli.console import say, stderr
from sawyer.errors import ConfigError, JudgeError

if TYPE_CHECKING:
    from sawyer.cli.progress import Watch
    from sawyer.judges import Judge, JudgeSettings
    from sawyer.records import JudgedPrompt, Prompt
    from sawyer.trust import Trust

CALLS_A_PROMPT = 12  # of the probes: six kinds of damage, four injections, a pair in both orders


class _Progress:
    """The batches of an examination as one: scores first, then what the probes need, which is known as a bound only."""

    def __init__(self, watch: Watch, records: Sequence[JudgedPrompt]) -> None:
        self.watch, self.before = watch, 0
        self.total = sum(len(record.scores) for record in records) + count_probe_calls(records)

    def __call__(self, done: int, total: int) -> None:
        row = {"stage": "judge", "done": min(self.before + done, self.total), "total": self.total}
        self.watch("progress", row)
        self.before += total * (done == total)


def count_probe_calls(records: Sequence[JudgedPrompt]) -> int:
    """The most calls that the probes take."""
    return CALLS_A_PROMPT * sum(bool(record.pairs().preferences) for record in records)


def parse_judge(url: str, model: str | None, rubric: str | None, pairs: Sequence[str]) -> JudgeSettings:
    """The settings of `collect.judge` from the command line. Raises ConfigError or JudgeError for what cannot be."""
    from sawyer.config import parse_judge_section
    from sawyer.judges import settings_from

    if not model:
        raise ConfigError("--judge has no model", expected="the model's name at the endpoint", todo="add --judge-model NAME")
    values: dict[str, Any] = {"url": url, "model": model, "rubric": rubric}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name in values or name == "method":
            raise ConfigError(
                f"--judge-setting {name}",
                expected="NAME=VALUE, of collect.judge: temperature, max_tokens, concurrency, timeout, retries, key_env or "
                "price_per_million",
                todo="correct it; url, model and rubric have options of their own; scores and pairs are both examined",
            )
        values[name] = value
    return settings_from(parse_judge_section(values).model_dump())


def cache_beside(file: str) -> Path:
    """`answers.jsonl` -> `answers.judge.sqlite`, where the judge's replies are kept."""
    path = Path(file)
    return path.with_name(f"{path.name.partition('.')[0] or path.name}.judge.sqlite")


def examine_judge(
    settings: JudgeSettings,
    records: Sequence[JudgedPrompt],
    cache: Path,
    *,
    truth: Callable[[Prompt, str], float] | None,
    held_out: bool,
    seed: int,
) -> Trust:
    """The report on a judge. Raises JudgeError, or Interrupted, with every reply kept in `cache`."""
    from sawyer.cli.progress import Watch
    from sawyer.judges import Judge
    from sawyer.runs import Stop, handle_signals

    console = stderr()
    stop = Stop(lambda reason: say(console, (f"  {reason}: waits for the calls under way, which are kept", "yellow")))
    with handle_signals(stop), Watch(console) as watch:
        judge = Judge.open(
            settings,
            cache=cache,
            announce=lambda message: say(console, (message, "yellow")),
            on_progress=_Progress(watch, records),
            stop_reason=lambda: stop.reason,
        )
        with judge:
            judged_records, num_unjudged = _first_scores(judge, records, cache)
            from sawyer.trust import JudgeAccess, trust

            access = JudgeAccess(model=settings.model, compare=judge.grades, num_unjudged=num_unjudged)
            report = trust(judge, judged_records, truth=truth, held_out=held_out, seed=seed, judge=access)
            say(console, (f"The judge: {judge.tally().words}.", "dim"))
            return report


def _first_scores(judge: Judge, records: Sequence[JudgedPrompt], cache: Path) -> tuple[list[JudgedPrompt], int]:
    """The records without the answers that the judge did not judge, and how many those are. The cost is printed first."""
    records = [record.drop_unscored() for record in records]
    prompts = [record.prompt for record in records for _ in record.answers]
    texts = [text for record in records for text in record.responses]
    plan = judge.plan([judge.score_question(prompt, text) for prompt, text in zip(prompts, texts, strict=True)])
    words = f"{plan.words}; then at most {count_probe_calls(records):,} calls for damaged answers, injections and pairs"
    say(stderr(), (f"{words}. Replies are kept in {cache}", "dim"))
    scores = iter(judge.scores(prompts, texts))
    judged_records: list[JudgedPrompt] = []
    num_unjudged = 0
    for record in records:
        answers = tuple(answer for answer in record.answers if next(scores) is not None)
        num_unjudged += len(record.answers) - len(answers)
        if answers and (len(answers) == len(record.answers) or not record.is_pair):
            judged_records.append(replace(record, answers=answers))
    if not judged_records:
        raise JudgeError(
            f"the judge {judge.settings.model} gave not one judgement: {judge.tally().words}",
            todo="look at its replies above: another model, a shorter rubric or a larger max_tokens may help",
        )
    return judged_records, num_unjudged
