"""The lease of a machine, and the switch that its provider holds beside it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace
from uuid import uuid4

import pytest

from blocks.models import Instance, InstanceStatus
from flows.renting import lease
from flows.run_folder import RunFolder
from tests.flows.flow_runs import make_job
from tests.waiting import until
from trainer.contract.errors import ConnectionLost


@pytest.fixture
def moved(monkeypatch):
    """What was renewed of a machine, in order; `machine.away` says that it is out of reach."""
    said = []
    machine = SimpleNamespace(away=False, renewals=0)

    async def there(term):
        machine.renewals += 1
        if machine.away:
            raise ConnectionLost("away")
        said.append(("machine", term.term_seconds))

    async def at_the_provider(id, seconds):
        said.append((id, seconds))

    @asynccontextmanager
    async def workplace(instance):
        yield SimpleNamespace(renew=there)

    async def load(label):
        return SimpleNamespace(is_home=False, workplace=workplace, renew=at_the_provider)

    monkeypatch.setattr(lease, "load_provider", load)
    monkeypatch.setattr(lease, "MOST_SECONDS", 0.01)
    return SimpleNamespace(said=said, machine=machine)


@pytest.mark.parametrize("away", [False, True])
async def test_the_switch_at_the_provider_is_moved_with_the_machines_own_lease_only(moved, away):
    moved.machine.away = away
    instance = Instance(provider="any", id="7", mark=None, status=InstanceStatus.RUNNING)
    job = make_job()
    term, grace = job.limits.lease_minutes * 60, job.limits.stop_grace_seconds

    async with lease.renewed(job, RunFolder(str(uuid4())), [instance]):
        await until(lambda: moved.machine.renewals >= 3)

    # One that is out of reach ends at its provider when it ends by itself, and not later.
    pair = [] if away else [("machine", term), ("7", term + grace)]
    assert moved.said[: 2 * len(pair) or None] == pair * 2
