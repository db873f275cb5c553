"""What every machine does with files, and with a job's setup. The same tests for all."""

import asyncio
import hashlib
import os
import sys

import pytest

from tests.blocks.machines.contract.every_machine import FAMILY, dice, pids_in
from tests.processes import is_running
from tests.waiting import until
from trainer.contract.errors import DependencyError


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
    content = dice(2).randbytes(1 << 20) * 150
    source.write_bytes(content)
    loading = asyncio.create_task(machine.download(str(source), target))
    await until(lambda: loading.done() or (part.exists() and part.stat().st_size))

    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    arrived = part.stat().st_size
    transfer = await machine.download(str(source), target)

    source.unlink()
    target.unlink()  # 150 MB each

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
