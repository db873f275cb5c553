"""What every machine must do. Each test runs against every machine in `MACHINES`."""

import asyncio
import hashlib
import os
import random
import signal
import sys
import time
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from blocks.machines.base import CAPTURE_LIMIT, FOLLOW_CHUNK
from blocks.machines.local import LocalMachine
from trainer.errors import DependencyError


@pytest.fixture
def over_ssh(sshd, reach):
    return reach(sshd)


@pytest.fixture
def at_home():
    return LocalMachine()


MACHINES = {"local": "at_home", "ssh": "over_ssh"}


@pytest.fixture(params=MACHINES.values(), ids=MACHINES)
async def machine(request):
    async with request.getfixturevalue(request.param) as machine:
        yield machine


def dice(seed):
    return random.Random(seed)  # noqa: S311 - not for secrets


def python(code, *arguments):
    return [sys.executable, "-c", code, *map(str, arguments)]


async def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)
    return value


def pids_in(folder):
    return [int(path.read_text()) for path in folder.glob("*.pid") if path.read_text()]


def is_running(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


# Three generations, each noting its process id, each deaf to SIGTERM, all sleeping.
FAMILY = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
generation = 0
while generation < 2 and os.fork() == 0:
    generation += 1
path = f"{sys.argv[1]}/{generation}"
with open(path, "w") as stream:
    stream.write(str(os.getpid()))
os.rename(path, path + ".pid")
time.sleep(600)
"""


async def test_run_tells_exit_code_and_both_outputs(machine):
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"

    result = await machine.run(python(code))

    assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n")


async def test_run_has_the_given_environment_and_folder_and_no_shell(machine, tmp_path):
    code = "import os, sys; print(os.environ['X'], os.getcwd(), sys.argv[1], sys.stdin.read())"

    result = await machine.run(python(code, "$X; *"), env={"X": "a b"}, cwd=str(tmp_path))

    assert result.stdout == f"a b {tmp_path} $X; * \n"


async def test_run_keeps_the_end_of_an_output_that_is_too_long(machine):
    code = "import sys; sys.stdout.write('a' * 5_000_000 + 'end'); sys.stderr.write('short')"

    result = await machine.run(python(code))

    assert len(result.stdout) == CAPTURE_LIMIT
    assert result.stdout.endswith("aend")
    assert result.stderr == "short"


async def test_run_tells_which_signal_ended_the_command(machine):
    result = await machine.run(python("import os; os.kill(os.getpid(), 9)"))

    assert result.exit_code == -signal.SIGKILL


async def test_run_of_a_missing_program_ends_with_127_and_the_reason(machine):
    result = await machine.run(["no-such-program", "x"])

    assert result.exit_code == 127
    assert "no-such-program" in result.stderr


async def test_run_replaces_output_that_is_not_utf8(machine):
    result = await machine.run(python("import os; os.write(1, b'a\\xffb')"))

    assert result.stdout == "a\ufffdb"


async def test_timeout_kills_the_whole_family(machine, tmp_path):
    with pytest.raises(TimeoutError):
        await machine.run(python(FAMILY, tmp_path), timeout=3)

    pids = pids_in(tmp_path)
    assert len(pids) == 3
    await until(lambda: not any(map(is_running, pids)))


async def test_cancelling_run_kills_the_whole_family(machine, tmp_path):
    running = asyncio.create_task(machine.run(python(FAMILY, tmp_path)))
    await until(lambda: len(pids_in(tmp_path)) == 3)

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert running.cancelled()
    await until(lambda: not any(map(is_running, pids_in(tmp_path))))


async def test_run_ends_with_its_leader_and_takes_the_family_along(machine, tmp_path):
    code = (
        f"import os, sys, time\nif os.fork() == 0:\n{FAMILY.replace(chr(10), chr(10) + '    ')}\n"
    )
    code += (
        "while len([n for n in os.listdir(sys.argv[1]) if n.endswith('pid')]) < 3: time.sleep(0.01)"
    )

    result = await machine.run(python(code, tmp_path), timeout=60)

    assert result.exit_code == 0
    await until(lambda: not any(map(is_running, pids_in(tmp_path))))


async def test_run_cancelled_at_once_leaves_nothing(machine, tmp_path):
    code = "import pathlib, sys, time; time.sleep(2); pathlib.Path(sys.argv[1]).touch()"
    for turns in range(6):
        running = asyncio.create_task(machine.run(python(code, tmp_path / str(turns))))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    await asyncio.sleep(3)

    assert list(tmp_path.iterdir()) == []


async def test_what_was_started_outlives_close_and_leads_its_own_session(machine, tmp_path):
    code = (
        "import os, pathlib, sys, time\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n"
        "pathlib.Path(sys.argv[2]).write_text(f'{os.getpid()} {os.getsid(0)} {os.environ[\"X\"]}')"
    )
    told = tmp_path / "told"
    await machine.start(python(code, tmp_path / "go", told), env={"X": "x"}, cwd=str(tmp_path))
    await machine.close()

    (tmp_path / "go").touch()

    pid, session, value = (await until(lambda: told.exists() and told.read_text())).split()
    assert pid == session
    assert value == "x"
    await until(lambda: not is_running(int(pid)))


async def test_start_of_a_missing_program_says_which(machine, tmp_path):
    with pytest.raises(DependencyError, match="no-such-program cannot be started"):
        await machine.start(["no-such-program"], cwd=str(tmp_path))


# Appends what it is given on argv in pieces of random size, sometimes after a pause.
GROW = """
import random, sys, time
source, target, seed = sys.argv[1:]
pieces = random.Random(int(seed))
content = open(source, "rb").read()
with open(target, "ab", buffering=0) as stream:
    while content:
        size = pieces.choice([1, 17, 4096, 90_000])
        stream.write(content[:size])
        content = content[size:]
        time.sleep(pieces.choice([0, 0, 0, 0.05]))
"""


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_follow_loses_and_doubles_no_byte_of_a_growing_file(machine, tmp_path, seed):
    content = dice(seed).randbytes(3_000_000)
    (tmp_path / "source").write_bytes(content)
    log = tmp_path / "log"
    command = python(GROW, tmp_path / "source", log, seed)
    offset = dice(seed).randrange(len(content))
    received = b""

    async with aclosing(machine.follow(str(log), offset)) as chunks:
        await machine.start(command, cwd=str(tmp_path))  # the file is not there yet
        async for chunk in chunks:
            assert 0 < len(chunk) <= FOLLOW_CHUNK
            received += chunk
            if len(received) >= len(content) - offset:
                break

    assert received == content[offset:]


async def test_follow_can_be_cut_anywhere_and_goes_on_from_the_offset(machine, tmp_path):
    log = tmp_path / "log"
    content = dice(0).randbytes(2_000_000)
    log.write_bytes(content)
    received = b""

    while len(received) < len(content):
        async with aclosing(machine.follow(str(log), len(received))) as chunks:
            received += await anext(chunks)

    assert received == content


async def test_follow_yields_within_a_fifth_of_a_second(machine, tmp_path):
    log = tmp_path / "log"
    log.touch()
    delays = []

    async with aclosing(machine.follow(str(log))) as chunks:
        for _ in range(5):
            waiting = asyncio.ensure_future(anext(chunks))
            await asyncio.sleep(0.13)
            with log.open("ab") as stream:
                stream.write(b"line\n")
            written = time.monotonic()
            assert await waiting == b"line\n"
            delays.append(time.monotonic() - written)

    assert sorted(delays)[2] <= 0.2


async def test_follow_costs_next_to_nothing_while_nothing_is_written(machine, tmp_path):
    async def consume():
        async for _ in machine.follow(str(tmp_path / "log")):
            pass

    following = [asyncio.create_task(consume()) for _ in range(50)]
    await asyncio.sleep(0.1)
    before = time.process_time()

    await asyncio.sleep(2)

    assert time.process_time() - before < 0.5
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)


@pytest.mark.parametrize("verb", ["upload", "download"])
@pytest.mark.parametrize("size", [0, 1, 3_500_000])
async def test_a_transfer_arrives_whole_and_tells_its_hash(machine, tmp_path, verb, size):
    content = dice(size).randbytes(size)
    (tmp_path / "source").write_bytes(content)

    transfer = await move(machine, verb, tmp_path / "source", tmp_path / "new" / "target")

    assert (tmp_path / "new" / "target").read_bytes() == content
    assert (transfer.bytes, transfer.resumed) == (size, 0)
    assert transfer.sha256 == hashlib.sha256(content).hexdigest()
    assert os.listdir(tmp_path / "new") == ["target"]  # noqa: PTH208 - names are what is meant


@pytest.mark.parametrize("verb", ["upload", "download"])
async def test_a_transfer_goes_on_where_it_was_cut(machine, tmp_path, verb):
    content = dice(1).randbytes(3_500_000)
    (tmp_path / "source").write_bytes(content)
    for cut in [0, 1, 1 << 20, 3_499_999, 3_500_000]:
        (tmp_path / "target.part").write_bytes(content[:cut])

        transfer = await move(machine, verb, tmp_path / "source", tmp_path / "target")

        assert transfer.resumed == cut
        assert transfer.sha256 == hashlib.sha256(content).hexdigest()
        assert (tmp_path / "target").read_bytes() == content


@pytest.mark.parametrize("verb", ["upload", "download"])
async def test_the_hash_of_a_transfer_covers_what_was_there_before(machine, tmp_path, verb):
    (tmp_path / "source").write_bytes(b"right content")
    (tmp_path / "target.part").write_bytes(b"wrong")

    transfer = await move(machine, verb, tmp_path / "source", tmp_path / "target")

    # An upload may compare what is there with its source, and send all of it again.
    arrived = (tmp_path / "target").read_bytes()
    assert arrived in (
        {b"wrong content"} if verb == "download" else {b"wrong content", b"right content"}
    )
    assert transfer.sha256 == hashlib.sha256(arrived).hexdigest()


@pytest.mark.parametrize("verb", ["upload", "download"])
async def test_a_part_longer_than_its_source_is_not_used(machine, tmp_path, verb):
    (tmp_path / "source").write_bytes(b"short")
    (tmp_path / "target.part").write_bytes(b"longer than short")

    transfer = await move(machine, verb, tmp_path / "source", tmp_path / "target")

    assert (transfer.bytes, transfer.resumed) == (5, 0)
    assert (tmp_path / "target").read_bytes() == b"short"


@pytest.mark.parametrize("verb", ["upload", "download"])
async def test_a_transfer_of_nothing_leaves_nothing(machine, tmp_path, verb):
    with pytest.raises(FileNotFoundError):
        await move(machine, verb, tmp_path / "source", tmp_path / "target")

    assert list(tmp_path.iterdir()) == []


async def move(machine, verb, source, target):
    if verb == "upload":
        return await machine.upload(source, str(target))
    return await machine.download(str(source), target)


async def test_a_cancelled_download_is_still_when_it_returns_and_can_go_on(machine, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    part = tmp_path / "target.part"
    content = dice(2).randbytes(1 << 20) * 300
    source.write_bytes(content)
    loading = asyncio.create_task(machine.download(str(source), target))
    await until(lambda: loading.done() or (part.exists() and part.stat().st_size))

    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    arrived = part.stat().st_size
    transfer = await machine.download(str(source), target)

    source.unlink()
    target.unlink()  # 300 MB each

    assert 0 < arrived < len(content)
    assert transfer.resumed == arrived
    assert transfer.sha256 == hashlib.sha256(content).hexdigest()


async def test_read_and_write_replace_a_small_file(machine, tmp_path):
    path = str(tmp_path / "control.json")
    assert await machine.read(path) is None

    await machine.write(path, b"first, and longer")
    await machine.write(path, b"second")

    assert await machine.read(path) == b"second"
    assert await machine.listing(str(tmp_path)) == ["control.json"]


async def test_a_reader_never_sees_half_of_what_is_written(machine, tmp_path):
    path = str(tmp_path / "file")
    contents = [bytes([65 + turn]) * 200_000 for turn in range(5)]
    await machine.write(path, contents[0])

    async def write_all():
        for content in contents:
            await machine.write(path, content)

    writing = asyncio.create_task(write_all())
    while not writing.done():
        assert await machine.read(path) in contents
    await writing


async def test_listing_is_sorted_and_empty_for_a_missing_folder(machine, tmp_path):
    for name in ["b", "a c", ".hidden"]:
        (tmp_path / name).touch()

    assert await machine.listing(str(tmp_path)) == [".hidden", "a c", "b"]
    assert await machine.listing(str(tmp_path / "missing")) == []


async def test_setup_is_one_script_whose_lines_come_as_they_are_printed(machine, tmp_path):
    lines = []
    script = ["export Y=$X", "cd /", "echo $Y $PWD", "echo error >&2", "printf 'a\\xff\\nlast'"]

    await machine.run_shell(script, env={"X": "1"}, cwd=str(tmp_path), log=lines.append)

    assert lines == ["1 /", "error", "a\ufffd", "last"]


async def test_setup_streams_while_it_runs(machine, tmp_path):
    lines = []
    script = ["echo first", f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done", "echo second"]
    running = asyncio.create_task(machine.run_shell(script, cwd=str(tmp_path), log=lines.append))

    await until(lambda: lines == ["first"])
    (tmp_path / "go").touch()
    await running

    assert lines == ["first", "second"]


async def test_setup_ends_at_the_first_failure_and_names_it(machine, tmp_path):
    lines = []
    script = ["echo 'no such package' >&2", "(exit 7)", "echo never"]

    with pytest.raises(DependencyError, match=r"'\( exit 7 \)'.*exit code 7: no such package"):
        await machine.run_shell(script, cwd=str(tmp_path), log=lines.append)

    assert lines == ["no such package"]


async def test_setup_that_cannot_be_parsed_fails(machine, tmp_path):
    with pytest.raises(DependencyError, match=r"exit code 2.*syntax error|unexpected"):
        await machine.run_shell(["if true"], cwd=str(tmp_path), log=lambda line: None)


async def test_cancelling_setup_kills_what_it_started(machine, tmp_path):
    (tmp_path / "family.py").write_text(FAMILY)
    script = ["trap '' TERM", f"{sys.executable} family.py {tmp_path}"]
    running = asyncio.create_task(machine.run_shell(script, cwd=str(tmp_path), log=print))
    await until(lambda: len(pids_in(tmp_path)) == 3)

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert running.cancelled()
    await until(lambda: not any(map(is_running, pids_in(tmp_path))))
