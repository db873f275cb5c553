"""What every workplace promises, at home, over SSH and through a bucket; a new kind is one more row of `KINDS`."""

from __future__ import annotations

import asyncio
import shutil
import sys
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from blocks.machines.local import LocalMachine
from blocks.workplaces.base import FileFacts, Lease, NoAnswer, Parcel, SourceChanged, Wanted
from blocks.workplaces.machine import HomeWorkplace, MachineWorkplace
from tests.clouds.agents import Mailbox
from tests.flows.sshd import over_ssh
from trainer.contract.errors import BootError, DependencyError, IntegrityError
from trainer.contract.files import sha256_of
from trainer.contract.job_directory import Desired, JobState

LEASE = Lease(term_seconds=600, grace_seconds=1)
ANY = Wanted(gpu_count=0, gpu_type=None, disk_gb=None)


@asynccontextmanager
async def at_home(folder):
    async with HomeWorkplace(LocalMachine(), str(folder / "instances" / "one")) as workplace:
        yield workplace


@asynccontextmanager
async def on_a_machine(folder):
    async with over_ssh(folder) as (machine, base):
        yield MachineWorkplace(machine, f"{base}/jobs/one", where="pod-1")


@asynccontextmanager
async def through_a_bucket(folder):
    with Mailbox(folder / "agent") as mailbox:
        yield MachineWorkplace(mailbox.machine(), f"{mailbox.base}/jobs/one", where="job-1")


KINDS = {"home": at_home, "bucket": through_a_bucket, "ssh": on_a_machine}
ELSEWHERE = {name: kind for name, kind in KINDS.items() if kind is not at_home}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
async def workplace(request, tmp_path):
    async with request.param(tmp_path) as workplace:
        yield workplace


@pytest.fixture(params=ELSEWHERE.values(), ids=ELSEWHERE)
async def rented(request, tmp_path):
    async with request.param(tmp_path) as workplace:
        yield workplace


async def test_a_small_file_is_replaced_and_read_back(workplace):
    assert await workplace.read("status.json") is None
    assert (await workplace.status()).state is JobState.CREATED

    await workplace.write("status.json", {"state": "running", "step": 3})

    assert (await workplace.status()).step == 3
    assert await workplace.listing("") == ["status.json"]
    assert await workplace.size("status.json") == len(await workplace.read("status.json"))


async def test_a_request_says_what_how_long_and_why(workplace):
    await workplace.ask(Desired.STOP, "cancelled", grace_seconds=2.5)

    content = (await workplace.read("control.json")).decode()
    assert '"desired": "stop"' in content
    assert '"grace_seconds": 2.5' in content
    assert '"reason": "cancelled"' in content


async def test_files_go_there_come_back_whole_and_are_removed(workplace, tmp_path):
    (tmp_path / "here").write_bytes(b"weights")

    sent = await workplace.put(tmp_path / "here", "checkpoints/checkpoint-1/model.bin")
    fetched = await workplace.fetch("checkpoints/checkpoint-1/model.bin", tmp_path / "back")
    with pytest.raises(IntegrityError):
        await workplace.fetch("checkpoints/checkpoint-1/model.bin", tmp_path / "big", limit=3)
    with pytest.raises(FileNotFoundError):
        await workplace.fetch("output/MANIFEST.json", tmp_path / "none")

    assert (tmp_path / "back").read_bytes() == b"weights"
    assert sent.sha256 == fetched.sha256 == sha256_of(tmp_path / "here")
    assert await workplace.listing("checkpoints") == ["checkpoint-1"]
    await workplace.remove(["checkpoints/checkpoint-1"])
    assert await workplace.listing("checkpoints") == []
    assert await workplace.listing("nothing") == []
    assert await workplace.size("nothing") == 0


async def test_a_file_that_grows_is_followed_from_a_byte_on_behind_its_hole(workplace):
    await workplace.write("job.json", {})
    await workplace.begin("train.log", 5)
    assert await workplace.size("train.log") == 5
    append(Path(f"{workplace.folder}/train.log"), b"one\n")

    async with aclosing(workplace.follow("train.log", 5)) as chunks:
        seen = b""
        async with asyncio.timeout(30):
            async for chunk in chunks:
                seen += chunk
                if seen.endswith(b"one\n"):
                    break

    assert seen == b"one\n"


async def test_what_is_not_our_supervisor_gives_no_answer(workplace):
    await workplace.write("job.json", {})
    for asked in (workplace.examine("/bin/false"), workplace.start("/bin/false", {})):
        with pytest.raises(NoAnswer, match="exit code 1"):
            await asked


async def test_a_directory_where_nothing_was_started_is_not_alive(workplace):
    await workplace.write("job.json", {})
    python = sys.executable

    if workplace.is_home:  # elsewhere our code is not beside the job
        facts = await workplace.examine(python)

        assert not facts["alive"]


async def test_setup_lines_run_in_the_job_directory_and_name_the_one_that_fails(workplace):
    log = []
    await workplace.write("job.json", {})

    await workplace.run_lines(['echo "$WORD" >>made'], {"WORD": "hello"}, log.append)
    with pytest.raises(DependencyError, match="exit 3"):
        await workplace.run_lines(["echo before", "(exit 3)"], {}, log.append)

    assert await workplace.read("made") == b"hello\n"
    assert log == ["before"]


# Of places elsewhere ----------------------------------------------------------------------------


async def test_a_place_is_ready_armed_renewed_and_left_to_the_next_job(rented):
    ready = await rented.ready(ANY, LEASE)
    assert rented.folder == f"{ready.jobs}/one"
    assert ready.disk_free_gb > 0
    await rented.write("job.json", {})

    await rented.greet()
    await rented.renew(LEASE)
    assert await rented.read("lease") == b"600\n"

    await rented.vacate(60)
    assert await rented.listing("") == []
    assert text(Path(f"{ready.jobs}/../lease")) == "60\n"


async def test_a_place_with_too_small_a_disk_is_not_what_was_hired(rented):
    with pytest.raises(BootError, match="too small"):
        await rented.ready(Wanted(gpu_count=0, gpu_type=None, disk_gb=1e9), LEASE)


async def test_a_parcel_is_brought_once_and_refused_when_it_changes_meanwhile(rented, tmp_path):
    path, log = tmp_path / "rows.jsonl", []
    path.write_bytes(b'{"text": "one"}\n')
    parcel = parcel_of(path, key="0123")

    place = await rented.bring(parcel, log.append)
    again = await rented.bring(parcel, log.append)
    other = parcel_of(path, key="4567")
    path.write_bytes(b'{"text": "two"}\n')
    with pytest.raises(SourceChanged, match=r"dataset\.path: .*rows\.jsonl changed") as refused:
        await rented.bring(other, log.append)

    assert place == again
    assert place.endswith("/rows.jsonl")
    assert log[-2].startswith("uploading") or log[-1].startswith("uploading")
    assert any(line.endswith("is on the machine already") for line in log)
    assert refused.value.path == path


def parcel_of(path, *, key):
    facts = FileFacts(sha256=sha256_of(path), bytes=path.stat().st_size)
    return Parcel(
        field="dataset.path",
        path=path,
        name=path.name,
        key=key,
        files={"": path},
        facts={"": facts},
    )


def append(path, content):
    with path.open("ab") as stream:
        stream.write(content)


def text(path):
    return path.read_text()


async def test_a_place_says_how_much_room_its_disk_has(workplace, tmp_path):
    await workplace.write("status.json", {})

    room = await workplace.room()

    total, _, free = shutil.disk_usage(tmp_path)
    assert room.total == pytest.approx(total, rel=0.2)  # df leaves out what root keeps for itself
    assert room.free == pytest.approx(free, rel=0.1)
