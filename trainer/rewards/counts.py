"""What scoring came to: answers that got no score, and calls that were made. Said once, kept for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainer.contract.words import number

COST = "judge: "
"""How the names of counters begin that say what a judge has cost."""
UNSCORED, CALLS = "unscored_answers", "judge_calls"
"""Entries of a manifest: of a rented machine's, a report takes numbers and no words."""
NO_SCORE = "no score: "
"""How the names of counters begin that count answers without a score; the reason follows."""


class Counts:
    """Counters by name, which checkpoints hold, and the sign of life while something is waited for."""

    def __init__(self) -> None:
        self.alive: Callable[[], None] = lambda: None
        self.by_name: dict[str, int] = {}
        self._said: set[str] = set()

    def add(self, name: str, count: int = 1) -> None:
        """Count something."""
        self.by_name[name] = self.by_name.get(name, 0) + count

    def no_score(self, who: str, why: str, hint: str = "") -> None:
        """Count an answer that got no score; the first of its kind is said.

        Args:
            who: what should have scored it.
            why: the same words for all answers of one kind.
            hint: more about this answer, or what to do.
        """
        name = f"{NO_SCORE}{who}: {why}"
        self.add(name)
        if name not in self._said:
            self._said.add(name)
            more = f" ({hint})" if hint else ""
            print(  # noqa: T201 - standard output is the job's log
                f"warning: {who} gave an answer no score: {why}{more}. Further ones are counted.",
                flush=True,
            )

    def take_up(self, before: Mapping[str, Any]) -> None:
        """Go on from the counters of a checkpoint; what counts by itself may be further."""
        for name, count in before.items():
            self.by_name[name] = max(int(count), self.by_name.get(name, 0))


def notes_of(by_name: Mapping[str, int]) -> dict[str, Any]:
    """Return counters for a manifest: by name, and the most important as plain numbers."""
    unscored = sum(n for name, n in by_name.items() if name.startswith(NO_SCORE))
    return {
        **({"rewards": dict(by_name)} if by_name else {}),
        **({UNSCORED: unscored} if unscored else {}),
        **({CALLS: by_name[f"{COST}calls"]} if f"{COST}calls" in by_name else {}),
    }


def sentences(counts: Any) -> list[str]:
    """Return what is to be known of answers without a score, as sentences.

    Args:
        counts: by name, as a manifest holds them; a machine may have written anything.
    """
    return [
        f"{number(count)} answer{'' if count == 1 else 's'} got no score by "
        f"{name.removeprefix(NO_SCORE)}."
        for name, count in sorted(_counts_in(counts).items())
        if name.startswith(NO_SCORE)
    ]


def cost(counts: Any) -> str:
    """Return in a few words how often a judge was asked; nothing where there is none."""
    known = _counts_in(counts).items()
    asked = [f"{number(count)} {n.removeprefix(COST)}" for n, count in known if n.startswith(COST)]
    return ", ".join(asked)


def noted(made: Mapping[str, Any]) -> list[str]:
    """Return what a manifest says of answers without a score; see `Counts.notes`."""
    if "rewards" in made:
        return sentences(made["rewards"])
    count = made.get(UNSCORED)
    plural = "" if count == 1 else "s"
    return [f"{number(count)} answer{plural} got no score; the log says why."] if count else []


def noted_cost(made: Mapping[str, Any]) -> str:
    """Return what a manifest says of a judge; see `Counts.notes`."""
    calls = made.get(CALLS)
    return cost(made.get("rewards")) or (f"{number(calls)} calls" if calls else "")


def _counts_in(counts: Any) -> dict[str, int]:
    entries = counts.items() if isinstance(counts, Mapping) else ()
    return {str(name): count for name, count in entries if type(count) is int}
