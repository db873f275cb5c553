"""Allocations of a real cluster of two nodes: queue, preemption, time limit, several nodes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from blocks.keys import MachineKeys
from blocks.marks import Mark
from blocks.models import Instance, InstanceStatus
from blocks.providers import slurm
from blocks.providers.slurm import Slurm
from blocks.workplaces.base import Lease, Ready, Wanted
from flows.renting.giving_back import Ending, until_gone
from tests.blocks.providers.rented_account import mark
from tests.clouds.machines import Profile, SshdMachine
from tests.clouds.slurm import SlurmCluster
from tests.waiting import until
from trainer.config import Limits, Resources
from trainer.contract.errors import CapacityError, ConnectionLost, ProviderError

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
WANTED = Wanted(gpu_count=0, gpu_type=None, disk_gb=None)
LEASE = Lease(term_seconds=600, grace_seconds=60)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    made = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    made.nodes = ["node1", "node2"]
    with made:
        yield made


@pytest.fixture
def provider(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    for name, value in cluster.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm, "LIST_SECONDS", 0.2)
    yield Slurm(options=["--exclusive"])
    cluster.command("scancel", "--user=root")
    cluster.until(lambda: cluster.states() == ["idle", "idle"], "all has ended")


async def launched(provider: Slurm, own: Mark, nodes: int = 1) -> list[Instance]:
    offers = await provider.offers(Resources(gpu_count=0), Limits())
    chosen = provider.gang_offers(offers, nodes)
    ranks = [Mark.of_run(own.run_id, own.attempt, rank) for rank in range(nodes)]
    return [
        await provider.launch(offer, one, None) for offer, one in zip(chosen, ranks, strict=True)
    ]


async def ready(provider: Slurm, id: str) -> Instance:
    async def runs() -> Instance | None:
        found = await provider.describe(id)
        return found if found.status is InstanceStatus.RUNNING else None

    instance = await until(runs)

    async def answers() -> Ready | None:
        with suppress(ConnectionLost):
            async with provider.workplace(instance) as place:
                return await place.ready(WANTED, LEASE)
        return None

    assert await until(answers)
    return instance


def taken_back(cluster: SlurmCluster, id: str) -> Path:
    return cluster.shared / ".training-orchestrator" / "slurm" / id / "taken-back"


async def test_what_waits_says_why_and_starts_when_there_is_room(cluster, provider):
    full = cluster.command("sbatch", "--parsable", "-N2", "--exclusive", "--wrap", "sleep 600")
    [instance] = await launched(provider, mark())

    async def waits() -> Instance | None:
        found = await provider.describe(instance.id)
        return found if "None" not in found.detail else None

    waiting = await until(waits)
    assert waiting.status is InstanceStatus.QUEUED
    assert "in the queue of main: " in waiting.detail
    cluster.command("scancel", full.strip())

    assert (await ready(provider, instance.id)).address in cluster.nodes


async def test_a_preemption_is_heard_when_its_grace_begins(cluster, provider):
    cluster.command("scontrol", "update", "PartitionName=main", "GraceTime=30")
    [instance] = await launched(provider, mark())
    await ready(provider, instance.id)

    urgent = cluster.command(
        "sbatch", "--parsable", "-p", "urgent", "-N2", "--exclusive", "--wrap", "sleep 600"
    )

    await until(taken_back(cluster, instance.id).exists)
    assert (await provider.describe(instance.id)).status is InstanceStatus.RUNNING
    async with provider.workplace(instance) as place:
        await place.greet()
    cluster.command("scancel", urgent.strip())
    ending, _ = await until_gone(provider, mark(), instance.id)
    assert ending is Ending.GONE


async def test_an_end_by_the_time_limit_is_announced(cluster, provider):
    provider.time_limit, provider.warn_seconds = "2", 119
    [instance] = await launched(provider, mark())
    await ready(provider, instance.id)

    await until(taken_back(cluster, instance.id).exists)

    assert (await provider.describe(instance.id)).status is InstanceStatus.RUNNING


async def test_several_nodes_are_one_job_and_end_as_one(cluster, provider):
    found = await launched(provider, mark(), nodes=2)
    assert [one.id for one in found] == [found[0].id, f"{found[0].id}+1"]

    names = []
    for one in found:
        instance = await ready(provider, one.id)
        async with provider.workplace(instance) as place:
            said = await place.machine.run(["sh", "-c", "echo $SLURM_NODEID $SLURMD_NODENAME"])
        names.append(said.stdout.split())
        assert instance.private_address == "127.0.0.1"
    assert names == [["0", "node1"], ["1", "node2"]]
    assert [one.mark.rank for one in await provider.instances() if one.mark] == [0, 1]

    assert await provider.terminate(found[1].id)

    async def gone() -> bool:
        return (await provider.describe(found[0].id)).status is InstanceStatus.GONE

    await until(gone)


async def test_a_mark_is_borne_once_and_can_be_changed(cluster, provider):
    [first], [again] = await launched(provider, mark()), await launched(provider, mark())
    assert first.id == again.id
    other = Mark.of_run(mark().run_id, 7)

    assert await provider.remark(first.id, other)

    assert await provider.find(mark()) is None
    assert (await provider.find(other)).id == first.id


async def test_what_slurm_refuses_is_an_error_of_ours_and_leaves_nothing(cluster, provider):
    provider.constraint = "no-such-feature"
    before = cluster.jobs()

    with pytest.raises(CapacityError, match="Invalid feature"):
        await launched(provider, mark())

    provider.options = ["--no-such-option"]
    with pytest.raises(ProviderError):
        await launched(provider, mark())
    assert cluster.jobs() == before


async def test_what_is_given_back_leaves_nothing_on_the_shared_file_system(cluster, provider):
    [instance] = await launched(provider, mark())
    await ready(provider, instance.id)
    here = cluster.shared / ".training-orchestrator"
    (here / "jobs" / str(mark())).mkdir()

    ending, _ = await until_gone(provider, mark(), instance.id)

    assert ending is Ending.GONE
    left = [path for name in ("slurm", "jobs") for path in (here / name).glob(f"*{instance.id}*")]
    assert [path for path in left if path.name in {instance.id, str(mark())}] == []


async def test_a_login_node_over_ssh_is_as_good_as_this_computer(
    cluster, provider, tmp_path, monkeypatch
):
    own = MachineKeys("own")
    profile = Profile(environment={"SLURM_CONF": os.environ["SLURM_CONF"]})
    with SshdMachine(tmp_path / "login", public_keys=[own.public_key()], profile=profile) as login:
        monkeypatch.delenv("SLURM_CONF")
        monkeypatch.delenv("SLURM_FOLDER")
        monkeypatch.setenv("SLURM_LOGIN_NODE", f"{login.user}@{login.address}:{login.port}")
        monkeypatch.setenv("SSH_KEY_FILE", str(own.private_key))
        [instance] = await launched(provider, mark())

        await ready(provider, instance.id)
        async with provider.workplace(instance) as place:
            said = await place.machine.run(
                ["sh", "-c", "echo $SLURM_JOB_ID $HOME $A"], env={"A": "b c"}
            )
        ending, _ = await until_gone(provider, mark(), instance.id)

        assert said.stdout == f"{instance.id} {login.home} b c\n"
        assert ending is Ending.GONE


async def test_a_sweep_takes_what_ended_long_ago_and_is_ours_alone(cluster, provider):
    here = cluster.shared / ".training-orchestrator"
    await provider.check()
    names = {"901": str(mark()), "902": "to-00000000-" + "0" * 32 + "-1", "903": str(mark())}
    for job, name in names.items():
        (here / "slurm" / job / "0" / "jobs").mkdir(parents=True)
        (here / "slurm" / job / "0" / "alive").touch()
        (here / "jobs" / name).mkdir(exist_ok=True)
        (here / "slurm" / job / "0" / "jobs" / name).symlink_to(here / "jobs" / name)
    hours_ago = time.time() - 3 * 3600
    for job in ("901", "902"):
        os.utime(here / "slurm" / job / "0" / "alive", (hours_ago, hours_ago))
        os.utime(here / "slurm" / job, (hours_ago, hours_ago))

    await provider.sweep()

    assert [(here / "slurm" / job).exists() for job in names] == [False, True, True]
    assert not (here / "jobs" / names["901"]).exists()
    assert (here / "jobs" / names["902"]).exists()
