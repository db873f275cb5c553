"""What only a machine behind a mailbox has: numbers, an agent that dies, secrets, the last two minutes."""

from __future__ import annotations

import asyncio
import fcntl
import json
import signal
import subprocess
import sys
import time

import pytest

from blocks.machines.mailbox import MailboxMachine, post
from blocks.machines.mailbox.agent import processes
from blocks.machines.mailbox.agent.processes import Process
from blocks.machines.mailbox.packing import (
    NOTICE_COMMAND,
    SHUTDOWN_COMMAND,
    packed,
    start_script,
)
from blocks.machines.mailbox.post import Post
from tests.clouds.agents import QUICK, Mailbox
from tests.processes import is_running
from tests.waiting import until
from trainer.contract.errors import ConnectionLost

USER_DATA_LIMIT = 16 << 10  # bytes; EC2's


@pytest.fixture
def own(tmp_path):
    """A mailbox that a test may break."""
    with Mailbox(tmp_path / "own") as mailbox:
        yield mailbox


def objects(mailbox):
    bucket = mailbox.agent.home.parent / "bucket"
    return {str(path.relative_to(bucket)): path for path in bucket.rglob("*") if path.is_file()}


async def test_several_who_ask_at_once_each_get_their_own_answer(mailbox):
    callers = [mailbox.machine() for _ in range(4)]

    answers = await asyncio.gather(*(callers[n % 4].run(["echo", str(n)]) for n in range(24)))

    assert [answer.stdout for answer in answers] == [f"{n}\n" for n in range(24)]


async def test_a_command_whose_acceptance_was_not_heard_of_runs_once(
    mailbox, tmp_path, monkeypatch
):
    create = Post._create

    async def not_heard(self, name, content):
        await create(self, name, content)
        return await create(self, name, content)  # sent again by whoever did not hear of it

    monkeypatch.setattr(Post, "_create", not_heard)
    machine = mailbox.machine()

    for _ in range(2):
        await machine.run(["sh", "-c", f"echo once >>{tmp_path}/runs"])
        await machine.write(f"{tmp_path}/file", b"\n{")

    assert (tmp_path / "runs").read_text() == "once\nonce\n"
    assert (tmp_path / "file").read_bytes() == b"\n{"


async def test_nobody_has_come_up_yet_is_said_at_once(tmp_path):
    mailbox = Mailbox(tmp_path)

    with pytest.raises(ConnectionLost, match=r"pod-1 .*its agent has not come up yet"):
        await MailboxMachine(mailbox.bucket(), where="pod-1").run(["true"])


@pytest.mark.parametrize(
    ("alive", "answer", "why"),
    [
        (b"{", b"", "its agent does not answer in JSON"),
        (b"[1]", b"", "its agent does not answer in JSON"),
        (b"{}", b"", "its agent does not say which command is next"),
        (b'{"next": 1e400}', b"", "its agent does not say which command is next"),
        (b'{"next": 3}', b"\xff\n", "its agent does not answer in JSON"),
    ],
)
async def test_what_no_agent_of_ours_would_say_is_a_lost_connection(tmp_path, alive, answer, why):
    mailbox = Mailbox(tmp_path)
    await mailbox.bucket().put("alive", alive)
    await mailbox.bucket().put("out/0000000003", answer)

    with pytest.raises(ConnectionLost, match=why):
        await MailboxMachine(mailbox.bucket(), where="pod-1").run(["true"])


async def test_an_agent_that_is_dead_is_noticed_and_its_successor_repeats_nothing(
    own, tmp_path, monkeypatch
):
    monkeypatch.setattr(post, "BEAT_SECONDS", 0.3)
    machine = own.machine()
    await machine.run(["sh", "-c", f"echo once >>{tmp_path}/runs"])
    own.agent.kill()

    with pytest.raises(ConnectionLost, match="nothing has been heard of it"):
        await machine.run(["true"])
    own.agent.start()

    assert (await machine.run(["cat", f"{tmp_path}/runs"])).stdout == "once\n"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null\n", b'{"do": 5}', b'{"id": "x"}'])
async def test_what_is_no_command_is_passed_over(mailbox, content):
    machine = mailbox.machine()
    bucket = mailbox.bucket()
    alive = json.loads(await bucket.get("alive"))
    number = alive["next"]
    while not await bucket.create(f"in/{number:010}", content):
        number += 1

    assert (await machine.run(["echo", "on"])).stdout == "on\n"


async def test_no_secret_stays_in_the_bucket(own, tmp_path):
    machine = own.machine()
    wait = f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo $TOKEN"

    running = asyncio.create_task(machine.run(["sh", "-c", wait], env={"TOKEN": "hf_secret"}))
    await until(lambda: any(b'"done"' in path.read_bytes() for path in objects(own).values()))

    left = [name for name, path in objects(own).items() if b"hf_secret" in path.read_bytes()]
    (tmp_path / "go").touch()
    assert left == []
    assert (await running).stdout == "hf_secret\n"


async def test_when_the_place_is_taken_back_supervisors_hear_of_it_and_are_fetched_from(own):
    machine = own.machine()
    job = own.base / "jobs" / "one"
    await machine.write(f"{job}/status.json", b"{}")
    hearing = asyncio.create_task(machine.run(["sh", "-c", NOTICE_COMMAND], timeout=60))
    with (job / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        own.agent.signal(signal.SIGTERM)
        assert (await hearing).exit_code == 0
        (job / "checkpoint").write_bytes(b"saved")

    assert await machine.read(f"{job}/checkpoint") == b"saved"
    assert own.agent.process.poll() is None  # it may have to give more


async def test_the_line_that_ends_a_machine_ends_its_agent(own, tmp_path):
    machine = own.machine()
    wait = f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"

    await machine.start(["sh", "-c", f"{wait}; {SHUTDOWN_COMMAND}"])
    (tmp_path / "go").touch()

    assert own.agent.process.wait(30) == 0


async def test_without_a_job_the_agent_goes_at_once_and_when_the_lease_is_over(tmp_path):
    for number in (signal.SIGTERM, signal.SIGUSR1):
        with Mailbox(tmp_path / number.name) as mailbox:
            mailbox.machine()
            mailbox.agent.signal(number)

            assert mailbox.agent.process.wait(30) == 0


def test_what_nobody_reads_any_more_is_ended(monkeypatch):
    monkeypatch.setattr(processes, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(processes, "UNREAD_SECONDS", 0.1)
    wanted = {"command": ["sleep", "600"], "while_read": "/x"}

    ended = Process().run(wanted, {})

    assert ended["exit_code"] == -signal.SIGKILL
    assert ended["timed_out"]


def test_the_first_script_of_a_virtual_machine_starts_an_agent(tmp_path):
    bucket, home = tmp_path / "bucket", tmp_path / "home"
    for folder in (bucket, home):
        folder.mkdir()
    python = sys.executable.rpartition("/")[0]
    script = start_script(f"file://{bucket}")

    environment = {"HOME": str(home), "PATH": f"{python}:/usr/bin:/bin", **QUICK}
    booted = subprocess.Popen(["sh", "-c", script], env=environment)

    pid_file = home / ".training-orchestrator" / "agent.pid"
    deadline = time.monotonic() + 60
    while not (bucket / "alive").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pid = int(pid_file.read_text())
    assert is_running(pid)
    signalled = subprocess.run(["kill", "-USR1", str(pid)], check=True, timeout=60)
    assert signalled.returncode == 0
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert booted.wait(60) == 0
    assert len(script) < USER_DATA_LIMIT - (2 << 10)  # room for the rest of the first script


def test_the_same_agent_is_the_same_file():
    packed.cache_clear()
    first = packed()
    packed.cache_clear()

    assert packed() == first
