"""What all settings share: they are frozen, and refuse what they do not know."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """The base of all settings: frozen, and unknown names are refused."""

    model_config = ConfigDict(
        # An unknown name is nearly always a typing error, and ignored it would train something else
        # than what was asked for.
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


def _plain_text(text: str) -> str:
    # These texts end up in log lines, file names and command lines.
    if any(ord(character) < 32 for character in text):
        raise ValueError("must not hold control characters such as line breaks")
    return text


MAX_NAME = 63  # characters
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


def _safe_name(name: str) -> str:
    # fullmatch without "$", which would let a trailing line break pass.
    if not re.fullmatch(NAME_PATTERN.rstrip("$"), name) or ".." in name:
        raise ValueError(
            "must be 1 to 63 letters, digits, '.', '_' or '-', start with a letter or digit, "
            "and not hold '..'"
        )
    return name


Text = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_plain_text)]
MaybeText = Annotated[str, Field(max_length=4096), AfterValidator(_plain_text)]
"""A text that may be empty."""
JobName = Annotated[
    str, AfterValidator(_safe_name), Field(json_schema_extra={"pattern": NAME_PATTERN})
]
