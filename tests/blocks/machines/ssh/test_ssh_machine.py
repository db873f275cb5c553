"""A machine over SSH: host keys, secrets, following and moving files through cuts."""

import asyncio
import hashlib
import logging
import os
import random
import shutil
import stat
from contextlib import aclosing, suppress
from pathlib import Path

import asyncssh
import pytest

from tests.blocks.machines.ssh.over_ssh import python
from tests.clouds.machines import SshdMachine
from tests.waiting import until
from trainer.contract.errors import DiskFull, HostKeyChanged, IntegrityError

ODD = {"A": 'it\'s "$HOME" `x` \\n', "B": "two\nlines\n", "C": "zażółć Łódź \udcff", "_D": ""}


@pytest.fixture
def impostor(sshd, tmp_path_factory, key_folder):
    """Another machine that can take the place of the first: the same port and user."""
    public_key = (key_folder / "id_ed25519.pub").read_text()
    folder = tmp_path_factory.mktemp("impostor")
    other = SshdMachine(folder, public_keys=[public_key], port=sshd.port)
    yield other
    other.kill()


def dice(seed):
    return random.Random(seed)  # noqa: S311 - not for secrets


async def test_a_changed_host_key_is_refused_before_anything_is_sent(
    sshd, impostor, reach, key_folder, tmp_path
):
    async with reach(sshd) as machine:
        await machine.run(["true"])
    pinned = (key_folder / "host_key").read_text()
    sshd.stop()
    impostor.start()

    async with reach(sshd, patience=5) as machine:
        with pytest.raises(HostKeyChanged, match=r"127\.0\.0\.1.*SHA256:.*SHA256:.*host_key"):
            await machine.run(["touch", str(tmp_path / "executed")])

    assert not (tmp_path / "executed").exists()
    assert (key_folder / "host_key").read_text() == pinned
    said = (impostor.home.parent / "sshd.log").read_text()
    assert "Connection from" in said
    assert not any(word in said for word in ["publickey", "user root", "Starting session"])


async def test_a_host_key_that_changes_under_a_living_connection_is_refused(
    sshd, impostor, machine
):
    await machine.run(["true"])

    sshd.stop()
    impostor.start()

    with pytest.raises(HostKeyChanged):
        await machine.read("/etc/hostname")


async def test_two_first_connections_at_once_pin_one_host_key(
    sshd, reach, key_folder, tmp_path_factory
):
    public_key = (key_folder / "id_ed25519.pub").read_text()
    with SshdMachine(tmp_path_factory.mktemp("second"), public_keys=[public_key]) as second:
        async with reach(sshd) as one, reach(second) as other:
            results = await asyncio.gather(
                one.run(["true"]), other.run(["true"]), return_exceptions=True
            )

    assert sorted(isinstance(result, HostKeyChanged) for result in results) == [False, True]
    path = key_folder / "host_key"
    assert len(path.read_text().splitlines()) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
async def test_environment_and_folder_arrive_as_they_are_in_every_shell(
    shell, reach, key_folder, tmp_path
):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    public_key = (key_folder / "id_ed25519.pub").read_text()
    folder = tmp_path / "it's a\nfolder"
    folder.mkdir()
    code = "import os; print(ascii([os.environ[n] for n in ['A', 'B', 'C', '_D']]), os.getcwd())"
    with SshdMachine(tmp_path / "machine", public_keys=[public_key]) as sshd:
        (tmp_path / "machine" / "bin" / "sh").symlink_to(shutil.which(shell))
        async with reach(sshd) as machine:
            result = await machine.run(python(code), env=ODD, cwd=str(folder))
            ended = await machine.run(python("import os; os.kill(os.getpid(), 15)"))

    assert result.stdout == f"{list(ODD.values())!a} {folder}\n"
    assert (ended.exit_code, ended.stderr) == (-15, "")


async def test_neither_environment_nor_folder_nor_setup_is_in_the_process_list(
    machine, tmp_path, sshd
):
    folder = tmp_path / "canary-folder"
    folder.mkdir()
    env = {"SECRET": "canary-value"}
    code = "import time, pathlib; pathlib.Path('on').touch(); time.sleep(600)"
    script = ["touch set-up", "x=canary-script", "while true; do sleep 600; done"]

    running = [
        asyncio.create_task(machine.run(python(code), env=env, cwd=str(folder))),
        asyncio.create_task(machine.run_shell(script, env=env, cwd=str(folder), log=print)),
    ]
    await machine.start(["sleep", "600"], env=env, cwd=str(folder))
    await until(lambda: (folder / "on").exists() and (folder / "set-up").exists())
    lines = _process_list()
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)

    assert len(sshd.processes()) == 1
    assert any(b"sleep" in line for line in lines)
    assert not [line for line in lines if b"canary" in line and b"pytest" not in line]


def _process_list():
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_bytes())
    return lines


async def test_neither_private_key_nor_environment_is_logged(sshd, reach, key_folder, caplog):
    caplog.set_level(logging.DEBUG)
    asyncssh.set_debug_level(2)
    asyncssh.set_log_level(logging.DEBUG)
    secret = (key_folder / "id_ed25519").read_text().splitlines()[1:-1]

    async with reach(sshd) as machine:
        await machine.run(["env"], env={"SECRET": "canary"})

    asyncssh.set_log_level(logging.NOTSET)
    asyncssh.set_debug_level(1)
    assert "Auth for user" in caplog.text
    assert not [line for line in [*secret, "canary"] if line in caplog.text]


async def test_follow_through_cuts_loses_and_doubles_no_byte(behind_proxy, proxy, tmp_path):
    content = dice(4).randbytes(2_000_000)
    log = tmp_path / "log"
    received = b""
    flowed = asyncio.Event()

    async def write():
        with log.open("ab", buffering=0) as stream:
            for begin in range(0, len(content), 20_000):
                stream.write(content[begin : begin + 20_000])
                await asyncio.sleep(0.03)

    async def cut():
        pause = dice(8)
        while True:  # however slow this computer is: only what has flowed can be cut
            flowed.clear()
            await flowed.wait()
            await asyncio.sleep(pause.uniform(0, 0.2))
            proxy.cut()

    tasks = [asyncio.create_task(write()), asyncio.create_task(cut())]
    async with aclosing(behind_proxy.follow(str(log), 1000)) as chunks:
        async for chunk in chunks:
            received += chunk
            flowed.set()
            if len(received) >= len(content) - 1000:
                break
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert received == content[1000:]
    assert proxy.connections >= 5


async def test_follow_leaves_nothing_running_when_closed_or_cut(
    behind_proxy, proxy, sshd, tmp_path
):
    log = tmp_path / "log"
    log.write_text("line\n")

    async with aclosing(behind_proxy.follow(str(log))) as chunks:
        await anext(chunks)
        waiting = asyncio.ensure_future(anext(chunks))
        first = await until(sshd.processes)
        proxy.cut()
        await until(lambda: sshd.processes() and not set(first) & set(sshd.processes()))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    await until(lambda: not sshd.processes())


async def test_a_slow_reader_of_follow_keeps_little_in_memory(machine, proxy, reach, tmp_path):
    log = tmp_path / "log"
    log.write_bytes(bytes(50_000_000))

    async with reach(proxy) as slow, aclosing(slow.follow(str(log))) as chunks:
        await anext(chunks)
        await asyncio.sleep(1)

        assert proxy.passed < 10_000_000


@pytest.mark.parametrize("verb", ["upload", "download"])
async def test_a_transfer_goes_on_by_itself_after_every_cut(behind_proxy, proxy, tmp_path, verb):
    content = dice(5).randbytes(12_000_000)
    (tmp_path / "source").write_bytes(content)
    cuts = dice(6)

    async def cut_often():
        while True:
            proxy.cut_after(cuts.randrange(2_000_000, 4_000_000))
            await until(lambda seen=proxy.connections: proxy.connections > seen)

    await behind_proxy.run(["true"])
    cutting = asyncio.create_task(cut_often())
    if verb == "upload":
        transfer = await behind_proxy.upload(tmp_path / "source", str(tmp_path / "target"))
    else:
        transfer = await behind_proxy.download(str(tmp_path / "source"), tmp_path / "target")
    cutting.cancel()

    assert proxy.connections >= 3
    assert transfer.sha256 == hashlib.sha256(content).hexdigest()
    assert (tmp_path / "target").read_bytes() == content
    assert not (tmp_path / "target.part").exists()


async def test_a_flipped_bit_on_the_way_does_not_arrive(behind_proxy, proxy, tmp_path):
    content = dice(7).randbytes(3_000_000)
    (tmp_path / "source").write_bytes(content)
    await behind_proxy.run(["true"])

    proxy.flip(1_500_000)
    await behind_proxy.download(str(tmp_path / "source"), tmp_path / "target")

    assert (tmp_path / "target").read_bytes() == content
    assert proxy.connections == 2


async def test_an_upload_over_the_rest_of_something_else_arrives_right(machine, tmp_path):
    (tmp_path / "source").write_bytes(b"right content")
    (tmp_path / "target.part").write_bytes(b"wrong")

    transfer = await machine.upload(tmp_path / "source", str(tmp_path / "target"))

    assert (tmp_path / "target").read_bytes() == b"right content"
    assert transfer.sha256 == hashlib.sha256(b"right content").hexdigest()


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
async def test_only_plain_files_are_fetched(machine, tmp_path, kind):
    source = "/dev/zero" if kind == "device" else str(tmp_path / "source")
    if kind == "folder":
        os.mkdir(source)  # noqa: PTH102 - it is the machine's
    elif kind == "fifo":
        os.mkfifo(source)

    for fetching in [machine.download(source, tmp_path / "target"), machine.read(source)]:
        with pytest.raises(IntegrityError, match="is not a plain file"):
            await fetching

    assert not list(tmp_path.glob("target*"))


async def test_a_file_that_cannot_fit_is_not_even_begun(machine, tmp_path):
    source = tmp_path / "source"
    with source.open("wb") as stream:
        stream.truncate(8 << 40)

    with pytest.raises(
        DiskFull, match=f"target needs {8 << 40} bytes; its disk has [0-9]+ more free"
    ):
        await machine.download(str(source), tmp_path / "target")
    with pytest.raises(
        DiskFull, match=f"other needs {8 << 40} bytes; its disk has [0-9]+ more free"
    ):
        await machine.upload(source, str(tmp_path / "other"))

    left = [path.stat().st_size for path in tmp_path.glob("*.part")]
    assert not any(left)


@pytest.mark.parametrize("compress", [False, True])
async def test_what_comes_is_compressed_on_its_way_when_asked(proxy, reach, tmp_path, compress):
    (tmp_path / "there").write_bytes(b"the same words " * 100_000)

    async with reach(proxy, compress=compress) as machine:
        transfer = await machine.download(str(tmp_path / "there"), tmp_path / "here")

    assert transfer.bytes == 1_500_000
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()
    assert (proxy.passed < 150_000) is compress
