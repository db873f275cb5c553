"""What became of the rows of a dataset on their way to tokens or examples."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.contract.errors import DataError
from trainer.contract.words import number
from trainer.data.problems import MAX_NAMES

BAD = "cannot be used"
LEFT_OUT = "left out by formatting"
WEIGHTLESS = "weight 0"
LONGEST = {"longest", "highest"}
"""What is the largest of several numbers, and not their sum."""
MAX_PROBLEMS = 20  # bad rows that are told one by one; the rest is counted


@dataclass
class Tally:
    """What became of the rows of one source; kept beside its Arrow file."""

    rows: int = 0
    kept: int = 0
    """What there is to learn from: rows, or for kto answers, of which a pair has two."""
    tokens: int = 0
    """Tokens of what was kept."""
    dropped: int = 0
    truncated: int = 0
    longest: int = 0
    """Tokens of the longest row that was kept; of a pair, of the longer answer with its prompt."""
    highest: int = 0
    """The highest token of what was kept."""
    why: dict[str, int] = field(default_factory=dict)
    """How many were dropped for each reason."""
    chats: int = 0
    """Rows that a chat template renders."""
    weighted: int = 0
    """Rows that were kept and have a weight of their own."""
    bad: int = 0
    """Rows that cannot be used and are skipped; they are dropped ones, too."""
    problems: list[str] = field(default_factory=list)
    """What is wrong with the first of them."""
    notes: dict[str, int] = field(default_factory=dict)
    """What else is to be known of the rows, and of how many turns."""
    unread: dict[str, int] = field(default_factory=dict)
    """In how many rows nothing reads a column, or a part of a message."""
    labels: dict[str, int] = field(default_factory=dict)
    """How many rows have each label, where rows have labels."""
    several: int = 0
    """In how many rows the label is a list."""
    format: str = ""
    sha256: str = ""
    file_bytes: int = field(default=0, repr=False)

    def keep(self, tokens: int, limit: int | None) -> None:
        """Count one that is learnt from.

        Args:
            tokens: its length before it is cut.
            limit: where it is cut.
        """
        fitted = tokens if limit is None else min(tokens, limit)
        self.kept += 1
        self.truncated += fitted < tokens
        self.tokens += fitted
        self.longest = max(self.longest, fitted)

    def drop(self, why: str) -> None:
        """Count one that is not."""
        self.dropped += 1
        self.why[why] = self.why.get(why, 0) + 1

    def skip(self, count: int, problems: Iterable[str]) -> None:
        """Count rows that cannot be used."""
        if count:
            self.bad += count
            self.dropped += count
            self.why[BAD] = self.why.get(BAD, 0) + count
            self.problems = [*self.problems, *problems][:MAX_PROBLEMS]

    def note(self, what: str, count: int) -> None:
        """Count turns of which something is to be known."""
        if count:
            self.notes[what] = self.notes.get(what, 0) + count

    def ignore(self, name: str, count: int) -> None:
        """Count rows in which nothing reads what has this name."""
        self.unread[name] = self.unread.get(name, 0) + count


def nothing_left(name: str, rows: int, max_length: int, why: Mapping[str, int]) -> DataError:
    """Return the error that none of a source's rows can be learned from."""
    remedy = "Raise max_length, or check that the chat template shows the assistant's messages."
    if set(why) == {WEIGHTLESS}:
        remedy = "Give the rows that count a weight above 0."
    return DataError(
        f"{name}: none of {rows:,} rows can be learned from within max_length = {max_length} tokens "
        f"({reasons(why)}).",
        remedy,
    )


def merged(tallies: Sequence[Tally]) -> Tally:
    """Return what became of the rows of several sources."""
    whole = Tally()
    # Every field, so that one that is added is not left out in silence.
    for name, start in asdict(whole).items():
        values = [getattr(tally, name) for tally in tallies]
        if isinstance(start, int):
            setattr(whole, name, max(values) if name in LONGEST else sum(values))
        elif isinstance(start, dict):
            added = sum(map(Counter, values), Counter[str]())
            setattr(whole, name, dict(added))
    whole.problems = [problem for tally in tallies for problem in tally.problems][:MAX_PROBLEMS]
    whole.format = " and ".join(dict.fromkeys(tally.format for tally in tallies))
    hashes = "".join(f"{tally.sha256}\n" for tally in tallies)
    whole.sha256 = hashlib.sha256(hashes.encode()).hexdigest()
    return whole


def told(facts: Mapping[str, Any], max_length: int) -> str:
    """Return in one line what became of the rows: how many are kept, cut and dropped, and why.

    Args:
        facts: see `trainer.data.tokenization.PreparedData`.
        max_length: where they are cut, in tokens.
    """
    cut = (
        f", {number(n)} of them cut at max_length = {max_length}"
        if (n := facts["truncated"])
        else ""
    )
    parts = [f"{number(facts['kept'])} kept{cut}"]
    if dropped := facts["dropped"]:
        parts.append(f"{number(dropped)} dropped ({reasons(facts['why'])})")
    if held_out := facts.get("eval_rows"):
        parts.append(f"{number(held_out)} held out")
    to_train_on = f"; {number(facts['train_rows'])} to train on" if "train_rows" in facts else ""
    rows = f"{_rows(facts['rows'])}, format {facts['format']}"
    return f"{rows}: {', '.join(parts)}{to_train_on}"


def told_at_start(facts: Mapping[str, Any], max_length: int) -> list[str]:
    """Return the lines about all rows with which a training begins; the first is that of `told`."""
    line = told(facts, max_length)
    if piece := facts.get("streamed_pieces_of"):
        line = f"a stream, shuffled within pieces of {number(piece)} rows; of the first: {line}"
    lines = [line, *(f"mixed: {each}" for each in mix_told(facts))]
    if "evaluation" in facts:
        lines.append(f"held out: {told(facts['evaluation'], max_length)}")
    return lines


def mix_told(facts: Mapping[str, Any]) -> list[str]:
    """Return a line for each of several data sets: what an epoch has of it, and of how many rows."""
    return [
        f"{source['name']}: {source['share']:.1%} of the rows, as they come"
        if "epoch_rows" not in source
        else f"{source['name']}: {source['share']:.1%} of an epoch, {number(source['epoch_rows'])} rows of "
        f"{number(source['train_rows'])}{_often(source['epoch_rows'] / source['train_rows'])}"
        for source in facts.get("sources", ())
    ]


def _often(times: float) -> str:
    if times <= 1:
        return "" if times == 1 else ", drawn by the seed"
    return f", {number(times)} times each"


def remarks(facts: Mapping[str, Any]) -> list[str]:
    """Return further sentences: what nothing reads, and what is otherwise than it may be thought."""
    found = [f"{number(count)} {what}." for what, count in facts.get("notes", {}).items()]
    found += [f"Skipped {problem}." for problem in facts.get("problems", ())]
    if weighted := facts.get("weighted"):
        found.append(f"The loss of {_rows(weighted)} is multiplied by their own weights.")
    if facts.get("chats") and facts.get("plain_template"):
        found.append(
            "The model has no chat template: chats are rendered as plain ChatML, which is saved with "
            "the result."
        )
    if facts.get("turn_end", "") is None:
        found.append(
            "The chat template ends the assistant's turn with no token of its own, so generate() of "
            "the result may not stop there."
        )
    sources = facts.get("sources", [facts])
    for source in sources:
        # A report has none: of what a machine says it takes numbers.
        held_out = (source.get("evaluation") or {}).get("sha256")
        for other in sources:
            if held_out and held_out == other.get("sha256"):
                of = f" of {source['name']}" if "name" in source else ""
                by = f" as {other['name']}" if other is not source else ""
                found.append(f"The rows{of} to evaluate on are those that are trained on{by}.")
    if unread := facts.get("unread"):
        found.append(f"Not read by anything: {ignored(unread)}.")
    return found


def ignored(unread: Mapping[str, int]) -> str:
    """Return the columns that nothing reads, each with the number of rows."""
    named = [f"{name} ({_rows(count)})" for name, count in unread.items()]
    more = [f"{len(named) - MAX_NAMES} more"] if len(named) > MAX_NAMES else []
    return ", ".join(named[:MAX_NAMES] + more)


def warning_about(facts: Mapping[str, Any], max_length: int) -> str:
    """Return a sentence where more than half was dropped, which hardly anybody means; else none."""
    dropped = facts["dropped"] - facts["why"].get(LEFT_OUT, 0)  # which somebody wants
    if dropped <= facts["kept"]:
        return ""
    return (
        f"more than half of the rows are not learned from ({number(dropped)} of "
        f"{number(dropped + facts['kept'])}). Is max_length = {max_length} meant? "
        "Raise it, or remove these rows."
    )


def reasons(why: Mapping[str, int]) -> str:
    """Return how many rows were dropped for each reason, in words."""
    return ", ".join(f"{number(count)}: {reason}" for reason, count in why.items())


def _rows(count: int) -> str:
    return f"{number(count)} row{'' if count == 1 else 's'}"
