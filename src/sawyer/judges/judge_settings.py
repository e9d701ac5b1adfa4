"""The settings of a judge, and the key that its endpoint wants: read from the environment, shown nowhere."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from sawyer.errors import JudgeError
from sawyer.judges.judge_prompts import DEFAULT_RUBRIC

JudgeMethod = Literal["score", "pair", "both"]
KEY_ENV = "SAWYER_JUDGE_KEY"
RATER_PREFIX, MAX_RATER_NAME = "judge:", 60  # characters that the store of votes takes
CHAT_PATH = "/chat/completions"
SECRET_PARAMETER = re.compile(r"key|token|secret|password|sig", re.IGNORECASE)
SHORTEST_KEY = 4  # characters; a shorter one would stand in any text by chance, and is none


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """A model behind an OpenAI-compatible endpoint, and its settings. Raises JudgeError for what cannot be.

    Example: `JudgeSettings(url="http://127.0.0.1:8000/v1", model="qwen")`
    """

    url: str  # of the API, such as https://host/v1; /chat/completions is added where it is missing
    model: str
    rubric: str = DEFAULT_RUBRIC  # the text itself; `read_rubric` reads a file
    method: JudgeMethod = "score"
    temperature: float | None = 0.0  # None: not sent, for models that refuse it
    max_tokens: int = 256  # of a verdict
    concurrency: int = 4  # calls at the same time
    timeout: float = 60.0  # seconds
    retries: int = 5  # after the first try
    key_env: str = KEY_ENV  # the environment variable with the key; unset by default means that none is sent
    price_per_million: tuple[float, float] | None = None  # of input and of output tokens, in any currency

    def __post_init__(self) -> None:
        if not is_address(self.url):
            raise JudgeError(
                "the judge's url is no address",  # not repeated: it may hold a key
                expected="http:// or https://, a host and a path, such as http://127.0.0.1:8000/v1",
                todo="name the address of the API, without /chat/completions",
            )
        address = urlsplit(self.url)
        secrets = [name for name, _ in parse_qsl(address.query) if SECRET_PARAMETER.search(name)]
        if address.username is not None or address.password is not None or secrets:
            raise JudgeError(
                f"the judge's url for {address.hostname} has a password or key in it",
                expected="a url without secrets",
                why="the url is written into the run's files",
                todo=f"put the key into the environment variable {KEY_ENV} and leave it out of the url",
            )
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_env):
            # Not repeated: somebody may have put the key itself there.
            raise JudgeError(
                "the judge's key_env is no name of an environment variable",
                expected=f"a name, such as {KEY_ENV}",
                why="the key itself must not be written anywhere",
                todo=f"put the key into the environment (export {KEY_ENV}=...) and give that name, or leave key_env out",
            )
        if not self.model.strip() or not self.rubric.strip():
            raise JudgeError(
                "the judge has no model or no rubric", expected="both", todo="name the model; the rubric has a default"
            )
        sizes = {"max_tokens": self.max_tokens, "concurrency": self.concurrency}
        numbers = {"timeout": self.timeout, "temperature": self.temperature or 0.0, "retries": float(self.retries)}
        bad = [name for name, value in sizes.items() if value < 1]
        bad += [name for name, value in numbers.items() if not math.isfinite(value) or value < 0]
        bad += ["timeout"] if self.timeout == 0 else []
        bad += ["price_per_million"] if any(not math.isfinite(p) or p < 0 for p in self.price_per_million or ()) else []
        if bad:
            raise JudgeError(f"the judge's {bad[0]} is {getattr(self, bad[0])}", expected="a positive finite number")

    @property
    def endpoint(self) -> str:
        """The url that a call goes to."""
        address = urlsplit(self.url)
        path = address.path.rstrip("/")
        return address._replace(path=path if path.endswith(CHAT_PATH) else path + CHAT_PATH, fragment="").geturl()

    @property
    def judge_key(self) -> str:
        """A hash of all that decides its judgements: timeouts and the like do not."""
        content = (self.endpoint, self.model, self.rubric, self.method, self.temperature, self.max_tokens)
        return hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def host(self) -> str:
        """Host and port, for messages."""
        return urlsplit(self.url).netloc

    @property
    def is_local(self) -> bool:
        """Whether the endpoint is this machine."""
        return is_loopback(urlsplit(self.url).hostname or "")


def settings_from(values: Mapping[str, Any]) -> JudgeSettings:
    """The settings by name, `rubric` as `read_rubric` takes it. Raises JudgeError for what cannot be."""
    prices = values.get("price_per_million")
    plain = {name: value for name, value in values.items() if name not in ("rubric", "price_per_million")}
    return JudgeSettings(
        **plain, rubric=read_rubric(values.get("rubric")), price_per_million=tuple(prices) if prices is not None else None
    )


def rater_name(model: str) -> str:
    """The judge's name among the raters: judge:MODEL. Of a name that is too long the end is replaced by a hash."""
    name = RATER_PREFIX + " ".join(model.split())
    if len(name) <= MAX_RATER_NAME:
        return name
    return f"{name[: MAX_RATER_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def count_calls(method: JudgeMethod, prompts: int, answers: int) -> int:
    """The calls for so many prompts with so many different answers each, without second requests."""
    pairs = answers * (answers - 1) // 2
    return prompts * (answers * (method != "pair") + 2 * pairs * (method != "score"))


class ApiKey:
    """A secret that no `repr`, traceback or format shows. `reveal` is called for the header alone."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "ApiKey(***)"

    def reveal(self) -> str:
        """The key itself."""
        return self._value

    def redact(self, text: str) -> str:
        """`text` without the key: servers repeat it in their errors."""
        return text.replace(self._value, "***")


def read_key(settings: JudgeSettings, environ: Mapping[str, str] = os.environ) -> ApiKey | None:
    """The key in the environment; None where the default variable is not set, as local servers want none.

    Raises JudgeError where a variable that was named is not set, and for a key that no header can hold.
    """
    value = environ.get(settings.key_env, "").strip()
    if not value:
        if settings.key_env != KEY_ENV:
            raise JudgeError(
                f"the environment has no variable {settings.key_env}, which key_env names",
                expected="the judge's key in it",
                todo=f"export {settings.key_env}=... in the shell that starts the run",
            )
        return None
    if len(value) < SHORTEST_KEY or not all(33 <= ord(letter) <= 126 for letter in value):
        raise JudgeError(
            f"the environment variable {settings.key_env} holds no key",
            expected=f"at least {SHORTEST_KEY} printable ASCII characters without spaces",
            todo="copy the key again",
        )
    return ApiKey(value)


def read_rubric(rubric: str | None) -> str:
    """The rubric's text: of the file of that name if there is one, else the words themselves; None: the default.

    Raises JudgeError for what looks like a file that is not there, and for an empty or unreadable one.
    """
    if rubric is None:
        return DEFAULT_RUBRIC
    path = rubric_file(rubric)
    if path is None:
        if not re.search(r"\s", rubric.strip()):
            raise JudgeError(
                f"the judge's rubric {rubric!r:.80} is no file, and one word is no rubric",
                expected="a file with the rubric, or the rubric's text",
                todo="correct the path, which is relative to the folder in which the command runs",
            )
        return rubric
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise JudgeError(f"the judge's rubric {path} cannot be read: {error}", expected="a text file in UTF-8") from error
    if not text.strip():
        raise JudgeError(f"the judge's rubric {path} is empty", expected="what the judge is to look at, in words")
    return text


def rubric_file(rubric: str) -> Path | None:
    """The file that a rubric names; None where it is the rubric's text."""
    try:
        path = Path(rubric).expanduser()
        return path if path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # a text too long for a name, with a zero byte, or with an unknown ~user
        return None


def insecure_key(settings: JudgeSettings, key: ApiKey | None) -> str:
    """The warning that a key would cross a network in clear text; empty where it does not."""
    if key is None or settings.is_local or urlsplit(settings.url).scheme == "https":
        return ""
    return (
        f"the judge's key goes to {settings.host} over http://, where everybody on the way can read it; use https:// "
        "if the server has it"
    )


def is_address(url: str) -> bool:
    """Whether it is an http url with a host, in characters that a request can have."""
    try:
        address = urlsplit(url)
        return (
            url.isascii()
            and not re.search(r"[\s\x00-\x1f\x7f]", url)
            and address.scheme in ("http", "https")
            and bool(address.hostname)
            and address.port != 0  # ValueError for a port that is none
        )
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether a host's name is this machine's own, without asking a name server."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
