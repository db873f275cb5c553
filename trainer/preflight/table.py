"""What a check is, and how a table of checks is walked with what is at hand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from trainer.config import TrainingConfig, TrainingJob
from trainer.contract.errors import OrchestratorError


class Needs(StrEnum):
    """What a check needs; the caller that walks the table says what it has."""

    ROWS = "the time to read every row"
    TRAINER = "the Python that trains"
    KEEPER = "the computer that executes the flow: its tokens, and where the result goes"
    HUB = "the Hub, over the network"
    PREFECT = "Prefect's API"
    MARKET = "the offers of the providers"
    PROBE = "a trial with torch, of some seconds"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at."""

    config: TrainingConfig
    job: TrainingJob | None = None
    """The whole job, where it is known: the trainer's machine gets the config alone."""
    away: Mapping[str, str] = field(default_factory=dict)
    """The files that are on another computer: what the job calls them, by the field."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in order, in words and as data."""

    text: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One row of the table."""

    name: str
    look: Callable[[Subject], Finding]
    """Says what was found, or raises an `OrchestratorError` with the field and the remedy."""
    applies: Callable[[Subject], bool] = lambda _: True
    """Whether this job has what is looked at."""
    needs: frozenset[Needs] = frozenset()
    reads: tuple[str, ...] = ()
    """The fields whose files it reads: nothing is looked at where one of them is away."""
    after: str = ""
    """The check on which this one rests: where that has found an error, it would find it again."""
    notice: str = ""
    """What to say before, for it takes a while."""

    def can_look(self, subject: Subject, have: Collection[Needs]) -> bool:
        """Whether the check applies here, and everything it needs is at hand."""
        # startswith takes a tuple, and a field may be nested: training.dataset.eval_path.
        is_away = any(name.startswith(self.reads) for name in subject.away) if self.reads else False
        return self.needs.issubset(have) and not is_away and self.applies(subject)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one check."""

    name: str
    found: Finding | None
    error: OrchestratorError | None = None


def walk(
    checks: Iterable[Check],
    subject: Subject,
    have: Collection[Needs],
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Result]:
    """Run every check that can run, in the table's order; errors are results too.

    Args:
        checks: the table.
        subject: what is looked at.
        have: what there is here that checks may need.
        say: called with what takes a while, before it does.
    """
    failed = set()
    for check in checks:
        if check.after in failed or not check.can_look(subject, have):
            continue
        if check.notice:
            # Before it runs: afterwards nobody would need to know why it takes so long.
            say(check.notice)
        try:
            yield Result(check.name, check.look(subject))
        except OrchestratorError as error:
            failed.add(check.name)
            yield Result(check.name, None, error)


def refuse(checks: Iterable[Check], subject: Subject, have: Collection[Needs]) -> list[Result]:
    """Return the results when all is well.

    Raises:
        OrchestratorError: of the first check that finds something wrong; no further one looks.
    """
    results = []
    for result in walk(checks, subject, have):
        if result.error:
            raise result.error
        results.append(result)
    return results
