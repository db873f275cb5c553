"""What becomes of machines and runs that nobody works on."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta

import pytest
from prefect import get_client
from prefect.client.schemas.objects import StateType
from prefect.states import State

from blocks.home import keys, runs
from blocks.keys import MachineKeys
from blocks.marks import PREFIX, Mark, installation_id
from blocks.models import Offer
from blocks.providers.runpod import RunPod
from flows.attended import hold
from flows.execute import create_run
from flows.locks import locked
from flows.reconcile import reconcile_once
from flows.renting.journal import CALM_SECONDS, Journal
from flows.run_folder import RunFolder
from flows.verdict import MAX_REVIVALS, Act, decide
from tests.clouds.lambda_cloud import LambdaCloud
from tests.clouds.runpod import RunPodCloud
from tests.flows.flow_runs import make_job
from trainer.config import Limits, Resources

pytestmark = pytest.mark.usefixtures("prefect_api")
OFFER = Offer(provider="runpod", instance_type="cpu3c-4", region="X", price_per_hour=0.1)
LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    with RunPodCloud(tmp_path / "cloud") as cloud:
        for variable, value in cloud.environ().items():
            monkeypatch.setenv(variable, value)
        yield cloud


async def hired(mark: Mark) -> str:
    provider = RunPod()
    [offer, *_] = await provider.offers(Resources(gpu_count=0), Limits())
    instance = await provider.launch(offer, mark, MachineKeys.ordered(mark).public_key())
    provider.machine(instance)  # whoever reaches it has its keys filed by its id
    return instance.id


async def run_in(kind: StateType, *, since: datetime = LONG_AGO):
    run = await create_run(make_job())
    run.state = State(type=kind, name=kind.value.capitalize(), timestamp=since)
    RunFolder(run.id)
    return run


@pytest.mark.parametrize(
    ("kind", "act"),
    [
        (StateType.SCHEDULED, Act.KEEP),
        (StateType.PENDING, Act.REVIVE),
        (StateType.RUNNING, Act.REVIVE),
        (StateType.CRASHED, Act.REVIVE),
        (StateType.CANCELLING, Act.SETTLE),
        (StateType.CANCELLED, Act.SETTLE),
        (StateType.PAUSED, Act.SETTLE),
        (StateType.FAILED, Act.SETTLE),
        (StateType.COMPLETED, Act.SETTLE),
    ],
)
async def test_a_run_that_nobody_works_on_is_revived_or_brought_to_its_end(kind, act):
    run = await run_in(kind)

    assert decide(run, is_here=True, found=True)[0] is act


@pytest.mark.parametrize("kind", [StateType.RUNNING, StateType.CANCELLING, StateType.PENDING])
async def test_a_run_whose_process_may_just_be_starting_is_left_alone(kind):
    run = await run_in(kind, since=datetime.now(UTC))

    assert decide(run, is_here=True, found=True)[0] is Act.KEEP


@pytest.mark.parametrize(
    ("kind", "act"),
    [
        (StateType.RUNNING, Act.REVIVE),
        (StateType.PENDING, Act.REVIVE),
        (StateType.CANCELLING, Act.SETTLE),
    ],
)
async def test_a_run_whose_process_left_its_mark_is_not_waited_for(kind, act):
    run = await run_in(kind, since=datetime.now(UTC))
    os.close(hold(RunFolder(run.id).root))

    assert decide(run, is_here=True, found=True)[0] is act


@pytest.mark.parametrize("kind", [StateType.RUNNING, StateType.CANCELLING, StateType.PENDING])
async def test_a_run_of_another_computer_is_left_alone(kind):
    run = await run_in(kind)

    assert decide(run, is_here=False, found=True)[0] is Act.KEEP


async def test_a_run_that_a_process_works_on_is_left_alone_whatever_its_state():
    run = await run_in(StateType.FAILED)

    async with locked(RunFolder(run.id).lock):
        assert decide(run, is_here=True, found=True)[0] is Act.KEEP


async def test_a_run_that_dies_again_and_again_is_brought_to_its_end():
    run = await run_in(StateType.CRASHED)
    journal = Journal.of(RunFolder(run.id))
    for _ in range(MAX_REVIVALS):
        assert decide(run, is_here=True, found=True)[0] is Act.REVIVE
        journal.revived()
    assert decide(run, is_here=True, found=True)[0] is Act.SETTLE

    # A training of months may lose its process now and then.
    journal.revived_at -= CALM_SECONDS
    journal.save()
    assert decide(run, is_here=True, found=True)[0] is Act.REVIVE
    journal.revived()
    assert Journal.of(RunFolder(run.id)).revivals == 1


async def test_a_kept_machine_goes_when_its_time_is_up_and_not_before(cloud):
    over = await hired(Mark.kept(time.time() - 1, "0badcafe"))
    waits = await hired(Mark.kept(time.time() + 600, "0badcafe"))

    decisions = {decision.instance[-20:]: decision.act for decision in await reconcile_once()}

    assert set(decisions.values()) == {Act.KEEP, Act.TERMINATE}
    assert cloud.alive() == [waits]
    assert over != waits
    assert [path.name for path in keys().iterdir()] == [f"runpod-{waits}"]


@pytest.mark.parametrize("unsaid", [set(), {"cost"}], ids=["price said", "price not said"])
async def test_the_machine_of_a_failed_run_goes_and_is_paid_for(cloud, unsaid):
    cloud.null_fields = unsaid
    run = await create_run(make_job())
    async with get_client() as client:
        failed = State(type=StateType.FAILED, name="Failed")
        await client.set_flow_run_state(run.id, failed, force=True)
    await hired(Mark.of_run(run.id, 1))

    await reconcile_once()

    [hire] = Journal.of(RunFolder(run.id)).hires
    assert cloud.alive() == []
    assert not hire.is_open
    assert hire.cost() > 0


async def test_a_machine_that_came_true_too_late_goes_while_its_run_goes_on(cloud):
    run = await create_run(make_job())
    folder = RunFolder(run.id)
    journal = Journal.of(folder)
    journal.end(journal.begin(OFFER, "runpod"), "CapacityError: no answer")
    await hired(Mark.of_run(run.id, 1))

    async with locked(folder.lock):
        [finding] = await reconcile_once()

    assert finding.act is Act.TERMINATE
    assert cloud.alive() == []


async def test_of_two_machines_that_bear_one_mark_the_runs_own_stays(cloud):
    run = await create_run(make_job())
    folder = RunFolder(run.id)
    hire = Journal.of(folder).begin(OFFER, "runpod")
    own, other = await hired(hire.mark), await hired(Mark.of_run(run.id, 2))
    cloud.account[other].name = cloud.account[own].name  # one order made both
    journal = Journal.of(folder)
    journal.hires[0].instance_id = own
    journal.save()

    async with locked(folder.lock):
        decisions = await reconcile_once()

    assert sorted(decision.act for decision in decisions) == [Act.KEEP, Act.TERMINATE]
    assert cloud.alive() == [own]


async def test_a_cancelled_run_whose_process_is_dead_ends_as_stopped(cloud, monkeypatch):
    monkeypatch.setattr("flows.verdict.ZOMBIE_SECONDS", 0.0)
    run = await create_run(make_job())
    RunFolder(run.id)
    await hired(Mark.of_run(run.id, 1))
    async with get_client() as client:
        asked = State(type=StateType.CANCELLING, name="Cancelling")
        await client.set_flow_run_state(run.id, asked, force=True)
        await reconcile_once()
        ended = (await client.read_flow_run(run.id)).state

    assert (ended.type, ended.name) == (StateType.CANCELLED, "Stopped")
    assert cloud.alive() == []


async def test_a_dry_run_changes_nothing(cloud):
    machine = await hired(Mark.kept(time.time() - 1, "0badcafe"))

    [finding] = await reconcile_once(dry_run=True)

    assert finding.act is Act.TERMINATE
    assert cloud.alive() == [machine]
    assert list(runs().iterdir()) == []


async def test_what_a_launch_left_in_an_account_is_swept(tmp_path, monkeypatch):
    with LambdaCloud(tmp_path / "lambda") as cloud:
        cloud.rates.factor = 0.0
        for variable, value in cloud.environ().items():
            monkeypatch.setenv(variable, value)
        old = f"{PREFIX}-{installation_id()}-0123456789abcdef-{int(time.time()) - 7200}"
        for name in (old, "laptop"):
            cloud.keys[name] = {"id": name, "name": name, "public_key": f"ssh-ed25519 {name}"}

        await reconcile_once(dry_run=True)
        assert list(cloud.keys) == [old, "laptop"]
        await reconcile_once()
        assert list(cloud.keys) == ["laptop"]
