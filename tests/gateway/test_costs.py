"""`trainctl costs` counts what was rented, and nothing else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from uuid import uuid4

from blocks.models import Offer
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from tests.gateway.commanding import call_here

PARTS = ("MACHINE", "STORAGE", "TRAFFIC")
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


def test_what_is_billed_beside_machines_has_columns_of_its_own(home: Path, capfd):
    offer = dataclasses.replace(OFFER, storage_gb=73.0, storage_price=0.1, traffic_price=0.09)
    journal = Journal.of(RunFolder(uuid4()))
    hired = journal.begin(offer, "runpod")
    hired.instance_id, hired.metered_seconds = "pod-1", 3600.0
    journal.came_home(hired, 10**9)
    journal.end(hired, "completed")

    done = call_here(capfd, "costs", "--by", "provider")

    assert done.returncode == 0, done.stderr
    head, row = done.stdout.splitlines()[:2]
    assert head.split() == [*("PROVIDER", "MACHINES", "REFUSED", "HOURS"), *PARTS, "USD"]
    assert row.split()[4:] == ["0.5000", "0.0100", "0.0900", "0.6000"]
    assert "total 0.6000 USD" in done.stdout
