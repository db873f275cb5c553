"""Which layout a dataset's columns show, by our names or by those that are usual elsewhere.

Our own names go first. Else a row with one column of `QUESTIONS` and one of `ANSWERS` is a
question and its answer, whatever stands beside them; two of either are ambiguous, and are refused
rather than guessed. Capitals do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

QUESTIONS = ("instruction", "question", "query", "problem", "prompt", "user")
ANSWERS = ("output", "answer", "response", "completion", "solution", "assistant")
CONTEXTS = ("input", "context")
"""What a question is about, where it does not say it all itself."""
CHATS = ("conversation", "chat", "dialogue", "dialog")
TEXTS = ("content", "document")
LABELS = ("label", "labels", "class", "category")
PAIRS = (
    *(("text_a", "text_b"), ("text1", "text2"), ("sentence1", "sentence2")),
    *(("premise", "hypothesis"), ("question1", "question2")),
)
"""Two texts that a label is about."""


class Ambiguous(Exception):
    """Several columns could each be what is looked for."""

    def __init__(self, columns: Sequence[str], meaning: str) -> None:
        super().__init__(f"{' and '.join(map(repr, columns))} could each be the {meaning}")


class Columns:
    """The columns of a first row, by our names."""

    def __init__(self, row: Mapping[str, Any], renamed: Mapping[str, str]) -> None:
        """Take a row.

        Args:
            row: the first one.
            renamed: the dataset's names by ours, as the job gives them.
        """
        given = {ours: theirs for ours, theirs in renamed.items() if theirs in row}
        # A column that the job has renamed no longer counts under its own name.
        others = {name.strip().casefold(): name for name in row if name not in given.values()}
        self._row = row
        self._given = set(given)
        self._names = others | given

    def of(self, layout: str, needed: Sequence[str], *, usual: bool) -> dict[str, str] | None:
        """Return the dataset's names by ours for a layout, or None when the columns do not fit.

        Args:
            layout: its name, such as instruction.
            needed: the columns that it cannot do without.
            usual: whether they may have the names that are usual elsewhere.

        Raises:
            Ambiguous: several columns could each be one of its.
        """
        found = {name: self._names[name] for name in needed if name in self._names}
        if len(found) < len(needed):
            others = self._usual(layout) if usual else None
            if others is None:
                return None
            found = others
        if layout == "instruction" and "input" not in found:
            found |= self._one("input", CONTEXTS, found)
        if layout == "preference" and "prompt" not in found:
            found |= self._one("prompt", QUESTIONS, found)
            # Where an answer is one message, the conversation that it follows stands beside it.
            if isinstance(self._row[found["chosen"]], dict) and "prompt" not in found:
                found |= self._one("prompt", ("conversations", "messages"), found, list)
        return {ours: theirs for ours, theirs in found.items() if ours != theirs}

    def _usual(self, layout: str) -> dict[str, str] | None:
        """Return the columns of a layout by the names that they have elsewhere."""
        match layout:
            case "instruction":
                return self._asked("instruction", {"output": ANSWERS})
            case "unpaired" if "label" in self._names:
                asked = self._asked("prompt", {"completion": ANSWERS})
                return asked and asked | {"label": self._names["label"]}
            case "prompts":
                return self._asked("prompt", {})
            case "conversations":
                return self._one("conversations", CHATS, {}, list) or None
            case "text":
                return self._one("text", TEXTS, {}, str) or None
            case "labelled_text":
                found = self._one("text", ("text", "sentence", *TEXTS), {}, str)
                return self._labelled(found, 1)
            case "labelled_pair":
                there = [pair for pair in PAIRS if self._names.keys() >= set(pair)]
                if len(there) > 1:
                    raise Ambiguous([f"{a}, {b}" for a, b in there], "pair of texts")
                texts = zip(("text_a", "text_b"), there[0], strict=True) if there else ()
                return self._labelled({ours: self._names[usual] for ours, usual in texts}, 2)
            case "labelled_chat" if "messages" in self._names:
                return self._labelled({"messages": self._names["messages"]}, 1)
            case _:
                return None

    def _labelled(self, found: dict[str, str], count: int) -> dict[str, str] | None:
        if len(found) < count:
            return None
        label = self._one("label", LABELS, found)
        return found | label if label else None

    def _asked(self, ours: str, more: Mapping[str, Sequence[str]]) -> dict[str, str] | None:
        found = self._one(ours, QUESTIONS, {}) or self._one(ours, ("input",), {})
        for name, usual in more.items():
            found |= self._one(name, usual, found)
        return found if len(found) == 1 + len(more) else None

    def _one(
        self,
        ours: str,
        usual: Sequence[str],
        taken: Mapping[str, str],
        kind: type = object,
    ) -> dict[str, str]:
        """Return the column with a meaning, by our name; empty when there is none."""
        if ours in self._given:
            return {ours: self._names[ours]}
        there = [
            self._names[name]
            for name in usual
            if name in self._names
            and self._names[name] not in taken.values()
            # "content" may be a text or a list; only the type in the first row says which is meant.
            and isinstance(self._row[self._names[name]], kind)
        ]
        # A guess would train on the wrong column without a word.
        if len(there) > 1:
            raise Ambiguous(there, ours)
        return dict.fromkeys([ours], there[0]) if there else {}
