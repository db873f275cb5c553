"""A node by its agent and a shared folder: the agent runs here as it does in an allocation."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from blocks.machines.local import LocalMachine
from blocks.providers import slurm
from blocks.providers.slurm import machine as node
from blocks.providers.slurm.machine import NodeMachine, exit_code_of, script_of
from tests.waiting import until
from trainer.contract.errors import ConfigError, ConnectionLost, DependencyError

AGENT = Path(slurm.__file__).with_name("agent.sh")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_NODEID": "0"}
    process = subprocess.Popen(["sh", AGENT, tmp_path], env=environment, start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
async def machine(agent, tmp_path: Path) -> NodeMachine:
    await until((tmp_path / "0" / "inbox").exists)
    return NodeMachine(LocalMachine(), str(tmp_path / "0"), where="job 7")


async def test_a_command_runs_on_the_node_with_its_variables_and_leaves_no_file(machine, tmp_path):
    script = (
        'echo "$GREETING $SLURM_JOB_ID $TRAINING_ORCHESTRATOR_SIGTERM"; pwd; echo bad >&2; exit 3'
    )

    result = await machine.run(["sh", "-c", script], env={"GREETING": "it's 'so'\nzwei"}, cwd="/")
    killed = await machine.run(["sh", "-c", "kill -9 $$"])
    missing = await machine.run(["no-such-program"])

    assert (result.exit_code, result.stdout) == (3, "it's 'so'\nzwei 7 notice\n/\n")
    assert result.stderr == "bad\n"
    assert killed.exit_code == -signal.SIGKILL
    assert missing.exit_code == 127
    assert not [*(tmp_path / "0" / "todo").iterdir(), *(tmp_path / "0" / "answers").iterdir()]


async def test_what_takes_too_long_is_ended_with_all_that_it_started(
    machine, monkeypatch, tmp_path
):
    monkeypatch.setattr(node, "LATE_SECONDS", 0.5)

    with pytest.raises(TimeoutError):
        await machine.run(["sh", "-c", f"sleep 987 & echo $! >{tmp_path}/pid; wait"], timeout=0.5)

    number = int((tmp_path / "pid").read_text())
    await until(lambda: not psutil.pid_exists(number) or _is_dead(number))


async def test_what_is_started_outlives_its_request_but_not_the_agent(machine, agent, tmp_path):
    await machine.start(["sh", "-c", f"echo $$ >{tmp_path}/pid; sleep 987; true"])
    with pytest.raises(DependencyError, match="no-such-program cannot be started"):
        await machine.start(["no-such-program"])
    number = int(await until(lambda: _read(tmp_path / "pid")))
    assert psutil.pid_exists(number)

    agent.kill()
    agent.wait()

    await until(lambda: not psutil.pid_exists(number) or _is_dead(number))


async def test_a_setup_says_what_failed_and_prints_as_it_goes(machine):
    lines: list[str] = []

    with pytest.raises(DependencyError, match="'false' failed with exit code 1: two x"):
        await machine.run_shell(
            ["echo one", "echo two $A", "false", "echo three"],
            env={"A": "x"},
            cwd="/",
            log=lines.append,
        )

    assert lines == ["one", "two x"]


async def test_sigterm_is_a_notice_and_ends_nothing(machine, agent, tmp_path):
    waiting = asyncio.create_task(
        machine.run(["sh", "-c", f"echo on >{tmp_path}/on; {slurm.NOTICE}"])
    )
    await until((tmp_path / "on").exists)

    os.killpg(agent.pid, signal.SIGTERM)  # all that is the agent, as Slurm does

    assert (await waiting).exit_code == 0
    assert (await machine.run(["true"])).exit_code == 0


async def test_an_agent_that_has_ended_is_out_of_reach(machine, agent, monkeypatch, tmp_path):
    (tmp_path / "over").touch()
    assert await asyncio.to_thread(agent.wait, 30) == 0
    monkeypatch.setattr(node, "LATE_SECONDS", 0.2)
    monkeypatch.setattr(node, "RUN_SECONDS", 0.2)

    with pytest.raises(ConnectionLost, match="job 7 does not run 'true'"):
        await machine.run(["true"])
    gone = NodeMachine(LocalMachine(), str(tmp_path / "1"), where="job 7+1")
    with pytest.raises(ConnectionLost, match=r"job 7\+1 does not answer: its agent has not come"):
        await gone.run(["true"])


def test_a_name_that_would_be_code_is_refused():
    with pytest.raises(ConfigError, match="cannot be the name of an environment variable"):
        script_of(["true"], {"A; rm": "x"}, None)


@pytest.mark.parametrize(("code", "ours"), [(0, 0), (3, 3), (127, 127), (137, -9), (255, 255)])
def test_a_shells_exit_code_becomes_that_of_a_command(code, ours):
    assert exit_code_of(code) == ours


def _read(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def _is_dead(number: int) -> bool:
    return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
