"""Getting several machines that train one job: all of them, or none."""

from __future__ import annotations

import asyncio

import pytest
from prefect import get_client
from prefect.client.schemas.objects import StateType
from prefect.states import State

from blocks.providers.lambda_cloud import LambdaCloud as Lambda
from flows.execute import create_run
from flows.reconcile import reconcile_once
from flows.renting.budget import Budget
from flows.renting.hiring import Hiring
from flows.renting.journal import Journal
from flows.renting.market import market, providers_of
from flows.renting.writing_off import write_off
from flows.run_folder import RunFolder
from tests.clouds.lambda_cloud import LambdaCloud
from tests.flows.flow_runs import make_job
from tests.flows.two_hosts import two_hosts
from tests.waiting import until
from trainer.config import TrainingJob
from trainer.contract.errors import Action, CapacityError, ConfigError, MachineLost

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    with LambdaCloud(tmp_path / "cloud") as cloud:
        cloud.rates.factor = 0.0
        monkeypatch.setattr(Lambda, "intervals", {"": 0.0})
        monkeypatch.setattr(Lambda, "settle_seconds", 0.0)
        for variable, value in cloud.environ().items():
            monkeypatch.setenv(variable, value)
        yield cloud


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    with two_hosts(tmp_path, monkeypatch) as hosts:
        yield hosts.names


def job_on(provider: str, nodes: int = 2, **limits) -> TrainingJob:
    """Return a job for several machines, with a GPU each where they are rented."""
    job = make_job()
    wanted = {"nodes": nodes, "gpu_count": 0 if provider == "ssh" else 1}
    return job.model_copy(
        update={
            "provider": provider,
            "resources": job.resources.model_copy(update=wanted),
            "limits": job.limits.model_copy(update=limits),
        }
    )


async def begun(job: TrainingJob) -> Journal:
    return Journal.of(RunFolder((await create_run(job)).id))


async def hired(job: TrainingJob, journal: Journal):
    return await Hiring(job, journal.run, journal, Budget(job, journal)).machines()


async def test_all_machines_are_of_one_kind_and_place_and_all_are_paid_for(cloud):
    job = job_on("lambda", 3)
    journal = await begun(job)

    machines = await hired(job, journal)

    assert [(m.mark.attempt, m.mark.rank) for m in machines] == [(1, 0), (1, 1), (1, 2)]
    assert len({(m.instance_type, m.region) for m in machines}) == 1
    assert sorted(m.id for m in machines) == sorted(cloud.alive())
    assert all(m.private_address and m.workspace for m in machines)
    assert [row["attempt"] for row in journal.table()] == ["1", "1-1", "1-2"]
    assert journal.price_per_hour() == pytest.approx(3 * machines[0].price_per_hour)
    assert all(hire.cost() > 0 for hire in journal.hires)


async def test_when_one_cannot_be_had_the_others_go_and_the_next_offer_is_tried(cloud):
    cloud.stock = 1
    job = job_on("lambda", max_offers=1)  # of one kind, in two regions
    journal = await begun(job)

    with pytest.raises(CapacityError, match="None of 2 offers"):
        await hired(job, journal)

    assert cloud.alive() == []
    assert [(hire.attempt, hire.rank) for hire in journal.hires] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert [hire.cause.split(":")[0] for hire in journal.hires] == [
        "not needed",
        "CapacityError",
    ] * 2
    assert journal.hires[0].cost() > 0


@pytest.mark.thorough
async def test_when_one_does_not_boot_none_is_kept(cloud):
    job = job_on("lambda", max_offers=1, boot_timeout_minutes=1)
    journal = await begun(job)
    cloud.boot_seconds = 5.0
    hiring = asyncio.create_task(hired(job, journal))
    await until(lambda: len(cloud.account) == 2)

    cloud.kill_machine(list(cloud.account)[1])

    with pytest.raises(CapacityError, match="before it was running"):
        await hiring
    assert cloud.alive() == []
    assert [hire.cause.split(":")[0] for hire in journal.hires] == ["not needed", "BootError"]


@pytest.mark.thorough
async def test_machines_that_are_all_there_are_adopted_together(cloud):
    job = job_on("lambda")
    journal = await begun(job)
    first = await hired(job, journal)

    again = await hired(job, Journal.of(journal.run))

    assert [m.id for m in again] == [m.id for m in first]
    assert len(cloud.account) == 2


async def test_what_is_left_of_an_attempt_is_replaced_as_a_whole(cloud):
    job = job_on("lambda")
    journal = await begun(job)
    first = await hired(job, journal)
    cloud.kill_machine(first[0].id)
    journal = Journal.of(journal.run)

    second = await hired(job, journal)

    assert not {m.id for m in first} & {m.id for m in second}
    assert sorted(cloud.alive()) == sorted(m.id for m in second)
    assert {hire.attempt for hire in journal.hires if hire.is_open} == {2}


@pytest.mark.thorough
async def test_with_one_that_is_lost_the_others_go(cloud):
    job = job_on("lambda", max_machine_losses=1)
    journal = await begun(job)
    machines = await hired(job, journal)
    cloud.preempt(machines[1].id)

    await write_off(job, journal.run, machines[0], MachineLost("it is gone"))

    journal = Journal.of(journal.run)
    assert cloud.alive() == []
    assert not any(hire.is_open for hire in journal.hires)
    assert journal.lost_machines == 1


async def test_reconcile_ends_all_machines_of_a_run_that_is_over(cloud):
    job = job_on("lambda")
    run = await create_run(job)
    journal = Journal.of(RunFolder(run.id))
    await hired(job, journal)
    async with get_client() as client:
        failed = State(type=StateType.FAILED, name="Failed")
        await client.set_flow_run_state(run.id, failed, force=True)
    journal.run.journal.unlink()  # the account alone tells

    findings = await reconcile_once()

    assert len(findings) == 2
    assert cloud.alive() == []
    assert {hire.rank for hire in Journal.of(journal.run).hires} == {0, 1}


async def test_each_owned_host_gives_one_machine(hosts):
    job = job_on("ssh")
    journal = await begun(job)

    machines = await hired(job, journal)

    assert sorted(m.host for m in machines) == sorted(hosts)
    assert [m.private_address for m in machines] == ["127.0.0.1", "127.0.0.1"]


async def test_too_few_hosts_are_told_before_anything_is_taken(hosts):
    found = await market(job_on("ssh", 3))

    assert found.choices == []
    assert str(found.why_empty()).startswith("resources.nodes = 3: ssh has 2 machines for this job")


@pytest.mark.parametrize(
    ("provider", "why"),
    [
        ("local", "is one machine"),
        ("runpod", "has machines that do not reach each other"),
        ("vast", "has machines that do not reach each other"),
    ],
)
async def test_machines_that_do_not_reach_each_other_are_refused(provider, why):
    with pytest.raises(ConfigError) as caught:
        await providers_of(job_on(provider))

    assert caught.value.message == f"resources.nodes = 2: provider {provider} {why}."
    assert caught.value.suggestion.startswith("Choose ")
    assert caught.value.suggestion.endswith("lambda or slurm or ssh, or set resources.nodes: 1.")
    assert caught.value.action is Action.STOP


async def test_any_passes_over_providers_whose_machines_do_not_reach_each_other(cloud, monkeypatch):
    monkeypatch.setenv("RUNPOD_API_KEY", "never used")

    assert [one.label for one in await providers_of(job_on("any"))] == ["lambda"]

    monkeypatch.delenv("LAMBDA_API_KEY")
    with pytest.raises(ConfigError, match="no provider that is set up has machines that reach"):
        await providers_of(job_on("any"))
