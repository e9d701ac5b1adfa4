"""The section `collect.judge`: a model that judges collected answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, ValidationError, field_validator

from sawyer.config.sections import HomePath, Section
from sawyer.errors import ConfigError

KEY_VARIABLE = "SAWYER_JUDGE_KEY"
SECRET_PARAMETER = re.compile(r"key|token|secret|password|sig", re.IGNORECASE)


class CollectJudge(Section):
    """A model behind an OpenAI-compatible endpoint judges the collected answers; its judgements are votes like people's."""

    url: str = Field(description="the endpoint's address, such as http://127.0.0.1:8000/v1")
    model: str = Field(min_length=1, description="the model's name there; its votes are those of the rater judge:MODEL")
    rubric: HomePath | None = Field(None, description="what it looks at: a text file, or the text itself; default: built in")
    method: Literal["score", "pair", "both"] = Field(
        "score",
        description="score: 0 to 10 for each answer, a call each; pair: grades of all pairs, each in both orders; or both",
    )
    temperature: float | None = Field(0.0, ge=0, description="sampling temperature; null: not sent, as some models require")
    max_tokens: int = Field(256, ge=1, description="the most tokens of a verdict")
    concurrency: int = Field(4, ge=1, le=64, description="calls at the same time")
    timeout: float = Field(60.0, gt=0, description="seconds that a call may take")
    retries: int = Field(5, ge=0, description="tries after the first one, with growing waits")
    key_env: str = Field(KEY_VARIABLE, description="the environment variable with the key, which is written nowhere")
    price_per_million: list[float] | None = Field(
        None, min_length=2, max_length=2, description="price of a million input and output tokens, for the estimate of the cost"
    )

    # The config is written into the run's folder, so that these two are refused before that, and not repeated in the message.

    @field_validator("url")
    @classmethod
    def _without_secrets(cls, url: str) -> str:
        try:
            address = urlsplit(url)
        except ValueError:
            address = urlsplit("")
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("`collect.judge.url` is no address; expected: such as http://127.0.0.1:8000/v1")
        if "@" in address.netloc or any(SECRET_PARAMETER.search(name) for name, _ in parse_qsl(address.query)):
            raise ValueError(
                f"`collect.judge.url` has a password or key in it; put it into the environment variable {KEY_VARIABLE} instead"
            )
        return url

    @field_validator("key_env")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(
                "`collect.judge.key_env` is no name of an environment variable; the key itself must not be in the config: "
                f"put it into the environment, as {KEY_VARIABLE} or under another name"
            )
        return name

    @field_validator("price_per_million")
    @classmethod
    def _are_prices(cls, prices: list[float] | None) -> list[float] | None:
        if any(price < 0 for price in prices or ()):
            raise ValueError("`collect.judge.price_per_million` has a price below 0; expected: [input, output]")
        return prices


def parse_judge_section(values: Mapping[str, object]) -> CollectJudge:
    """The section from text or plain values, such as the command line's. Raises ConfigError; values are not repeated in it."""
    prices = values.get("price_per_million")
    plain = {**values, "price_per_million": prices.strip("[] ").split(",")} if isinstance(prices, str) else dict(values)
    if plain.get("temperature") in ("null", "none", ""):
        plain["temperature"] = None
    try:
        return CollectJudge.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        words = str(first["ctx"]["error"]) if first["type"] == "value_error" else f"the judge's `{name}`: {first['msg']}"
        raise ConfigError(words, expected=f"settings: {', '.join(CollectJudge.model_fields)}") from None
