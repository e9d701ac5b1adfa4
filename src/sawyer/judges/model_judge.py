"""A judge: questions in, verdicts out, by a small pool of threads over one endpoint and one cache."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from sawyer.errors import Interrupted, JudgeError
from sawyer.judges.chat_endpoint import EXCERPT, ChatEndpoint, JudgeReply, RejectedRequest, StopRequest
from sawyer.judges.judge_cache import JudgeCache, call_key
from sawyer.judges.judge_plan import JudgePlan, JudgeTally, plan_calls
from sawyer.judges.judge_prompts import LOWEST_SCORE, Messages, QuestionKind, pair_messages, score_messages, second_request
from sawyer.judges.judge_settings import ApiKey, JudgeSettings, insecure_key, read_key
from sawyer.judges.verdict_parsing import ParsedReply, Problem, parse_reply
from sawyer.records import Prompt

LOOK_SECONDS = 0.1  # between two looks at whether a stop was requested
REJECTIONS = 3  # requests that are refused before any is taken: then it is not the one request
Progress = Callable[[int, int], None]  # (verdicts so far, of how many)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One thing to be judged; equal ones are asked once."""

    kind: QuestionKind
    messages: Messages


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionResult:
    """What came of a question: its verdict, or why there is none."""

    verdict: ParsedReply
    reply: str = ""  # the last reply, or the endpoint's words where it took no request
    second_try: bool = False
    seconds: float = 0.0  # that the endpoint took
    tokens: tuple[int, int] = (0, 0)  # of input and output, as the server counts


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedGrades:
    """Two answers compared in both orders; above 0 the second answer is better, whichever was shown first."""

    forward: int | None  # the first answer was shown first
    backward: int | None  # the second answer was shown first
    seconds: float = 0.0

    @property
    def grade(self) -> int | None:
        """A preference that holds in both orders, of its weaker strength; 0 where they disagree; None without both."""
        if self.forward is None or self.backward is None:
            return None
        if self.forward * self.backward <= 0:
            return 0
        strength = min(abs(self.forward), abs(self.backward))
        return strength if self.forward > 0 else -strength

    @property
    def is_flipped(self) -> bool:
        """Whether the order decided: in both the answer shown first won, or in both the one shown second."""
        return self.forward is not None and self.backward is not None and self.forward * self.backward < 0


@dataclass(slots=True)
class _Batch:
    """Questions on their way through the threads."""

    todo: deque[Question]
    results: dict[Question, QuestionResult] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)


class Judge:
    """A model that judges answers. Use as `with Judge.open(settings, cache=path) as judge`; it is a scorer.

    `on_progress` is called in the caller's thread. `stop_reason` says why to stop, "" to go on: then what was asked is waited
    for and kept, and Interrupted is raised. `announce` gets the plan in words before calls are made, and warnings.
    """

    def __init__(
        self,
        settings: JudgeSettings,
        cache: JudgeCache,
        key: ApiKey | None = None,
        *,
        announce: Callable[[str], None] = lambda _: None,
        on_progress: Progress = lambda _, __: None,
        stop_reason: Callable[[], str] = lambda: "",
        sleep: Callable[[float], None] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.settings, self.cache = settings, cache
        self.announce, self.on_progress, self.stop_reason = announce, on_progress, stop_reason
        self._stop_event = threading.Event()
        self.endpoint = ChatEndpoint(
            settings, key, sleep=sleep or self._sleep, jitter=jitter, should_stop=self._stop_event.is_set
        )
        self._results: dict[Question, QuestionResult] = {}
        self._lock = threading.Lock()
        self._calls, self._rejections, self._takes_requests = 0, 0, False
        self._warning = insecure_key(settings, key)

    @classmethod
    def open(cls, settings: JudgeSettings, *, cache: Path, **options: Any) -> Judge:
        """A judge with the key from the environment and its answers in the file `cache`. `options` as of the class."""
        key = read_key(settings)
        return cls(settings, JudgeCache(cache), key, **options)

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop_event.set()
        self.cache.__exit__(kind, error, trace)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        """One score from 0 to 10 a (prompt, response). An answer that gets no judgement scores 0: nothing is gained by
        confusing the judge. `scores` tells such answers apart, `tally` counts them."""
        return [float(LOWEST_SCORE if score is None else score) for score in self.scores(prompts, responses)]

    def scores(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[int | None]:
        """As `__call__`; None: no judgement."""
        questions = [self.score_question(prompt, text) for prompt, text in zip(prompts, responses, strict=True)]
        return [result.verdict.value for result in self.answer(questions)]

    def grades(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str]) -> list[int | None]:
        """-3 to 3 for each two answers in the order shown, asked in this order alone; above 0 the second is better."""
        questions = [self.pair_question(*each) for each in zip(prompts, firsts, seconds, strict=True)]
        return [result.verdict.value for result in self.answer(questions)]

    def compare(self, prompt: Prompt, first: str, second: str) -> OrderedGrades:
        """Which of two answers is better, asked in both orders."""
        return self.compare_all([(prompt, first, second)])[0]

    def compare_all(self, pairs: Sequence[tuple[Prompt, str, str]]) -> list[OrderedGrades]:
        """`compare` of many pairs at once."""
        answers = self.answer([question for pair in pairs for question in self.both_orders(*pair)])
        return [ordered_grades(forward, backward) for forward, backward in zip(answers[::2], answers[1::2], strict=True)]

    def score_question(self, prompt: Prompt, response: str) -> Question:
        """Ask for a score."""
        return Question(kind="score", messages=score_messages(self.settings.rubric, prompt, response))

    def pair_question(self, prompt: Prompt, first: str, second: str) -> Question:
        """Ask for the better of two, in this order."""
        return Question(kind="pair", messages=pair_messages(self.settings.rubric, prompt, first, second))

    def both_orders(self, prompt: Prompt, first: str, second: str) -> tuple[Question, Question]:
        """Ask for the better of two in both orders."""
        return self.pair_question(prompt, first, second), self.pair_question(prompt, second, first)

    def plan(self, questions: Sequence[Question]) -> JudgePlan:
        """What asking these would take: calls, those that are answered already, tokens, money."""
        distinct = list(dict.fromkeys(questions))
        new = [one for one in distinct if one not in self._results and self.cache.get(self._key(one.messages)) is None]
        return plan_calls(self.settings, len(distinct), [one.messages for one in new])

    def answer(self, questions: Sequence[Question]) -> list[QuestionResult]:
        """The verdicts, in the order of the questions. Raises JudgeError, RunError or Interrupted, all replies kept."""
        new = [one for one in dict.fromkeys(questions) if one not in self._results]
        if new:
            if self._warning:
                self.announce(self._warning)
                self._warning = ""
            self._answer_all(new)
        return [self._results[one] for one in questions]

    def tally(self) -> JudgeTally:
        """What has come of all questions so far."""
        results = self._results.values()
        problems = Counter(result.verdict.problem for result in results)
        examples: dict[Problem, str] = {}
        for result in results:
            if result.verdict.problem:
                examples.setdefault(result.verdict.problem, " ".join(result.reply.split())[:EXCERPT])
        return JudgeTally(
            verdicts=problems.pop("", 0),
            calls=self._calls,
            second_tries=sum(result.second_try for result in results),
            problems=dict(problems),
            examples=examples,
            prompt_tokens=sum(result.tokens[0] for result in results),
            completion_tokens=sum(result.tokens[1] for result in results),
        )

    def _answer_all(self, questions: Sequence[Question]) -> None:
        """Ask with `concurrency` threads and wait here, where signals arrive.

        The threads are daemons: a second Ctrl-C ends the program at once and waits for no endpoint.
        """
        self._stop_event.clear()
        batch = _Batch(todo=deque(questions))
        count = min(self.settings.concurrency, len(questions))
        threads = [threading.Thread(target=self._work, args=(batch,), daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        reason = self._watch(threads, batch, len(questions))
        self._results.update((question, batch.results[question]) for question in questions if question in batch.results)
        if batch.failures:
            raise batch.failures[0]
        if len(batch.results) < len(questions):
            raise Interrupted(
                f"the judge was interrupted after {len(batch.results):,} of {len(questions):,} verdicts ({reason}); all its "
                "answers are kept",
                todo="run the same command again to go on: no call is made, or costs, twice",
            )

    def _work(self, batch: _Batch) -> None:
        """One thread: the next question until there is none, or a stop, or a failure, which stops all."""
        while not self._stop_event.is_set():
            with self._lock:
                if not batch.todo:
                    return
                question = batch.todo.popleft()
            try:
                result = self._judge(question)
            except StopRequest:
                return
            except Exception as error:
                batch.failures.append(error)
                self._stop_event.set()
                return
            with self._lock:
                batch.results[question] = result

    def _watch(self, threads: Sequence[threading.Thread], batch: _Batch, total: int) -> str:
        """Wait for the threads, show progress, and stop them when asked; returns why, "" where nobody asked."""
        reason, num_shown = "", 0
        for thread in threads:
            while thread.is_alive():
                thread.join(LOOK_SECONDS)
                if num_shown < len(batch.results):
                    num_shown = len(batch.results)
                    self.on_progress(num_shown, total)
                if not reason and (reason := self.stop_reason()):
                    self._stop_event.set()
        if num_shown < len(batch.results):
            self.on_progress(len(batch.results), total)
        return reason

    def _judge(self, question: Question) -> QuestionResult:
        """Ask, and once more where the reply is no verdict."""
        try:
            first = self._reply(question.messages)
            verdict = parse_reply(question.kind, first.text, first.refusal)
            if verdict.problem not in ("unreadable", "out_of_range"):
                return _result_of(verdict, [first])
            second = self._reply(second_request(question.kind, question.messages, first.text))
            return _result_of(parse_reply(question.kind, second.text, second.refusal), [first, second])
        except RejectedRequest as error:
            with self._lock:
                self._rejections += 1
                hopeless = self._rejections >= REJECTIONS and not self._takes_requests
            if hopeless:
                raise JudgeError(
                    f"the judge at {self.settings.host} takes no request: {error}",
                    why="the first ones were all refused, so that it is not their text",
                    todo="look at its words: the model's name, max_tokens or temperature may not suit it (temperature: null "
                    "leaves it out)",
                ) from None
            return QuestionResult(verdict=ParsedReply(value=None, problem="rejected"), reply=str(error))

    def _reply(self, messages: Messages) -> JudgeReply:
        """From the cache, else from the endpoint into the cache, before anything is made of it."""
        key = self._key(messages)
        reply = self.cache.get(key)
        if reply is None:
            reply = self.endpoint.ask(messages)
            self.cache.put(key, self.settings.model, reply)
            with self._lock:
                self._calls += 1
        with self._lock:
            self._takes_requests = True
        return reply

    def _key(self, messages: Messages) -> str:
        return call_key(self.settings, messages)

    def _sleep(self, seconds: float) -> None:
        """Wait in steps, so that a stop need not wait for a long Retry-After."""
        end = time.monotonic() + seconds
        while not self._stop_event.wait(min(LOOK_SECONDS, max(0.0, end - time.monotonic()))) and time.monotonic() < end:
            pass


def ordered_grades(forward: QuestionResult, backward: QuestionResult) -> OrderedGrades:
    """The replies to `both_orders` as one comparison."""
    opposite = backward.verdict.value
    return OrderedGrades(
        forward=forward.verdict.value,
        backward=None if opposite is None else -opposite,
        seconds=forward.seconds + backward.seconds,
    )


def _result_of(verdict: ParsedReply, replies: Sequence[JudgeReply]) -> QuestionResult:
    last = replies[-1]
    words = last.refusal or last.text
    words = f"{words} (cut at max_tokens)" if last.finish == "length" and verdict.problem else words
    tokens = (sum(one.prompt_tokens for one in replies), sum(one.completion_tokens for one in replies))
    seconds = sum(one.seconds for one in replies)
    return QuestionResult(verdict=verdict, reply=words, second_try=len(replies) > 1, seconds=seconds, tokens=tokens)
