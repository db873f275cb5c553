"""One machine that a run hired: what it is, how long it is billed, and what that costs."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from blocks.marks import Mark, read_mark
from blocks.models import EXTRAS, HOURS_PER_MONTH, Instance, InstanceStatus
from blocks.uptime import Moment, boot_id, uptime

HOUR = 3600.0
GB = 1e9


@dataclass(slots=True, kw_only=True)
class Hire:
    """One machine, or one attempt to get one. Times are UTC, ISO 8601."""

    attempt: int
    """Counted from 1; machines that train together share it."""
    mark: Mark
    """What it bears in the provider's account."""
    provider: str
    """The provider's label; see `Provider.label`."""
    instance_type: str
    region: str
    spot: bool
    price_per_hour: float
    """USD per hour: as offered, then as billed; where the provider does not say, as much as the
    dearest machine of its kind."""
    offered_per_hour: float = 0.0
    """USD per hour, as offered; 0: the provider does not say."""
    storage_gb: float = 0.0
    """This and the next three as in `Offer`: what is billed beside the price."""
    storage_price: float = 0.0
    beside_per_hour: float = 0.0
    traffic_price: float = 0.0
    traffic_bytes: int = 0
    """What came home from it."""
    rank: int = 0
    """Its rank among the machines of the attempt."""
    host: str = ""
    instance_id: str = ""
    """The provider's own name for it; empty while nothing is known to be hired."""
    workspace: str = ""
    """Its job directory, once it was ready."""
    machine: dict[str, Any] = field(default_factory=dict)
    """The machine when it was ready (`Instance.to_dict`): by this it is reached, should a process
    that comes later find its provider's API away."""
    held: dict[str, Any] = field(default_factory=dict)
    """Since when it is kept only for what could not be fetched from it yet: a `Moment`."""
    kept_until: float = 0.0
    """Unix seconds until which it waits, under another mark, for the next job; 0: it does not."""
    most_seconds: float | None = None
    """It is billed for no longer than this, because a kept machine ends itself then."""
    accepted_seconds: float | None = None
    """How long it had been billed when its provider accepted its end; None: it has not."""
    started_at: str = ""
    ended_at: str | None = None
    cause: str = ""
    """Why it was given back or never came to be."""
    retries: dict[str, Any] = field(default_factory=dict)
    """How machines that train together were started again, kept with the first: `Retry.changes`."""
    may_exist: bool = True
    """Whether it may be billed; not while its order is refused, or certainly never went out."""
    metered_seconds: float = 0.0
    """How long it was billed until `metered_at`."""
    unattended_seconds: float | None = None
    """It ends itself, and its bill, within so long after our last word; None: it does not."""
    set_up_seconds: float | None = None
    """How long it had been billed when the training on it was started; None: it was not."""
    withheld_seconds: float = 0.0
    """How long nobody metered it after it must have ended itself: billed should it be there still."""
    metered_at: str = ""
    boot: str = ""
    """Which start of this computer that was in; see `blocks.uptime`."""
    clock_ahead: float = 0.0
    """By how many seconds the clock was ahead of the computer's uptime then."""
    seconds_before: float = 0.0
    """How long it was billed at other prices, before the price last changed."""
    cost_before: float = 0.0
    """USD for that time."""
    _since: float = field(default_factory=lambda: uptime(), repr=False)

    def catch_up(self, since_contact: float) -> None:
        """Count the time while no process of ours metered.

        Args:
            since_contact: seconds since our last word reached a machine of the run; 0: not known.
        """
        if not self.metered_at or not self._bills:
            return
        noted = datetime.fromisoformat(self.metered_at).timestamp()
        gap = Moment(noted, self.boot, noted - self.clock_ahead).seconds_since()
        if self.unattended_seconds is not None:
            over = min(gap, max(0.0, since_contact - self.unattended_seconds))
            gap, self.withheld_seconds = gap - over, self.withheld_seconds + over
        self.metered_seconds += gap

    def exists(self) -> None:
        """Bill what was withheld: the machine is there, so it has not ended itself."""
        self.metered_seconds += self.withheld_seconds
        self.withheld_seconds = 0.0

    def seen(self, instance: Instance) -> None:
        """Note what its provider says of it."""
        if instance.status not in {InstanceStatus.GONE, InstanceStatus.ABSENT}:
            self.exists()
            self.billed_beside(instance)

    def billed_beside(self, instance: Instance) -> None:
        """Note what else its provider bills; 0 means that this answer does not say."""
        for name in EXTRAS:
            if value := getattr(instance, name):
                setattr(self, name, value)

    @property
    def label(self) -> str:
        """The attempt, and the rank of a machine that is not its first."""
        return f"{self.attempt}-{self.rank}" if self.rank else str(self.attempt)

    @property
    def is_open(self) -> bool:
        """Whether it may still cost money."""
        return self.ended_at is None

    def seconds(self) -> float:
        """Return how long it has been, or was, billed; by a clock that nobody sets."""
        bounds = (self._elapsed(), self.most_seconds, self.accepted_seconds)
        return min(bound for bound in bounds if bound is not None)

    def _elapsed(self) -> float:
        """Return how long it has been, or was, billed as far as we could see."""
        return self.metered_seconds + (uptime() - self._since if self._bills else 0.0)

    @property
    def _bills(self) -> bool:
        return self.is_open and (self.may_exist or bool(self.instance_id))

    def order(self) -> None:
        """Start billing now: the order is about to go out."""
        self.may_exist, self.metered_seconds = True, 0.0
        self.withheld_seconds = 0.0
        self._stamp()

    def refused(self) -> None:
        """Bill nothing: what was ordered certainly does not exist."""
        self.may_exist, self.metered_seconds = False, 0.0
        self._stamp()

    def meter(self) -> None:
        """Add the time that has passed to the record."""
        # Not what the bounds leave of it: they may be lifted, as when a machine does not go.
        self.metered_seconds = self._elapsed()
        self._stamp()

    def _stamp(self) -> None:
        # The uptime is what is added: it counts the time that this computer sleeps, and a wall
        # clock that jumps would bill its jump.
        self._since, self.metered_at = uptime(), now()
        self.boot, self.clock_ahead = boot_id(), time.time() - uptime()

    def cost(self) -> float:
        """Return what it has cost so far, in USD: all that is billed of it."""
        return self.compute_cost() + self.storage_cost() + self.beside_cost() + self.traffic_cost()

    def compute_cost(self) -> float:
        """Return what the machine itself has cost, in USD."""
        return (
            self.cost_before + self.price_per_hour * (self.seconds() - self.seconds_before) / HOUR
        )

    def storage_cost(self) -> float:
        """Return what a disk that is billed apart has cost, in USD."""
        per_hour = self.storage_gb * self.storage_price / HOURS_PER_MONTH
        return per_hour * self.seconds() / HOUR

    def beside_cost(self) -> float:
        """Return what an address and the like have cost, in USD."""
        return self.beside_per_hour * self.seconds() / HOUR

    def traffic_cost(self) -> float:
        """Return what bringing home from it has cost, in USD."""
        return self.traffic_bytes / GB * self.traffic_price

    @property
    def whole_per_hour(self) -> float:
        """USD per hour for all that is billed by time."""
        per_hour = self.storage_gb * self.storage_price / HOURS_PER_MONTH
        return self.price_per_hour + per_hour + self.beside_per_hour

    def reprice(self, price_per_hour: float) -> None:
        """Bill from now on at another price; what was billed before stays as it is."""
        # Of the machine alone: what is billed beside it is counted by all of its time.
        self.cost_before, self.seconds_before = self.compute_cost(), self.seconds()
        self.price_per_hour = price_per_hour


def record_of(hire: Hire) -> dict[str, Any]:
    """Return a row as it stands in the file."""
    values = {k: v for k, v in dataclasses.asdict(hire).items() if not k.startswith("_")}
    return {**values, "mark": str(hire.mark)}


_RENAMED = {"name": "mark", "node": "rank"}  # fields, as the journals of earlier versions have them


def hire_of(row: dict[str, Any]) -> Hire:
    """Return what `record_of` gave; entries of a newer version are passed over."""
    known = {entry.name for entry in dataclasses.fields(Hire)} - {"_since"}
    named = {_RENAMED.get(name, name): value for name, value in row.items()}
    facts = {name: value for name, value in named.items() if name in known}
    # One that no version wrote belongs to no machine that could be found by it.
    facts["mark"] = read_mark(str(facts.get("mark"))) or Mark(installation="")
    return Hire(**facts)


def now() -> str:
    """Return the time in UTC, as rows have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
