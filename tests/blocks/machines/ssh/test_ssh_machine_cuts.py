"""A machine over SSH: cut, silent or out of reach."""

import asyncio
import os
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from blocks.machines import base
from blocks.machines import ssh as over_ssh
from blocks.machines.ssh import channel, transfer
from blocks.machines.ssh import connections as ssh_connections
from blocks.machines.ssh.channel import Cut
from tests.blocks.machines.ssh.over_ssh import python
from tests.waiting import until
from trainer.contract.errors import ConnectionLost

LESS_THAN_A_CONNECTION_MAY_TAKE = ssh_connections.CONNECT_SECONDS - 1
SLEEPER = (
    "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text('on'); time.sleep(600)"
)


async def test_a_cut_kills_what_runs_and_is_told_and_nothing_is_repeated(
    behind_proxy, proxy, sshd, tmp_path
):
    code = f"open({str(tmp_path / 'runs')!r}, 'a').write('x')\n" + SLEEPER.replace("; ", "\n")
    command = python(code, tmp_path / "on")
    running = asyncio.create_task(behind_proxy.run(command))
    await until((tmp_path / "on").exists)

    proxy.cut()

    with pytest.raises(ConnectionLost, match=r"127\.0\.0\.1:\d+ was cut while .*python.* ran"):
        await running
    await until(lambda: not sshd.processes())
    assert (tmp_path / "runs").read_text() == "x"


async def test_what_was_started_outlives_sshd_and_verbs_go_on_when_it_is_back(
    machine, sshd, tmp_path
):
    await machine.start(python(SLEEPER, tmp_path / "on"))
    await until((tmp_path / "on").exists)
    [before] = sshd.processes()

    sshd.stop()
    reading = asyncio.create_task(machine.read(str(tmp_path / "on")))
    await asyncio.sleep(0.3)
    alive = sshd.processes()
    sshd.start()

    assert await reading == b"on"
    assert alive == [before]


async def test_an_interrupt_reaches_what_was_started(machine, sshd, tmp_path):
    await machine.start(python(SLEEPER, tmp_path / "on"))
    await until((tmp_path / "on").exists)

    os.kill(sshd.processes()[0], 2)

    await until(lambda: not sshd.processes())


async def test_an_unreachable_machine_is_given_up_by_name_within_its_patience(sshd, reach):
    sshd.stop()
    began = time.monotonic()

    async with reach(sshd, patience=1) as machine:
        with pytest.raises(
            ConnectionLost, match=rf"127\.0\.0\.1:{sshd.port} .*for 1 s: connection refused"
        ):
            await machine.run(["true"])

    assert time.monotonic() - began < LESS_THAN_A_CONNECTION_MAY_TAKE


async def test_patience_that_ends_in_the_midst_of_an_attempt_says_what_the_one_before_met(
    sshd, reach, monkeypatch
):
    attempts = []

    async def open_channel(window):
        attempts.append(window)
        if len(attempts) == 1:
            raise Cut("connection refused")
        await asyncio.Event().wait()

    async with reach(sshd, patience=0.2) as machine:
        monkeypatch.setattr(ssh_connections, "FIRST_PAUSE", 0.0)
        monkeypatch.setattr(machine._connections, "_open", open_channel)
        with pytest.raises(ConnectionLost, match="connection refused"):
            await machine.run(["true"])

    assert len(attempts) == 2


async def test_a_silent_machine_is_given_up_within_its_patience(behind_proxy, proxy, reach):
    proxy.freeze()
    began = time.monotonic()

    async with reach(proxy, patience=1) as machine:
        with pytest.raises(ConnectionLost, match="no answer"):
            await machine.listing("/")

    assert time.monotonic() - began < LESS_THAN_A_CONNECTION_MAY_TAKE


async def test_a_key_that_is_not_known_is_told_and_may_arrive_late(
    sshd, reach, key_folder, tmp_path
):
    (tmp_path / "keys").write_text((sshd.home.parent / "authorized_keys").read_text())
    (sshd.home.parent / "authorized_keys").write_text("")

    async with reach(sshd, patience=2) as machine:
        with pytest.raises(ConnectionLost, match="permission denied for user"):
            await machine.run(["true"])
    async with reach(sshd) as machine:
        running = asyncio.create_task(machine.run(["true"]))
        await asyncio.sleep(0.3)
        sshd.authorize((tmp_path / "keys").read_text())
        assert (await running).exit_code == 0


async def test_a_partition_is_noticed_without_traffic(proxy, reach, tmp_path, monkeypatch):
    monkeypatch.setattr(ssh_connections, "KEEPALIVE_SECONDS", 0.1)
    log = tmp_path / "log"
    log.write_text("a")
    async with reach(proxy) as machine, aclosing(machine.follow(str(log))) as chunks:
        assert await anext(chunks) == b"a"
        waiting = asyncio.ensure_future(anext(chunks))

        proxy.freeze()
        await until(lambda: proxy.connections == 2)
        log.write_text("ab")
        proxy.thaw()

        assert await waiting == b"b"


async def test_all_verbs_share_one_connection(behind_proxy, proxy, tmp_path):
    await asyncio.gather(
        behind_proxy.run(["true"]),
        behind_proxy.write(str(tmp_path / "file"), b"x"),
        behind_proxy.listing("/"),
        behind_proxy.upload(Path(__file__), str(tmp_path / "other")),
    )
    await behind_proxy.download(str(tmp_path / "other"), tmp_path / "back")

    assert proxy.connections == 1


VERBS = {
    "run": lambda machine, path: machine.run(["true"]),
    "start": lambda machine, path: machine.start(["true"]),
    "read": lambda machine, path: machine.read(str(path)),
    "write": lambda machine, path: machine.write(str(path), b"x"),
    "listing": lambda machine, path: machine.listing(str(path.parent)),
    "upload": lambda machine, path: machine.upload(path, f"{path}-there"),
    "download": lambda machine, path: machine.download(str(path), path.with_name("here")),
    "setup": lambda machine, path: machine.run_shell(["true"], cwd="/", log=lambda _: None),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
async def test_a_machine_whose_commands_hang_is_given_up(
    machine, sshd, tmp_path, monkeypatch, verb
):
    for module, name in [
        (base, "RUN_SECONDS"),
        (over_ssh, "RUN_SECONDS"),
        (channel, "SILENCE_SECONDS"),
        (transfer, "SILENCE_SECONDS"),
    ]:
        monkeypatch.setattr(module, name, 0.5)
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(over_ssh, "END_SECONDS", 0.1)
    sshd.hang()

    with pytest.raises(ConnectionLost, match=rf":{sshd.port} "):
        await asyncio.wait_for(verb(machine, tmp_path / "file"), 20)


async def test_a_machine_that_is_slow_is_not_one_that_hangs(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(channel, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(over_ssh, "RUN_SECONDS", 0.3)
    said = []

    await machine.run(["sleep", "1"], timeout=20)
    await machine.run_shell(["sleep 1; echo done"], cwd="/", log=said.append)

    assert said == ["done"]
