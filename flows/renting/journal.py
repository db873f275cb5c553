"""What a run hired: every machine, why it was left, and what it cost.

A row is written before a machine is ordered, and closed when the provider says that it is gone. So
failed boots, idle time and machines that do not end count here as they do on the provider's bill.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

from blocks.marks import Mark, read_mark
from blocks.models import Instance, Offer
from blocks.uptime import boot_id, uptime
from flows.full_disk import save_anyway, unsaved
from flows.logger import logger
from flows.prefect_api import UNANSWERED, asking_once, prefect_client
from flows.run_folder import RunFolder, run_folders
from trainer.contract.files import read_json
from trainer.contract.words import rounded, time_taken

MACHINES = "training-machines"
HOUR = 3600.0


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
    held_since: float = 0.0
    """Unix seconds since when it is kept only for what could not be fetched from it yet."""
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

    def __post_init__(self) -> None:
        """Count the time while no process of ours metered."""
        if self.metered_at and self._bills:
            self.metered_seconds += max(0.0, self._gap())

    def _gap(self) -> float:
        """Return the seconds since it was metered, by whatever process that was."""
        gap = (datetime.now(UTC) - datetime.fromisoformat(self.metered_at)).total_seconds()
        if self.boot and self.boot == boot_id():
            # By what the clock was set since then, no time has passed.
            return gap - (time.time() - uptime() - self.clock_ahead)
        # This computer was started anew, and whoever set its clock meanwhile is not to be known:
        # at least it has been up since.
        return max(gap, uptime()) if self.boot else gap

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
        self._since, self.metered_at = uptime(), _now()
        self.boot, self.clock_ahead = boot_id(), time.time() - uptime()

    def cost(self) -> float:
        """Return what it has cost so far, in USD."""
        return (
            self.cost_before + self.price_per_hour * (self.seconds() - self.seconds_before) / HOUR
        )

    def reprice(self, price_per_hour: float) -> None:
        """Bill from now on at another price; what was billed before stays as it is."""
        self.cost_before, self.seconds_before = self.cost(), self.seconds()
        self.price_per_hour = price_per_hour


@dataclass(slots=True)
class Journal:
    """The machines of one run, oldest first, kept in its folder."""

    run: RunFolder
    hires: list[Hire] = field(default_factory=list)
    lost_machines: int = 0
    """How many were lost or taken back while the job was on them."""
    lost_steps: int = 0
    """How many steps were trained on them beyond their newest checkpoint at home."""
    revivals: int = 0
    """How often reconcile had the run executed again."""
    artifact_id: str | None = None

    @classmethod
    def of(cls, run: RunFolder) -> Journal:
        """Return a run's journal; an empty one when nothing was hired yet."""
        record = unsaved(run.journal) or read_json(run.journal) or {}
        hires = [_hire(row) for row in record.get("machines", [])]
        return cls(
            run,
            hires,
            int(record.get("lost_machines", 0)),
            int(record.get("lost_steps", 0)),
            int(record.get("revivals", 0)),
            record.get("artifact_id"),
        )

    def begin(
        self,
        offer: Offer,
        provider: str,
        *,
        beside: Hire | None = None,
        price: float | None = None,
    ) -> Hire:
        """Open the row of a machine that is about to be ordered; the row holds its mark.

        Args:
            offer: the offer that it is ordered by.
            provider: its provider's label.
            beside: the last machine that was ordered for the same attempt.
            price: see `add`.

        Raises:
            OSError: the row cannot be written, so that nothing may be ordered by it: should this
                process die, nobody would know what the machine costs.
        """
        attempt, rank = 1 + max((hire.attempt for hire in self.hires), default=0), 0
        if beside:
            attempt, rank = beside.attempt, beside.rank + 1
        mark = Mark.of_run(UUID(self.run.run_id), attempt, rank)
        hire = self.add(mark, offer, provider, price=price)
        if unsaved(self.run.journal):
            self.hires.remove(hire)
            self.save()
            raise OSError(
                errno.ENOSPC, "nothing is hired that cannot be noted", str(self.run.journal)
            )
        return hire

    def add(self, mark: Mark, offer: Offer, provider: str, *, price: float | None = None) -> Hire:
        """Open the row of a machine that bears a mark already.

        Args:
            mark: what it bears.
            offer: what it is.
            provider: its provider's label.
            price: USD per hour that it counts as where its offer names no price; see
                `flows.renting.market.price_of`.

        Raises:
            ValueError: there is neither; a machine must not count as costing nothing.
        """
        price = price if offer.price_per_hour is None else offer.price_per_hour
        if price is None:
            raise ValueError(f"the price of {mark} is unknown")
        hire = Hire(
            attempt=mark.attempt,
            rank=mark.rank,
            mark=mark,
            provider=provider,
            instance_type=offer.instance_type,
            region=offer.region,
            spot=offer.spot,
            price_per_hour=price,
            offered_per_hour=offer.price_per_hour or 0.0,
            host=offer.host,
            started_at=_now(),
        )
        self.hires.append(hire)
        self.save()
        return hire

    def end(self, hire: Hire, cause: str) -> None:
        """Close a row: the machine is gone, or never was."""
        if hire.is_open:
            hire.meter()
            # The first cause is the real one; later ones follow from it.
            hire.ended_at, hire.cause = _now(), hire.cause or cause
            if not hire.instance_id:
                hire.metered_seconds = 0.0  # nothing came of it
            self.save()

    def reprice(self, hire: Hire, price_per_hour: float | None) -> None:
        """Note what a machine is billed at now; None and 0 mean that the provider does not say."""
        if price_per_hour and price_per_hour != hire.price_per_hour:
            message = "%s is billed at %.4g USD/h now; before, at %.4g"
            logger().warning(message, hire.instance_id, price_per_hour, hire.price_per_hour)
            hire.reprice(price_per_hour)
            self.save()

    def keep(self, hire: Hire, mark: Mark) -> None:
        """Note that a machine waits for the next job under another mark; this run pays for it."""
        seconds = max(0.0, mark.kept_until - time.time())
        hire.most_seconds = hire.seconds() + seconds
        hire.mark, hire.kept_until = mark, mark.kept_until
        hire.cause = f"completed; kept for {round(seconds / 60, 1):g} minutes"
        self.save()

    def of_instance(self, instance: Instance) -> Hire | None:
        """Return the row of a machine: by its id, or by its mark while the row has no id."""
        # The id first: it never changes, and a mark passes from one run to the next.
        for hire in self.hires:
            if hire.instance_id == instance.id:
                return hire
        unknown = [hire for hire in self.hires if not hire.instance_id]
        return next((hire for hire in unknown if hire.mark == instance.mark), None)

    def attempt_of(self, hire: Hire) -> list[Hire]:
        """Return the machines of an attempt that may still cost money, in the order of rank."""
        found = [row for row in self.hires if row.is_open and row.attempt == hire.attempt]
        return sorted(found, key=lambda row: row.rank)

    def cost(self) -> float:
        """Return what the run has cost so far, in USD."""
        return sum(hire.cost() for hire in self.hires)

    def price_per_hour(self) -> float:
        """Return what all machines that may still cost money cost together, in USD per hour."""
        return sum(hire.price_per_hour for hire in self.hires if hire.is_open)

    def save(self) -> None:
        """Write the journal to the run's folder; a full disk delays that and stops nothing."""
        # Metered with every save, so that a crash loses no more than the time since the last one.
        for hire in self.hires:
            if hire.is_open:
                hire.meter()
        record = {
            "machines": [_record(hire) for hire in self.hires],
            "lost_machines": self.lost_machines,
            "lost_steps": self.lost_steps,
            "revivals": self.revivals,
            "artifact_id": self.artifact_id,
        }
        save_anyway(self.run.journal, record)

    def table(self) -> list[dict[str, Any]]:
        """Return the rows as a person reads them."""
        return [
            {
                "attempt": hire.label,
                "provider": hire.provider,
                "offer": hire.instance_type + (" (spot)" if hire.spot else ""),
                "region": hire.region,
                "USD/h": rounded(hire.price_per_hour),
                "time": time_taken(hire.seconds()),
                "USD": rounded(hire.cost()),
                "outcome": hire.cause or "in use",
                "instance": hire.instance_id,
            }
            for hire in self.hires
        ]

    @classmethod
    def close_kept(cls, mark: Mark, cause: str) -> None:
        """Close the row of a kept machine, whichever run of this computer it is in."""
        for folder in run_folders():
            journal = cls.of(RunFolder(folder.name))
            for hire in journal.hires:
                if hire.is_open and hire.mark == mark:
                    hire.cause = f"{hire.cause}; {cause}"
                    journal.end(hire, cause)

    async def publish(self) -> None:
        """Show the rows in Prefect, in one table that is updated in place.

        What Prefect does not take now it gets the next time: this is a view, not the record.
        """
        data = json.dumps(self.table())
        try:
            with asking_once():
                made = await self._show(data)
        except UNANSWERED:
            return
        if made != self.artifact_id:
            self.artifact_id = made
            self.save()

    async def _show(self, data: str) -> str:
        async with prefect_client() as client:
            if self.artifact_id:
                await client.update_artifact(UUID(self.artifact_id), ArtifactUpdate(data=data))
                return self.artifact_id
            made = await client.create_artifact(
                ArtifactCreate(
                    key=MACHINES,
                    type="table",
                    description="Every machine that was tried: offer, time, cost, outcome",
                    data=data,
                    flow_run_id=UUID(self.run.run_id),
                )
            )
        return str(made.id)


def _record(hire: Hire) -> dict[str, Any]:
    values = {k: v for k, v in dataclasses.asdict(hire).items() if not k.startswith("_")}
    return {**values, "mark": str(hire.mark)}


_RENAMED = {"name": "mark", "node": "rank"}  # fields, as the journals of earlier versions have them


def _hire(row: dict[str, Any]) -> Hire:
    """Return a row; entries of a newer version are passed over."""
    known = {entry.name for entry in dataclasses.fields(Hire)} - {"_since"}
    named = {_RENAMED.get(name, name): value for name, value in row.items()}
    facts = {name: value for name, value in named.items() if name in known}
    # One that no version wrote belongs to no machine that could be found by it.
    facts["mark"] = read_mark(str(facts.get("mark"))) or Mark(installation="")
    return Hire(**facts)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
