"""What became of an order, and of a machine that is gone, by the operations of its zone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blocks.models import Instance, InstanceStatus
from blocks.providers.gcp.answers import DONE, Failure, failed

ENDED_BY = {
    "compute.instances.preempted": "it was taken back",
    "compute.instances.hostError": "its host failed",
    "compute.instances.guestTerminate": "it shut itself down",
    "compute.instances.terminateOnHostMaintenance": "its host was maintained",
}
"""What ends a machine besides a delete, by the type of the operation."""
DELETES = ("delete", "compute.instances.deleteOnTermination")


@dataclass(frozen=True, slots=True)
class Story:
    """What the operations on one machine tell."""

    ordering: bool
    """Its insert is under way."""
    failure: Failure | None
    """Why its insert failed."""
    end: str
    """What ended it, in words; empty while nothing has."""
    deleted: bool
    """A delete of it is done."""
    taken_back: bool

    @classmethod
    def of(cls, operations: Sequence[Mapping[str, Any]]) -> Story:
        """Read the operations on a machine.

        Raises:
            LookupError, TypeError: they are not as described.
        """
        inserts = [row for row in operations if row["operationType"] == "insert"]
        insert = max(inserts, key=_inserted, default=None)
        others = [row for row in operations if row["operationType"] != "insert"]
        ends = [row["operationType"] for row in others if row["operationType"] in ENDED_BY]
        deletes = [
            row
            for row in others
            if row["operationType"] in DELETES and row["status"] == DONE and not row.get("error")
        ]
        by = next((str(row.get("user") or "") for row in deletes), "")
        words = [ENDED_BY[name] for name in ends]
        if deletes:
            words.append(f"it was deleted{f' by {by}' if by else ''}")
        return cls(
            ordering=insert is not None and insert["status"] != DONE,
            failure=failed(insert) if insert is not None else None,
            end=", ".join(words),
            deleted=bool(deletes),
            taken_back="compute.instances.preempted" in ends,
        )

    def told_of(self, id: str, seen: Instance | None) -> Instance | None:
        """Return a machine with what its operations tell; None where nothing is known of it.

        Args:
            id: of the machine.
            seen: as the provider has it; None where it does not find it.
        """
        if seen is not None:
            detail = f"{seen.detail}: {self.end}" if self.end else seen.detail
            status = InstanceStatus.LOST if self.taken_back else seen.status
            return dataclasses.replace(seen, status=status, detail=detail)
        zone = id.partition("/")[0]
        region = zone.rpartition("-")[0]
        told = Instance(
            provider="gcp",
            id=id,
            # Its last mark stood in a label, which is gone with it.
            mark=None,
            status=InstanceStatus.PROVISIONING,
            detail="ordered",
            price_per_hour=None,
            zone=zone,
            region=region,
        )
        if self.ordering:
            return told
        # Deleted machines are forgotten at once; an order that failed has left none.
        if self.failure or self.deleted or self.taken_back:
            return dataclasses.replace(told, status=InstanceStatus.GONE, detail=self.end)
        return None


def _inserted(operation: Mapping[str, Any]) -> str:
    return str(operation.get("insertTime") or "")
