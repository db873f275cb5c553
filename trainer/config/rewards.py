"""What scores answers: functions that a job names without a file, a sandbox for the user's, a judge."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from trainer.config.argument_kinds import not_finite
from trainer.config.settings import Settings, Text

BUILTIN_REWARDS: dict[str, tuple[str, ...]] = {
    "contains_answer": ("answer",),
    "exact_match": ("answer",),
    "format": (),
    "json": (),
    "length": (),
}
"""The columns that each cannot do without, by its name in a job file."""

PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
"""A name in braces. JSON in a template is none: its braces hold quotes."""
OF_TEMPLATE = ("prompt", "completion", "lowest", "highest")
"""The names that a judge's template may use whatever columns the rows have."""
VARIABLE = re.compile(r"OPENAI_API_KEY|JUDGE_\w+", re.ASCII)
"""The variables that a key may be in: a job must not have other secrets of a computer sent away."""
OURS_TO_SAY = ("model", "messages", "stream", "n")
"""Parameters of a request that the judge sets by itself."""
JUDGE_TEMPLATE = """\
You are a strict and fair judge. Read a task and an answer to it, and say how good the answer is.

<task>
{prompt}
</task>

<answer>
{completion}
</answer>

First say in one or two sentences what is good and what is bad about the answer. Then end with a line
Score: N
where N is a number from {lowest} to {highest}, and {highest} is the best."""
# A number that goes on, such as 7,5 or 1.2.3, is read as none rather than as its first part.
JUDGE_SCORE = r"[Ss]core[^\w+-]{0,6}([+-]?\d+(?:\.\d+)?)(?![.,]?\d)"


def _no_address(text: str) -> str:
    """Return what is wrong with an address, without showing it; empty where nothing is."""
    try:
        parts = urlsplit(text)
        secret = parts.username or parts.password or parts.query or parts.fragment
        is_one = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # such as a port of letters
        secret, is_one = None, False
    if secret:
        return "must not hold a password, a query or a fragment: set api_key_variable"
    if is_one and parts.path.rstrip("/").endswith("/chat/completions"):
        return "ends where the API begins: leave /chat/completions out"
    return "" if is_one else "is not an address such as https://api.openai.com/v1"


def _a_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return text


def _a_template(text: str) -> str:
    if "completion" not in PLACEHOLDER.findall(text):
        raise ValueError("must hold {completion}, the answer that is judged")
    return text


class SandboxConfig(Settings):
    """How each reward function of your own runs in a process of its own."""

    timeout_seconds: float = Field(default=10.0, gt=0, le=3600)
    """How long one answer may take. A call has that for each of its answers; where it takes longer, or
    its process ends, its answers are scored one by one, and those that are to blame get no score."""
    memory_gb: float | None = Field(default=4.0, gt=0)
    """Memory that the process may use, in GiB. null: as much as there is."""


class JudgeConfig(Settings):
    """A model behind an API like OpenAI's that is asked how good an answer is."""

    base_url: Annotated[Text, AfterValidator(lambda text: text.rstrip("/"))] = (
        "https://api.openai.com/v1"
    )
    """The address of the API, up to and without /chat/completions."""
    model: Text
    """The judge, by the name that the API has for it."""
    api_key_variable: Text | None = "OPENAI_API_KEY"
    """The environment variable that holds the key: this one, or one that begins with JUDGE_. null: no key
    is sent."""
    template: Annotated[str, Field(max_length=65536), AfterValidator(_a_template)] = JUDGE_TEMPLATE
    """What the judge is asked. {prompt} and {completion} stand for what was asked and answered, {lowest}
    and {highest} for the ends of the scale, and a column's name in braces for its value in the row."""
    score_pattern: Annotated[Text, AfterValidator(_a_pattern)] = JUDGE_SCORE
    """The regular expression that finds the score in the judge's reply: its first group, or all of it;
    the last match counts."""
    lowest: float = 0.0
    """The worst score, which becomes a reward of 0."""
    highest: float = 10.0
    """The best score, which becomes a reward of 1. A score beyond the scale counts as none."""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"temperature": 0})
    """Further parameters of the request, by the API's names, such as max_tokens."""
    concurrency: int = Field(default=8, ge=1, le=256)
    """How many answers are judged at the same time."""
    timeout_seconds: float = Field(default=60.0, gt=0, le=3600)
    """How long one request may take."""
    max_retries: int = Field(default=5, ge=0, le=100)
    """How often a request is repeated that failed for a reason which may pass."""

    @property
    def placeholders(self) -> set[str]:
        """The names in braces in the template."""
        return set(PLACEHOLDER.findall(self.template))

    def lacking(self, columns: Collection[str]) -> list[str]:
        """Return the names in the template that are no column of the rows, sorted."""
        return sorted(self.placeholders.difference(OF_TEMPLATE, columns))

    @model_validator(mode="before")
    @classmethod
    def _holds_no_secret(cls, given: Any) -> Any:
        """Refuse a key, or a password, that was written into the job by mistake.

        Of the whole mapping, for a message about one value would show it.
        """
        if not isinstance(given, dict):
            return given
        name, address = given.get("api_key_variable"), given.get("base_url")
        if isinstance(name, str) and not VARIABLE.fullmatch(name):
            raise ValueError(
                "api_key_variable must be OPENAI_API_KEY, or the name of another environment variable "
                "that begins with JUDGE_: put the key into it, and write its name here"
            )
        if isinstance(address, str) and (why := _no_address(address)):
            raise ValueError(f"base_url {why}")
        return given

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest = {self.lowest:g} must be below highest = {self.highest:g}")
        if ours := sorted(set(OURS_TO_SAY) & self.parameters.keys()):
            raise ValueError(f"parameters.{ours[0]} is set by the judge itself: remove it")
        if names := not_finite(self.parameters):
            raise ValueError(f"parameters.{names[0]} must be a finite number")
        return self
