"""Secrets that this process has seen, and texts without them. Standard library only.

Whoever reads a secret has it remembered here. From then on it stands in no message of an error of
ours, and in no log record of this process, tracebacks included.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable
from typing import Any, TextIO
from urllib.parse import quote

SHORTEST = 8  # characters; a shorter one would blank out ordinary words
SHOWN = "***"

_IS_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|API_?KEY|ACCESS_KEY)$|^JUDGE_", re.IGNORECASE)

OURS = r"\b(?:to_[0-9a-f]{12}|tj_[0-9a-f]{32}|tt)_[\w-]{43}"
"""How keys, job tokens and tickets of the gateway look: known by that, whoever has made them."""

_known: set[str] = set()
_pattern = re.compile(OURS, re.ASCII)


def remember(value: str) -> str:
    """Keep a secret out of what is written from now on, and return it.

    Args:
        value: the secret; one that is shorter than 8 characters cannot be kept out.
    """
    global _pattern
    if len(value) < SHORTEST or value in _known:
        return value
    # Also as it stands in an address. Of a secret with several lines, such as a key, each counts.
    lines = [line.strip() for line in value.splitlines()]
    parts = {value, quote(value, safe=""), *(line for line in lines if len(line) > 2 * SHORTEST)}
    _known.update(parts)
    # The longest first: one may be part of another.
    known = map(re.escape, sorted(_known, key=len, reverse=True))
    _pattern = re.compile("|".join([*known, OURS]), re.ASCII)
    _redact_records()
    return value


def forget() -> None:
    """Forget every secret; for a process that lives longer than what it works on."""
    global _pattern
    _known.clear()
    _pattern = re.compile(OURS, re.ASCII)


def remember_variables(names: Iterable[str]) -> None:
    """Remember what these environment variables hold."""
    for name in names:
        remember(os.environ.get(name, "").strip())


def is_secret(name: str) -> bool:
    """Whether the name of an environment variable says that it holds a secret."""
    return _IS_SECRET.search(name) is not None


def remember_environment() -> None:
    """Remember what stands in every variable whose name says that it is a secret."""
    for name, value in os.environ.items():
        # Not what only names a place, or is a number.
        text = value.strip()
        if is_secret(name) and not text.startswith(("/", "~", "http")):
            remember("" if text.isdigit() else text)


def redacted_bytes(content: bytes) -> bytes:
    """Return what `redacted` does of bytes, of which some may be no text."""
    if not _known:  # megabytes of a log, in which nobody looks for our own keys
        return content
    return redacted(content.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def redacted(text: str) -> str:
    """Return a text in which every secret that is known is `***`."""
    return _pattern.sub(SHOWN, text)


def _redact_records() -> None:
    """Let every log record of this process be made without secrets, whoever writes it."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def record_without(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - somebody's __str__; whoever formats it reports the mistake
            return record
        if (shown := redacted(text)) != text:
            record.msg, record.args = shown, None
        if record.exc_info and record.exc_info[1]:
            text = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
            if (shown := redacted(text)) != text:
                # What is formatted already is printed as it is.
                record.exc_text, record.exc_info = shown, None
        return record

    record_without.redacts = True  # type: ignore[attr-defined] # to know our own again
    logging.setLogRecordFactory(record_without)


class Redacting:
    """A text stream that writes no secret; everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text without secrets; return the characters of the text itself."""
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines without secrets."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redact_output() -> None:
    """Let nothing that Python prints in this process, tracebacks included, show a secret."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Redacting):
            setattr(sys, name, Redacting(stream))
