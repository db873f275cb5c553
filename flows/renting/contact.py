"""When our last word reached the machines of a run: from then on, their leases run out."""

from __future__ import annotations

from blocks.uptime import Moment
from flows.full_disk import save_anyway, unsaved
from flows.run_folder import RunFolder
from trainer.contract.files import read_json


def note_contact(run: RunFolder) -> None:
    """Note that a machine of the run has just been ordered, or that its lease was renewed."""
    # A file of its own: several processes keep the journal in mind, and one writes over the other.
    save_anyway(run.contact, Moment.now().to_dict())


def seconds_since_contact(run: RunFolder) -> float:
    """Return how long ago that was; 0 when it is not known."""
    moment = Moment.read(unsaved(run.contact) or read_json(run.contact) or {})
    return moment.seconds_since() if moment else 0.0
