"""What every machine does with commands: run, start, follow. The same tests for all."""

import asyncio
import signal
import sys
import time
from contextlib import aclosing

import pytest

from blocks.machines.base import CAPTURE_LIMIT, FOLLOW_CHUNK
from blocks.machines.mailbox import MailboxMachine
from tests.blocks.machines.contract.every_machine import (
    FAMILY,
    any_process_with,
    dice,
    pids_in,
)
from tests.processes import is_running
from tests.waiting import until
from trainer.contract.errors import DependencyError


def python(code, *arguments):
    return [sys.executable, "-c", code, *map(str, arguments)]


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
    seconds = 0.5
    while len(pids := pids_in(tmp_path)) < 3:  # until they were all there before their time was up
        with pytest.raises(TimeoutError):
            await machine.run(python(FAMILY, tmp_path), timeout=seconds)
        seconds *= 2

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
    code = "import pathlib, sys, time; time.sleep(0.5); pathlib.Path(sys.argv[1]).touch()"
    for turns in range(6):
        running = asyncio.create_task(machine.run(python(code, tmp_path / str(turns))))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    await machine.run(["true"])  # what was asked for before has begun, if it ever does
    await until(lambda: not any_process_with(tmp_path))
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


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in (2, 3))]
)
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

    async with aclosing(machine.follow(str(log))) as chunks:
        for _ in range(20):  # a busy computer may be late, but not always
            waiting = asyncio.ensure_future(anext(chunks))
            await asyncio.sleep(0.13)
            with log.open("ab") as stream:
                stream.write(b"line\n")
            written = time.monotonic()
            assert await waiting == b"line\n"
            if time.monotonic() - written <= 0.2:
                break
        else:
            pytest.fail("no line came within a fifth of a second")


async def test_follow_costs_next_to_nothing_while_nothing_is_written(machine, tmp_path, request):
    if "signed" in request.node.name:
        pytest.skip("its bucket is served by this very process, which signs and checks in Python")
    if isinstance(machine, MailboxMachine):
        # The other tests' looks five times as often as a user's.
        machine = MailboxMachine(request.getfixturevalue("mailbox").bucket())

    async def consume():
        async for _ in machine.follow(str(tmp_path / "log")):
            pass

    following = [asyncio.create_task(consume()) for _ in range(50)]
    await asyncio.sleep(2)  # by then each looks as seldom as it ever will
    before = time.process_time()

    await asyncio.sleep(1)

    assert time.process_time() - before < 0.25
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
