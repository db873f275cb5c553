"""What a run hired: every machine, why it was left, and what it cost.

A row is written before a machine is ordered, and closed when the provider says that it is gone. So
failed boots, idle time and machines that do not end count here as they do on the provider's bill.
"""

from __future__ import annotations

import errno
import json
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

from blocks.marks import Mark
from blocks.models import Instance, Offer
from flows.full_disk import save_anyway, unsaved
from flows.logger import logger
from flows.prefect_api import UNANSWERED, asking_once, prefect_client
from flows.renting.contact import seconds_since_contact
from flows.renting.hire import Hire, hire_of, now, record_of
from flows.run_folder import RunFolder, run_folders
from flows.shown import IN_USE, MACHINES
from trainer.contract.files import read_json
from trainer.contract.words import rounded, time_taken

CALM_SECONDS = 86400.0  # after which a run that was executed again counts as one that never was


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
    """How often reconcile had the run executed again lately; see `revivals_lately`."""
    artifact_id: str | None = None
    time_up_step: int = -1
    """The newest checkpoint when the time of a machine was up last; -1: it never was."""
    revived_at: float = 0.0
    """When reconcile had it executed again last, in seconds since the epoch."""

    @classmethod
    def of(cls, run: RunFolder) -> Journal:
        """Return a run's journal; an empty one when nothing was hired yet."""
        record = unsaved(run.journal) or read_json(run.journal) or {}
        hires = [hire_of(row) for row in record.get("machines", [])]
        since_contact = seconds_since_contact(run)
        for hire in hires:
            hire.catch_up(since_contact)
        return cls(
            run,
            hires,
            int(record.get("lost_machines", 0)),
            int(record.get("lost_steps", 0)),
            int(record.get("revivals", 0)),
            record.get("artifact_id"),
            int(record.get("time_up_step", -1)),
            float(record.get("revived_at", 0.0)),
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
        hire = self.add(mark, offer, provider, price=price, exists=False)
        if unsaved(self.run.journal):
            self.hires.remove(hire)
            self.save()
            raise OSError(
                errno.ENOSPC, "nothing is hired that cannot be noted", str(self.run.journal)
            )
        return hire

    def add(
        self,
        mark: Mark,
        offer: Offer,
        provider: str,
        *,
        price: float | None = None,
        exists: bool = True,
    ) -> Hire:
        """Open the row of a machine that bears a mark already.

        Args:
            mark: what it bears.
            offer: what it is.
            provider: its provider's label.
            price: USD per hour that it counts as, where its offer does not say; see
                `flows.renting.unknown_price.price_of`.
            exists: whether it may be billed already; otherwise not until `Hire.order`.

        Raises:
            ValueError: there is neither; a machine must not count as costing nothing.
        """
        price = offer.price_per_hour if price is None else price
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
            **offer.extras,
            host=offer.host,
            started_at=now(),
            may_exist=exists,
        )
        self.hires.append(hire)
        self.save()
        return hire

    def end(self, hire: Hire, cause: str) -> None:
        """Close a row: the machine is gone, or never was."""
        if hire.is_open:
            hire.meter()
            # The first cause is the real one; later ones follow from it.
            hire.ended_at, hire.cause = now(), hire.cause or cause
            if not hire.instance_id:
                hire.metered_seconds = 0.0  # nothing came of it
            self.save()

    def billed(self, hire: Hire, instance: Instance) -> None:
        """Note what a machine is billed at now, as far as its provider says."""
        hire.billed_beside(instance)
        self.reprice(hire, instance.price_per_hour)

    def reprice(self, hire: Hire, price_per_hour: float | None) -> None:
        """Note what a machine is billed at now; None and 0 mean that the provider does not say."""
        if price_per_hour:  # a machine that has a price is there
            hire.exists()
        if price_per_hour and price_per_hour != hire.price_per_hour:
            message = "%s is billed at %.4g USD/h now; before, at %.4g"
            logger().warning(message, hire.instance_id, price_per_hour, hire.price_per_hour)
            hire.reprice(price_per_hour)
            self.save()

    def training_began(self, hire: Hire | None) -> None:
        """Note how long it took from a machine's order to its first training."""
        # One that was taken over was set up by another job.
        if hire and hire.may_exist and hire.set_up_seconds is None:
            hire.set_up_seconds = hire.seconds()
            self.save()

    def came_home(self, hire: Hire | None, size: int) -> None:
        """Note how many bytes came from a machine: some providers bill them."""
        if hire and size:
            hire.traffic_bytes += size
            self.save()

    def keep(self, hire: Hire, mark: Mark, *, ends_bill: bool = True) -> None:
        """Note that a machine waits for the next job under another mark; this run pays for it.

        Args:
            hire: its row.
            mark: what it bears from now on.
            ends_bill: whether nothing is billed any more once it has ended itself.
        """
        seconds = max(0.0, mark.kept_until - time.time())
        if ends_bill:  # elsewhere it is billed until reconcile ends it
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
        return sum(hire.whole_per_hour for hire in self.hires if hire.is_open)

    @property
    def revivals_lately(self) -> int:
        """How often the run was executed again without a day between two of these times.

        A training of months may lose its process now and then; one that dies whenever it is
        executed does so within minutes.
        """
        return self.revivals if time.time() - self.revived_at < CALM_SECONDS else 0

    def revived(self) -> None:
        """Count that the run is executed again."""
        self.revivals = self.revivals_lately + 1
        self.revived_at = time.time()
        self.save()

    def save(self) -> None:
        """Write the journal to the run's folder; a full disk delays that and stops nothing."""
        # Metered with every save, so that a crash loses no more than the time since the last one.
        for hire in self.hires:
            if hire.is_open:
                hire.meter()
        record = {
            "machines": [record_of(hire) for hire in self.hires],
            "lost_machines": self.lost_machines,
            "lost_steps": self.lost_steps,
            "revivals": self.revivals,
            "artifact_id": self.artifact_id,
            "time_up_step": self.time_up_step,
            "revived_at": self.revived_at,
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
                "outcome": hire.cause or IN_USE,
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
