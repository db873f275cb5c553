"""`trainctl costs` counts what was rented, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

from blocks.models import Offer
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from tests.gateway.commanding import call_here

OFFER = Offer(id="1", provider="runpod", instance_type="L4", region="EU", price_per_hour=0.5)


def test_machines_are_counted_apart_from_refusals_and_this_computer_is_not_for_hire(
    home: Path, capfd
):
    journal = Journal.of(RunFolder(uuid4()))
    hired = journal.begin(OFFER, "runpod")
    hired.instance_id, hired.metered_seconds = "pod-1", 3600.0
    journal.end(hired, "completed")
    journal.end(journal.begin(OFFER, "runpod"), "CapacityError: sold out")
    here = journal.begin(OFFER, "local")
    here.instance_id = "folder-1"
    journal.save()

    done = call_here(capfd, "costs", "--by", "provider", "--json")

    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)
    assert (row["provider"], row["machines"], row["refused"]) == ("runpod", 1, 1)
    assert round(row["usd"], 2) == 0.5
    assert 1 <= row["hours"] < 1.1
