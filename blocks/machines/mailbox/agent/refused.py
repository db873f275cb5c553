"""The error of a command that cannot be done."""

from __future__ import annotations


class Refused(Exception):
    """A command that cannot be done, with a word for its kind."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind
