"""One call of an OpenAI-compatible endpoint: what is sent, what comes back, when it is tried again and when that is no use."""

from __future__ import annotations

import http.client
import json
import random
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

from sawyer.errors import JudgeError
from sawyer.judges.judge_prompts import Messages, as_rows
from sawyer.judges.judge_settings import CHAT_PATH, ApiKey, JudgeSettings

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between tries: doubled each time, with jitter
LONGEST_RETRY_AFTER = 900.0  # a server that asks for more patience than this is not worth waiting for
MAX_BODY = 4_000_000  # bytes of a reply
EXCERPT = 300  # characters of a server's own words in a message
NEVER_BETTER = {
    401: "the endpoint does not accept the key",
    403: "the endpoint does not allow this",
    404: "the endpoint has no such address or model",
    405: "the address takes no chat completions",
}
OF_ONE_REQUEST = (400, 413, 422)  # too long, or refused by a filter: of this request alone, unless it is every one
UNREACHABLE = (ConnectionRefusedError, socket.gaierror, ssl.SSLError, http.client.InvalidURL, UnicodeError)
WITHOUT_CREDIT = ("insufficient_quota", "billing_hard_limit_reached")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeReply:
    """A model's answer to a call."""

    text: str
    refusal: str = ""  # in the endpoint's own words, where it says that it refused
    finish: str = ""  # stop | length | content_filter ...
    prompt_tokens: int = 0  # as the server counts, 0 where it does not
    completion_tokens: int = 0
    seconds: float = 0.0


class RejectedRequest(Exception):
    """The endpoint does not take this one request; others may pass."""


class StopRequest(Exception):
    """A stop was requested while a call waited for its next try: nothing was paid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """A try that failed and may be repeated after `retry_after` seconds, or after the usual wait."""

    words: str
    retry_after: float | None = None
    unreachable: bool = False  # nothing that speaks this protocol is there


class ChatEndpoint:
    """Calls of one endpoint; safe to use from several threads. `sleep`, `jitter` (0 to 1), `should_stop`: the caller's."""

    def __init__(
        self,
        settings: JudgeSettings,
        key: ApiKey | None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.settings, self._key = settings, key
        self.sleep, self.jitter, self.should_stop = sleep, jitter, should_stop
        self.has_answered = False  # once it has, a failure is no wrong address
        self._limit_name = "max_tokens"
        # Never through a proxy to this machine, and never on to where a redirect points: the key would go with it.
        proxies = [urllib.request.ProxyHandler({})] if settings.is_local else []
        self._opener = urllib.request.build_opener(_NoRedirect, *proxies)

    def ask(self, messages: Messages) -> JudgeReply:
        """The model's reply. Tries again after 429, 5xx, timeouts and broken connections, with exponential backoff.

        Raises JudgeError where trying again is no use, or once the retries are used up; RejectedRequest where the endpoint does
        not take this request; StopRequest.
        """
        words = ""
        for attempt in range(self.settings.retries + 1):
            if self.should_stop():
                raise StopRequest
            outcome = self._attempt(messages)
            if isinstance(outcome, JudgeReply):
                self.has_answered = True
                return outcome
            words = outcome.words
            if outcome.unreachable and not self.has_answered:
                raise self._unreachable(words)
            if attempt < self.settings.retries:
                self._wait(attempt, outcome)
        raise JudgeError(
            f"the judge at {self.settings.host} gave no answer in {self.settings.retries + 1} tries; last: {words}",
            why="without its answers there is no judgement; those that it gave are kept",
            todo="run the same command again later: what was answered is not asked again. A slow server may need a longer "
            "`timeout` or a lower `concurrency`",
        )

    def _wait(self, attempt: int, failure: _Failure) -> None:
        """Backoff with jitter, so that calls that failed together do not come back together; at least what the server asks."""
        seconds = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * (0.5 + 0.5 * self.jitter())
        if failure.retry_after is not None:
            if failure.retry_after > LONGEST_RETRY_AFTER:
                raise JudgeError(
                    f"the judge at {self.settings.host} asks to wait {failure.retry_after:,.0f} seconds ({failure.words})",
                    todo="run the same command again after that: what was answered is kept and not asked again",
                )
            seconds = max(seconds, failure.retry_after)
        if self.should_stop():
            raise StopRequest
        self.sleep(seconds)

    def _attempt(self, messages: Messages) -> JudgeReply | _Failure:
        """One call."""
        began = time.monotonic()
        request = urllib.request.Request(self.settings.endpoint, data=self._body(messages), headers=self._headers())
        try:
            with self._opener.open(request, timeout=self.settings.timeout) as response:
                status, headers, body = int(response.status), response.headers, self._read(response, began)
        except urllib.error.HTTPError as error:
            with error:
                return self._status_failure(error.code, error.headers, self._read_error(error), messages)
        except (urllib.error.URLError, OSError, http.client.HTTPException, UnicodeError) as error:
            return self._connection_failure(error)
        if body is None:
            return _Failure(words=f"its reply was not complete after {self.settings.timeout:g} seconds, or too long")
        if status != 200:
            return self._status_failure(status, headers, body, messages)
        reply = read_reply(body, time.monotonic() - began, self._redact)
        return reply if reply is not None else _Failure(words=f"no chat completion: {self._excerpt(body)}", unreachable=True)

    def _body(self, messages: Messages) -> bytes:
        content: dict[str, Any] = {"model": self.settings.model, "messages": as_rows(messages)}
        content[self._limit_name] = self.settings.max_tokens
        if self.settings.temperature is not None:
            content["temperature"] = self.settings.temperature
        return json.dumps(content).encode()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "sawyer"}
        return headers | ({"Authorization": f"Bearer {self._key.reveal()}"} if self._key is not None else {})

    def _read(self, response: Any, began: float) -> bytes | None:
        """The body, within the timeout as a whole: a server that sends a byte now and then must not hold a call for ever."""
        parts, size = [], 0
        while part := response.read1(65536):
            parts.append(part)
            size += len(part)
            if size > MAX_BODY or time.monotonic() - began > self.settings.timeout:
                return None
        # `read1` ends in silence where the connection was cut before the content_length length.
        content_length = response.headers.get("Content-Length", "")
        return None if content_length.isdigit() and size < int(content_length) else b"".join(parts)

    def _read_error(self, error: urllib.error.HTTPError) -> bytes:
        try:
            return error.read(65536)
        except (OSError, http.client.HTTPException):
            return b""

    def _connection_failure(self, error: Exception) -> _Failure:
        """A call without an answer."""
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise JudgeError(
                f"the certificate of the judge at {self.settings.host} is not valid: {reason.verify_message}",
                why="the key and the answers would go to whoever is there",
                todo="check the url's host; for a certificate of your own set SSL_CERT_FILE",
            ) from None
        if isinstance(reason, TimeoutError):
            return _Failure(words=f"no answer within {self.settings.timeout:g} seconds")
        words = self._redact(str(reason) or type(reason).__name__)
        # A host whose name cannot be one raises UnicodeError.
        return _Failure(words=words, unreachable=isinstance(reason, UNREACHABLE))

    def _status_failure(
        self, status: int, headers: Message[str, str], body: bytes, messages: Messages
    ) -> JudgeReply | _Failure:
        """An answer with another status than 200."""
        words = f"HTTP {status}" + (f": {self._excerpt(body)}" if body.strip() else "")
        if 300 <= status < 400:
            raise self._redirect_error(status, headers.get("Location", ""))
        if status in NEVER_BETTER:
            raise self._never_better(status, words)
        if status == 429:
            if any(code in body.decode("utf-8", "replace") for code in WITHOUT_CREDIT):
                raise JudgeError(
                    f"the account at {self.settings.host} has no credit left ({words})",
                    todo="add credit, then run the same command again: what was answered is kept and not asked again",
                )
            return _Failure(words=words, retry_after=seconds_to_wait(headers.get("Retry-After", "")))
        if status in (408, 409, 425) or status >= 500:
            return _Failure(words=words, retry_after=seconds_to_wait(headers.get("Retry-After", "")))
        if status in OF_ONE_REQUEST:
            if self._limit_name == "max_tokens" and b"max_completion_tokens" in body:
                self._limit_name = "max_completion_tokens"  # newer models of OpenAI take the limit under this name only
                return self._attempt(messages)
            raise RejectedRequest(words)
        raise JudgeError(f"the judge at {self.settings.host} answered {words}", expected="a chat completion")

    def _redirect_error(self, status: int, location: str) -> JudgeError:
        target = urlsplit(urljoin(self.settings.endpoint, location))
        # Without its query: it may hold a secret of the server's.
        target = target._replace(query="", fragment="", netloc=target.netloc.rpartition("@")[2])
        target_url = target.geturl().removesuffix(CHAT_PATH)
        return JudgeError(
            f"the judge at {self.settings.host} redirects to {self._redact(target_url)} (HTTP {status})",
            expected="an answer at the address itself",
            why="a redirect is not followed: the key and the answers would go to whoever it names",
            todo="if that is the right one, give it as the judge's url",
        )

    def _never_better(self, status: int, words: str) -> JudgeError:
        variable = self.settings.key_env
        if status in (401, 403):
            todo = (
                f"export {variable}=... with the endpoint's key, then run the same command again"
                if self._key is None
                else f"check the key in {variable}, and that it may use the model {self.settings.model}"
            )
        else:
            todo = f"check url ({self.settings.url}) and model ({self.settings.model}); most servers' url ends in /v1"
        return JudgeError(
            f"{NEVER_BETTER[status]} ({self.settings.host}, {words})",
            why="no call can succeed; nothing more was asked",
            todo=todo,
        )

    def _unreachable(self, words: str) -> JudgeError:
        return JudgeError(
            f"no judge answers at {self.settings.endpoint}: {words}",
            expected="an OpenAI-compatible server",
            todo="start it, or correct the url; then run the same command again",
        )

    def _excerpt(self, body: bytes) -> str:
        """The server's words: of an error object its message. Cut, on one line, without the key."""
        text = body.decode("utf-8", "replace")
        try:
            value = json.loads(text)
            error = value.get("error", value) if isinstance(value, dict) else value
            text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
        except (ValueError, RecursionError):
            pass
        text = " ".join(self._redact(text).split())
        return text if len(text) <= EXCERPT else f"{text[:EXCERPT]} ..."

    def _redact(self, text: str) -> str:
        return self._key.redact(text) if self._key is not None else text


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: urllib would send all headers, the key among them, to the other host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """None: not followed. Called by urllib."""
        return None


def read_reply(body: bytes, seconds: float, redact: Callable[[str], str]) -> JudgeReply | None:
    """The first choice of a chat completion; None where the body is none."""
    try:
        value = json.loads(body)
        choice = value["choices"][0]
        message, usage = choice["message"], value.get("usage") or {}
        content = message.get("content")
        if isinstance(content, list):  # parts, of which the text counts
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        finish = str(choice.get("finish_reason") or "")
        refusal = str(message.get("refusal") or "") or ("content_filter" if finish == "content_filter" else "")
        return JudgeReply(
            text=redact(str(content or "")),
            refusal=redact(refusal),
            finish=finish,
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
            seconds=seconds,
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None


def seconds_to_wait(retry_after: str | None, now: Callable[[], float] = time.time) -> float | None:
    """The header Retry-After: seconds, or a date; None where there is none that can be read."""
    text = (retry_after or "").strip()
    try:
        if text.replace(".", "", 1).isdigit():
            return float(text)
        return max(0.0, parsedate_to_datetime(text).timestamp() - now()) if text else None
    except (ValueError, TypeError, OverflowError):
        return None
