"""Getting a machine, keeping it for the next job, and giving it back, without any training."""

from __future__ import annotations

import asyncio

import pytest

from blocks import uptime as clocks
from blocks.keys import MachineKeys
from blocks.providers.runpod import RunPod
from blocks.uptime import uptime
from flows.execute import create_run
from flows.renting import adopting, giving_back
from flows.renting import hire as hiring_row
from flows.renting.budget import Budget
from flows.renting.giving_back import give_back
from flows.renting.hiring import Hiring
from flows.renting.journal import Journal
from flows.renting.keeping import keep
from flows.run_folder import RunFolder
from tests.clouds.runpod import RunPodCloud
from tests.clouds.vast import VastCloud
from tests.flows.flow_runs import make_job
from tests.waiting import until
from trainer.config import TrainingJob
from trainer.contract.errors import CapacityError
from trainer.contract.files import read_json, replace_json

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    with RunPodCloud(tmp_path / "cloud") as cloud:
        for variable, value in cloud.environ().items():
            monkeypatch.setenv(variable, value)
        yield cloud


def job_on(provider: str, **changes) -> TrainingJob:
    return make_job().model_copy(update={"provider": provider, **changes})


async def hired(job: TrainingJob):
    run = RunFolder((await create_run(job)).id)
    journal = Journal.of(run)
    [machine] = await Hiring(job, run, journal, Budget(job, journal)).machines()
    return journal, machine


async def test_a_machine_of_a_saved_account_is_found_there_again(cloud, monkeypatch):
    await RunPod(api_key=cloud.key, api_url=cloud.url).save("team", overwrite=True)
    monkeypatch.delenv("RUNPOD_API_KEY")

    journal, instance = await hired(job_on("runpod/team"))

    assert (instance.provider, journal.hires[0].provider) == ("runpod/team", "runpod/team")
    assert await give_back(journal, journal.hires[0], "done")
    assert cloud.alive() == []
    assert not MachineKeys.of("runpod", instance.id, instance.mark).private_key.exists()
    await RunPod.adelete("team")  # other tests ask every account that is saved


async def test_a_machine_that_was_ready_is_adopted_even_while_it_cannot_be_reached(
    cloud, monkeypatch
):
    monkeypatch.setattr(adopting, "GREET_SECONDS", 0.5)
    job = job_on("runpod")
    journal, first = await hired(job)
    cloud.machines[first.id].stop()

    again = Journal.of(journal.run)
    [second] = await Hiring(job, journal.run, again, Budget(job, again)).machines()

    assert (second.id, second.workspace) == (first.id, first.workspace)
    assert cloud.alive() == [first.id]


async def test_a_kept_machine_serves_the_next_job_of_the_same_shape(cloud):
    job = job_on("runpod", keep_minutes=5)
    journal, first = await hired(job)
    assert await keep(job, journal, journal.hires[0], first)

    again, second = await hired(job)

    assert second.id == first.id
    assert second.mark.run_id != first.mark.run_id
    assert cloud.account[second.id].name == str(second.mark)
    assert not Journal.of(journal.run).hires[0].is_open
    assert again.hires[0].is_open
    assert len(cloud.account) == 1


async def test_a_kept_machine_of_another_shape_is_left_for_others(cloud):
    job = job_on("runpod", keep_minutes=5)
    journal, first = await hired(job)
    assert await keep(job, journal, journal.hires[0], first)
    other = job.resources.model_copy(update={"disk_gb": 30.0})

    _, second = await hired(job.model_copy(update={"resources": other}))

    assert second.id != first.id


async def test_who_keeps_a_machine_pays_for_it_and_no_longer_than_it_lasts(cloud, monkeypatch):
    job = job_on("runpod", keep_minutes=5)
    journal, instance = await hired(job)
    [hire] = journal.hires
    renewed = []

    async def renew(self, id, seconds):
        renewed.append((id, seconds))

    monkeypatch.setattr(RunPod, "renew", renew)
    assert await keep(job, journal, hire, instance)
    assert renewed == [(instance.id, 300.0)]  # where the provider holds a switch, too
    before = hire.seconds()
    record = read_json(journal.run.journal)
    record["machines"][0]["metered_at"] = "2026-01-01T00:00:00+00:00"  # nobody looked for long

    replace_json(journal.run.journal, record)

    assert Journal.of(journal.run).hires[0].seconds() == pytest.approx(before + 300, abs=5)


async def test_a_machine_dearer_than_offered_is_given_back_and_paid_for(cloud):
    cloud.price_factor = 1.3
    job = job_on("runpod")
    job = job.model_copy(update={"limits": job.limits.model_copy(update={"max_offers": 1})})
    run = RunFolder((await create_run(job)).id)
    journal = Journal.of(run)

    with pytest.raises(CapacityError, match=r"costs .* USD/h and was offered for"):
        await Hiring(job, run, journal, Budget(job, journal)).machines()

    assert cloud.alive() == []
    assert [hire.is_open for hire in journal.hires] == [False]
    assert journal.cost() > 0


async def test_a_key_revoked_while_a_machine_boots_leads_to_the_next_provider(
    cloud, tmp_path, monkeypatch
):
    monkeypatch.setattr(giving_back, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(RunPod, "settle_seconds", 0.0)
    cloud.boot_seconds = 60.0
    with VastCloud(tmp_path / "vast") as vast:
        for variable, value in vast.environ().items():
            monkeypatch.setenv(variable, value)
        getting = asyncio.create_task(hired(job_on(["runpod", "vast"])))
        await until(lambda: len(cloud.account) == 1)
        cloud.expired = True

        journal, instance = await getting

        assert instance.provider == "vast"
        assert journal.hires[0].is_open  # nobody knows whether it is gone: reconcile asks again
        assert "CredentialsError" in journal.hires[0].cause


async def test_a_machine_that_ended_itself_while_we_were_away_is_paid_until_then(
    cloud, monkeypatch
):
    monkeypatch.setattr(RunPod, "settle_seconds", 0.0)
    job = job_on("runpod")
    journal, instance = await hired(job)
    before, away = journal.hires[0].seconds(), 8 * 3600.0
    cloud.kill_machine(instance.id)
    later = uptime() + away
    for module in (clocks, hiring_row):
        monkeypatch.setattr(module, "uptime", lambda: later)

    again = Journal.of(journal.run)
    assert await Hiring(job, journal.run, again, Budget(job, again)).adopted() == []

    lease = job.limits.lease_minutes * 60 + job.limits.stop_grace_seconds
    [hire] = Journal.of(journal.run).hires
    assert not hire.is_open
    assert hire.seconds() == pytest.approx(before + lease + 60, abs=20)


async def test_a_machine_that_outlived_our_absence_is_paid_for_all_of_it(cloud, monkeypatch):
    job = job_on("runpod")
    journal, instance = await hired(job)
    later = uptime() + 8 * 3600.0
    for module in (clocks, hiring_row):
        monkeypatch.setattr(module, "uptime", lambda: later)

    again = Journal.of(journal.run)
    [adopted] = await Hiring(job, journal.run, again, Budget(job, again)).adopted()

    assert adopted.id == instance.id
    assert again.hires[0].seconds() >= 8 * 3600
