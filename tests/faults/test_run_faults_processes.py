"""Our own processes die, are doubled or told to end, and the training does not notice."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import reconcile, verdict
from tests.clouds.proxy import Proxy
from tests.clouds.rented import free_port
from tests.faults.scene import LONG, MEDIUM
from tests.waiting import until
from trainer.contract.job_directory import JobState

pytestmark = pytest.mark.slow
BOUNDARIES = (
    r"'place-\w+' - Finished",
    r"machine 1: ",
    r"is provisioning",
    r"'provision-\w+' - Finished",
    r"'install-\w+' - Finished",
    r"uploading dataset",
    r"started the training",
    r"checkpoint-\d+ is home",
    r"'train-\w+' - Finished",
    r"'download-\w+' - Finished",
    r"'verify-\w+' - Finished",
)


@pytest.mark.thorough
@pytest.mark.fault(22, "flow process killed")
async def test_a_flow_killed_while_training_attaches_again(scene, survived):
    run = await scene.run(scene.job(**MEDIUM))
    await scene.at_step(run, 20)
    before = scene.directory(run).read_status()

    scene.kill()
    scene.injected(run, "adopted")
    scene.again(run)
    await scene.said("attached to the training")

    assert scene.directory(run).read_status().trainer_pid == before.trainer_pid
    await survived(run)
    assert len(scene.cloud.account) == 1


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.fault(22, "flow process killed")
async def test_a_flow_killed_at_every_boundary_hires_one_machine(scene, survived):
    run = await scene.run(scene.job())

    for words in BOUNDARIES:
        await scene.said(words)
        scene.injected(run, "adopted")
        scene.kill()
        if await scene.state(run) is JobState.COMPLETED:
            break
        scene.again(run)

    await survived(run)
    assert len(scene.cloud.account) == 1
    assert scene.directory(run).read_status().attempt == 1


@pytest.mark.thorough
@pytest.mark.fault(22, "flow process killed")
async def test_a_flow_killed_after_its_teardown_hires_nothing_more(scene, survived):
    run = await scene.run(scene.job())
    await scene.said(r"'teardown-\w+' - Finished")

    scene.injected(run, "Finished in state", ends=True)
    scene.kill()
    scene.again(run)

    await survived(run)
    assert len(scene.cloud.account) == 1


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:subprocess [0-9]+ is still running:ResourceWarning")
@pytest.mark.fault(23, "worker told to end, or killed")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_flow_that_is_told_to_end_is_revived_and_training_goes_on(
    scene, survived, monkeypatch, number
):
    monkeypatch.setattr(verdict, "ZOMBIE_SECONDS", 1.0)
    run = await scene.run(scene.job(**LONG))
    await scene.at_step(run, 20)
    before = scene.directory(run).read_status()

    scene.injected(run, "adopted")
    scene.kill(number)
    assert scene.cloud.alive()
    await asyncio.sleep(1.5)
    found = await reconcile.reconcile_once()

    assert [finding.act for finding in found] == ["revive"]
    await survived(run)
    after = scene.directory(run).read_status()
    assert (after.attempt, after.trainer_pid) == (1, before.trainer_pid)
    assert len(scene.cloud.account) == 1


@pytest.mark.thorough
@pytest.mark.fault(24, "Prefect API away for 20 s")
@pytest.mark.parametrize("how", ["refuses", "is silent"])
async def test_training_and_streaming_go_on_without_prefect(scene, survived, monkeypatch, how):
    server = int(os.environ["PREFECT_API_URL"].rpartition(":")[2].partition("/")[0])
    async with Proxy("127.0.0.1", server) as proxy:
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{proxy.port}/api")
        run = await scene.run(scene.job(**LONG))
        step = await scene.at_step(run, 20)

        scene.injected(run, "Prefect's API fails")
        if how == "refuses":
            proxy.refuse()
            proxy.cut()
        else:
            proxy.freeze()
        await asyncio.sleep(10)
        assert scene.step(run) > step
        await asyncio.sleep(10)
        proxy.accept()
        proxy.thaw()

        await survived(run)
    assert len(scene.cloud.account) == 1


@pytest.fixture
async def own_server(scene, monkeypatch):
    """Give the port of a Prefect server that the test may disturb; its processes are ended."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    servers = [prefect_server(port, scene.folder)]
    with temporary_settings({PREFECT_API_URL: url}):
        await until(lambda: answers(port))
        yield port, servers
    end(servers[-1])


@pytest.mark.thorough
@pytest.mark.fault(24, "Prefect API away for 20 s")
async def test_a_prefect_server_that_was_killed_is_found_again(scene, survived, own_server):
    port, servers = own_server
    run = await scene.run(scene.job(**LONG))
    step = await scene.at_step(run, 20)

    scene.injected(run, "Prefect's API fails")
    end(servers[-1])
    await until(lambda: scene.step(run) > step + 20)
    servers.append(prefect_server(port, scene.folder))

    await until(lambda: answers(port))
    await survived(run)


@pytest.mark.thorough
@pytest.mark.fault(24, "Prefect API away for 20 s")
async def test_a_database_that_is_locked_delays_what_prefect_knows_and_nothing_else(
    scene, survived, own_server
):
    run = await scene.run(scene.job(**LONG))
    step = await scene.at_step(run, 20)

    scene.injected(run)
    with closing(sqlite3.connect(scene.folder / "prefect/prefect.db")) as database:
        database.execute("BEGIN EXCLUSIVE")
        await asyncio.sleep(20)
        database.rollback()
    assert scene.step(run) > step + 20

    await survived(run)
    assert len(scene.cloud.account) == 1


def prefect_server(port: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start a server of our own; its database is in the folder."""
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui"],
            env={**os.environ, "PREFECT_HOME": str(folder / "prefect")},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def end(server: subprocess.Popen[bytes]) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/health").is_success
    except httpx.HTTPError:
        return False


@pytest.mark.thorough
@pytest.mark.fault(26, "two flow processes for one run")
@pytest.mark.parametrize("words", ["Beginning flow run", "started the training"])
async def test_a_second_process_for_a_run_steps_aside(scene, survived, words):
    run = await scene.run(scene.job())
    await scene.said(words)

    scene.injected(run, "another process works")
    scene.again(run)

    await survived(run)
    assert "another process works" in (scene.folder / "flow.log").read_text()
    assert len(scene.cloud.account) == 1
    assert scene.directory(run).read_status().attempt == 1
