"""Marks that change hands, and machines that are not to be seen for a while: whose end is it?"""

from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest

from blocks import first_script
from blocks.models import Instance
from blocks.registry import configured_providers, load_provider
from flows import reconcile as reconciling
from flows.reconcile import Act, reconcile_once
from flows.renting import hiring, keeping
from flows.renting.giving_back import give_back
from flows.renting.journal import Journal
from tests.clouds.cloud import Fault
from tests.faults.api.api_trouble import CREATES, LEDGERS, orders
from tests.faults.hunt import Hunt
from tests.flows.flow_runs import until
from trainer.contract.errors import ProviderError

RUNPOD_FIRST = pytest.mark.parametrize(
    "scene",
    [
        "runpod",
        *(
            pytest.param(name, marks=pytest.mark.thorough)
            for name in ("azure", "gcp", "lambda", "vast")
        ),
    ],
    indirect=True,
)


class Killed(BaseException):
    """Ends the code that meets it as SIGKILL does: nothing of ours runs afterwards."""


def killing(*_: object) -> None:
    raise Killed


async def kept_by(hunt: Hunt) -> Instance:
    """Hire a machine and leave it to the next job."""
    hunt.wants(keep_minutes=5)
    instance = await hunt.machine()
    journal = hunt.journal
    assert await keeping.keep(hunt.job, journal, journal.hires[0], instance)
    return instance


@pytest.mark.fault(55, "killed as a kept machine changes hands")
@RUNPOD_FIRST
async def test_the_run_that_kept_a_machine_does_not_end_it_under_the_next(scene, hunt, monkeypatch):
    machine = await kept_by(hunt)
    following = Hunt(scene, hunt.figures)
    following.wants(keep_minutes=5)
    with monkeypatch.context() as once:
        once.setattr(Journal, "close_kept", killing)
        with pytest.raises(Killed):
            await following.machine()
    journal = hunt.journal
    assert journal.hires[0].is_open  # nobody noted that it has changed hands

    assert await give_back(journal, journal.hires[0], "over")

    assert hunt.outcomes()[0].startswith("completed; kept for 5 minutes")
    assert scene.cloud.alive() == [machine.id]
    assert (await following.machine()).id == machine.id
    assert orders(scene) == 1
    await hunt.over(following)


@pytest.mark.fault(55, "killed as a kept machine changes hands")
@RUNPOD_FIRST
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_machine_whose_run_died_as_it_was_kept_waits_for_the_next(
    scene, hunt, monkeypatch, moment
):
    provider = LEDGERS[scene.provider]
    remark = provider.remark

    async def dying(self, id, mark):
        if moment == "after":
            await remark(self, id, mark)
        raise Killed

    with monkeypatch.context() as once:
        once.setattr(provider, "remark", dying)
        with pytest.raises(Killed):
            await kept_by(hunt)
    journal = hunt.journal
    [hire] = journal.hires

    assert await give_back(journal, hire, "over")

    assert len(scene.cloud.alive()) == (1 if moment == "after" else 0)
    assert hire.is_open is (moment == "after")
    if hire.is_open:  # paid for by its run, no longer than it is kept where its end ends its bill
        ends_bill = (await load_provider(scene.provider)).shutdown_ends_bill
        assert hire.kept_until > time.time()
        assert (hire.most_seconds is not None) is ends_bill
    await hunt.over()


@pytest.mark.fault(55, "killed as a kept machine changes hands")
@RUNPOD_FIRST
@pytest.mark.parametrize("taken", [True, False])
async def test_what_a_machine_bears_decides_when_the_answer_to_a_claim_is_lost(
    scene, hunt, monkeypatch, taken
):
    machine = await kept_by(hunt)
    provider = LEDGERS[scene.provider]
    remark = provider.remark

    async def unanswered(self, id, mark):
        if taken:
            await remark(self, id, mark)
        raise ProviderError("no answer that can be read")

    following = Hunt(scene, hunt.figures)
    following.wants(keep_minutes=5)
    with monkeypatch.context() as once:
        once.setattr(provider, "remark", unanswered)
        assert ((await following.machine()).id == machine.id) is taken

    open_rows = [hire.instance_id for hire in following.journal.hires if hire.is_open]
    assert len(open_rows) == 1  # and none for a machine that was not taken over
    await hunt.over(following)


@pytest.mark.fault(56, "claimed while reconcile reads its list")
@RUNPOD_FIRST
async def test_a_machine_that_was_claimed_since_the_list_was_read_is_not_ended(
    scene, hunt, monkeypatch
):
    monkeypatch.setattr(keeping, "MARGIN_SECONDS", -600.0)
    machine = await kept_by(hunt)
    [found] = await reconciling._instances(await configured_providers())
    over = dataclasses.replace(found.mark, kept_until=1.0)
    following = Hunt(scene, hunt.figures)
    following.wants(keep_minutes=5)
    assert (await following.machine()).id == machine.id

    [finding] = await reconciling._kept(dataclasses.replace(found, mark=over), dry_run=False)

    assert (finding.act, scene.cloud.alive()) == (Act.KEEP, [machine.id])
    await hunt.over(following)


@pytest.mark.fault(56, "claimed while reconcile reads its list")
async def test_a_claim_waits_for_no_machine_that_is_being_ended(scene, hunt):
    machine = await kept_by(hunt)
    provider = await load_provider(machine.provider)
    following = Hunt(scene, hunt.figures)
    following.wants(keep_minutes=5)

    async with keeping.claiming(provider, machine):
        other = await following.machine()

    assert other.id != machine.id
    await hunt.over(following)


@pytest.mark.fault(57, "cancelled before a create is answered")
@RUNPOD_FIRST
async def test_what_appears_seconds_after_a_cancellation_is_given_back(scene, hunt, monkeypatch):
    monkeypatch.setattr(LEDGERS[scene.provider], "settle_seconds", 6.0)
    method, path = CREATES[scene.provider]
    scene.cloud.faults.add(Fault(kind="commit_then_silence", method=method, path=path, seconds=60))
    scene.cloud.list_lag = 3.0
    hiring_it = asyncio.create_task(hunt.machine())
    await until(lambda: scene.cloud.alive())
    hiring_it.cancel()
    await asyncio.gather(hiring_it, return_exceptions=True)
    journal = hunt.journal

    assert await give_back(journal, journal.hires[0], "cancelled")

    assert scene.cloud.alive() == []
    assert journal.cost() > 0
    hunt.figures.end = "cancelled"
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(58, "neither listed nor found after a create")
@RUNPOD_FIRST
async def test_a_machine_that_is_not_to_be_seen_yet_is_hired_once(scene, hunt, monkeypatch):
    monkeypatch.setattr(LEDGERS[scene.provider], "settle_seconds", 12.0)
    scene.cloud.list_lag = scene.cloud.look_lag = 8.0

    instance = await hunt.machine()

    assert (orders(scene), list(scene.cloud.account)) == (1, [instance.id])
    await hunt.over()


@pytest.mark.fault(59, "a list without the machine, at adoption")
@RUNPOD_FIRST
async def test_one_list_without_the_machine_proves_nothing(scene, hunt, monkeypatch):
    monkeypatch.setattr(LEDGERS[scene.provider], "settle_seconds", 0.5)
    first = await hunt.machine()
    await asyncio.sleep(0.6)  # it is old enough to be listed
    scene.cloud.omits = 2

    again = await hunt.machine()

    assert (again.id, orders(scene)) == (first.id, 1)
    assert scene.cloud.alive() == [first.id]
    await hunt.over()


@pytest.mark.fault(13, "never boots, boots late")
@pytest.mark.parametrize("scene", ["vast"], indirect=True)
async def test_a_machine_that_nobody_reaches_ends_itself(scene, hunt, monkeypatch):
    """Our process is killed after the order; what the machine was given to run sees to the rest."""
    monkeypatch.setattr(hiring, "boot", killing)
    monkeypatch.setattr(first_script, "AGAIN_SECONDS", 1)
    real = hiring.first_script
    monkeypatch.setattr(hiring, "first_script", lambda _, command: real(1.0, command))

    with pytest.raises(Killed):
        await hunt.machine()

    await until(lambda: not scene.cloud.alive())
    hunt.figures.end = "ended itself"
    await hunt.over()
    assert await reconcile_once() == []
