"""What a hostile machine sends is refused, and costs no memory."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pickle
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.execute import create_run
from flows.reporting.report import seconds_trained
from flows.run_folder import RunFolder
from flows.streaming import metrics_tail
from flows.streaming.board import MAKERS
from flows.streaming.file_mirror import mirror_file
from flows.streaming.log_shipper import LINE_CHARACTERS, ship_rest
from flows.streaming.metrics_tail import MetricsTail
from flows.streaming.outputs import fetch_output
from tests.faults.hostile import HEADER, WEIGHTS
from tests.faults.hostile_data.data_trouble import MB
from tests.flows.flow_runs import make_job, shipped_lines
from trainer.contract.errors import DiskFull, IntegrityError
from trainer.contract.job_directory import JobState
from trainer.contract.manifest import MANIFEST, write_manifest
from trainer.contract.metrics import read_metrics


def everything(folder):
    """Return all that is in a folder."""
    return {str(path) for path in folder.rglob("*")}


# 37 and 38: what a manifest may say.

SHA = "0" * 64


SMALL = {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}


MANIFESTS = {
    "missing": (None, f"{MANIFEST} is missing on the machine"),
    "no JSON": ("{", "cannot be read"),
    "deep": ("[" * 100_000, "cannot be read"),
    "a list": ([], "is not a manifest"),
    "lying": ({"files": {WEIGHTS: {"bytes": 3, "sha256": SHA}}}, WEIGHTS),
    "upwards": ({"files": {"../../etc/passwd": SMALL}}, r"'\.\./\.\./etc/passwd' is not the name"),
    "upwards within": ({"files": {"a/../../b": SMALL}}, "is not the name"),
    "absolute": ({"files": {"/tmp/evil": SMALL}}, "'/tmp/evil' is not the name"),
    "a dot": ({"files": {".": SMALL}}, "is not the name"),
    "a folder": ({"files": {"a/": SMALL}}, "is not the name"),
    "itself": ({"files": {MANIFEST: SMALL}}, "is not the name"),
    "a NUL": ({"files": {"a\0b": SMALL}}, "is not the name"),
    "a line break": ({"files": {"a\nb": SMALL}}, "is not the name"),
    "an escape": ({"files": {"\x1b[2J": SMALL}}, "is not the name"),
    "half a character": ('{"files": {"\\ud800": {"bytes": 3, "sha256": ""}}}', "is not the name"),
    "too long": ({"files": {"x" * 300: SMALL}}, "is not the name"),
    "file and folder": ({"files": {WEIGHTS: SMALL, f"{WEIGHTS}/b": SMALL}}, "a file and a folder"),
    "words for a size": ({"files": {WEIGHTS: {"bytes": "3", "sha256": SHA}}}, "nothing usable"),
    "less than nothing": ({"files": {WEIGHTS: {"bytes": -9, "sha256": SHA}}}, "nothing usable"),
    "too many files": ({"files": {f"f{n}": 0 for n in range(150_000)}}, "is not a manifest"),
    "a terabyte": ({"files": {WEIGHTS: {"bytes": 10**15, "sha256": SHA}}}, f"has {10**15} bytes"),
}


@pytest.mark.fault(37, "hostile manifest")
@pytest.mark.parametrize(
    "name",
    [n if n == "upwards" else pytest.param(n, marks=pytest.mark.thorough) for n in MANIFESTS],
)
async def test_a_hostile_manifest_is_refused_by_name_and_nothing_is_written_outside(
    hostile, arriving, tmp_path, name
):
    manifest, words = MANIFESTS[name]
    hostile.write_output()
    if manifest is None:
        (hostile.output / MANIFEST).unlink()
    else:
        hostile.tell(manifest)
    arriving.mkdir(parents=True)
    before = everything(tmp_path) - everything(hostile.workspace)

    with pytest.raises((IntegrityError, DiskFull), match=words):
        await asyncio.wait_for(fetch_output(hostile.workplace, arriving), 60)

    outside = everything(tmp_path) - everything(hostile.workspace) - everything(arriving)
    assert outside <= before | {str(arriving)}
    assert everything(arriving) <= {str(arriving / MANIFEST)}


@pytest.mark.thorough
@pytest.mark.fault(37, "hostile manifest")
@pytest.mark.parametrize("kind", ["device", "fifo", "folder", "endless manifest"])
async def test_what_is_no_plain_file_is_refused(hostile, arriving, kind):
    hostile.write_output()
    target = hostile.output / (MANIFEST if kind == "endless manifest" else WEIGHTS)
    target.unlink()
    match kind:
        case "device":
            target.symlink_to("/dev/zero")
        case "fifo":
            os.mkfifo(target)
        case "folder":
            target.mkdir()
        case "endless manifest":
            target.touch()
            os.truncate(target, 1 << 40)

    with pytest.raises(IntegrityError, match=f"{target} (is not a plain file|has .* bytes, more)"):
        await asyncio.wait_for(fetch_output(hostile.workplace, arriving), 60)


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch /tmp/was-here",)


PICKLE = pickle.dumps(Evil())


@pytest.mark.fault(38, "pickle for safetensors")
@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        *(
            pytest.param(name, marks=pytest.mark.thorough)
            for name in ("adapter.PT", "x.pth", "a.pkl", "training_args.bin", "m.ckpt", "m.pickle")
        ),
    ],
)
async def test_an_output_with_a_pickle_is_refused_before_any_of_it_comes(hostile, arriving, name):
    hostile.write_output(**{name: PICKLE})

    with pytest.raises(IntegrityError, match=f"holds '{name}', a pickle"):
        await fetch_output(hostile.workplace, arriving)

    assert [path.name for path in arriving.iterdir()] == [MANIFEST]


@pytest.mark.thorough
@pytest.mark.fault(38, "pickle for safetensors")
@pytest.mark.parametrize(
    "weights",
    [PICKLE, b"", (10**6).to_bytes(8, "little") + HEADER],
    ids=["pickle", "empty", "torn"],
)
async def test_weights_that_are_no_safetensors_are_refused(hostile, arriving, weights):
    hostile.write_output()
    (hostile.output / WEIGHTS).write_bytes(weights)
    write_manifest(hostile.output)

    with pytest.raises(IntegrityError, match=f"{WEIGHTS} is not a safetensors file"):
        await fetch_output(hostile.workplace, arriving)


PLANT = """
import json, os, pathlib, signal, sys, time
from contextlib import suppress
sys.path[:0] = [{packages!r}]
from trainer.contract.manifest import write_manifest
output = pathlib.Path("output")
pathlib.Path("planted").touch()
def signalled(number):
    status = json.loads(pathlib.Path("status.json").read_text())
    for pid in (status["pid"], status["trainer_pid"]):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
while not (output / "MANIFEST.json").exists():
    time.sleep(0.002)
signalled(signal.SIGSTOP)  # nobody shall tell that it is completed before it is spoilt
(output / "optimizer.pt").write_bytes(b"evil")
write_manifest(output)
signalled(signal.SIGCONT)
"""


@pytest.mark.thorough
@pytest.mark.fault(38, "pickle for safetensors")
async def test_a_run_whose_machine_adds_a_pickle_fails_and_keeps_no_artifact(
    scene, survived, tmp_path
):
    plant = tmp_path / "plant.py"
    plant.write_text(PLANT.format(packages=str(Path(__file__).parents[3])))
    # What still belongs to the setup when that ends is ended with it.
    plants = f"setsid python {plant} </dev/null >plant.log 2>&1 &"
    waits = "until [ -e planted ]; do sleep 0.05; done"
    run = await scene.run(scene.job(setup=[plants, waits]))
    scene.injected(run)

    await survived(run, JobState.FAILED, r"^IntegrityError: The output holds 'optimizer\.pt'")
    folder = RunFolder(run.id)
    assert not folder.artifact("small", None).exists()
    assert not folder.rescued.exists()


# 39: the log.


def growth(process, before):
    return (process.memory_info().rss - before) / MB


async def mirrored(hostile, run):
    """Bring a log home as the flow does, and return how many MB of memory that took at most."""
    process = psutil.Process()
    before, most = process.memory_info().rss, 0.0
    source = hostile.workspace / "train.log"
    size = source.stat().st_size
    run.log.touch()
    mirroring = asyncio.ensure_future(mirror_file(hostile.workplace, "train.log", run.log))
    while run.log.stat().st_size < size:
        assert not mirroring.done()
        await asyncio.sleep(0.02)
        most = max(most, growth(process, before))
    mirroring.cancel()
    await asyncio.gather(mirroring, return_exceptions=True)
    shipping = asyncio.ensure_future(ship_rest(run.run_id, run))
    while not shipping.done():
        await asyncio.sleep(0.02)
        most = max(most, growth(process, before))
    await shipping
    return most


@pytest.fixture
async def run(prefect_api):
    return RunFolder((await create_run(make_job())).id)


@pytest.mark.thorough
@pytest.mark.fault(39, "hostile log")
async def test_a_log_of_200_megabytes_costs_no_memory(hostile, run):
    hostile.workspace.mkdir(parents=True)
    log = hostile.workspace / "train.log"
    with log.open("wb") as stream:
        stream.truncate(150 * MB)
        stream.seek(0, os.SEEK_END)
        for number in range(400_000):
            stream.write(
                b"step %d loss 1.0 and so on, for a hundred and more characters\n" % number
            )

    most = await mirrored(hostile, run)

    assert most < 100
    assert run.log.stat().st_size == log.stat().st_size
    with run.log.open("rb") as here, log.open("rb") as there:
        assert (
            hashlib.file_digest(here, "md5").digest() == hashlib.file_digest(there, "md5").digest()
        )


@pytest.mark.thorough
@pytest.mark.fault(39, "hostile log")
async def test_a_log_of_rubbish_is_kept_as_it_is_and_shown_harmless(hostile, run):
    hostile.workspace.mkdir(parents=True)
    rubbish = (
        b"\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J\n"
        + b"\xff\xfe\x00\x80 not UTF-8\n"
        + b"bar 1%\rbar 2%\rbar 100%\n"
        + b"x" * (20 * MB)
        + b"\n"
        + bytes(range(256))
        + b"\nno line break at the end"
    )
    (hostile.workspace / "train.log").write_bytes(rubbish)

    most = await mirrored(hostile, run)

    assert run.log.read_bytes() == rubbish
    lines = await shipped_lines(run.run_id)
    assert lines[-1] == "no line break at the end"
    assert {"bar 100%"} <= set(lines)
    assert not any(c in line for line in lines for c in ("\x1b", "\0", "\r", "\x07", "\x7f"))
    assert max(map(len, lines)) <= LINE_CHARACTERS + 10
    assert most < 100


# 40: the metrics.

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.integers(-(10**400), 10**400),
    st.lists(st.integers(), max_size=2),
)


NAMES = st.sampled_from(
    ["step", "total_steps", "train_loss", "eval_loss", "timestamp", "eta_seconds", "epoch", "x"]
)


RECORDS = st.dictionaries(NAMES, VALUES).map(lambda row: json.dumps(row).encode())


@pytest.mark.fault(40, "hostile metrics")
@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(RECORDS, st.binary(max_size=40)), max_size=12))
def test_metrics_of_any_kind_are_shown_or_passed_over(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("metrics")
    path = folder / "metrics.jsonl"
    path.write_bytes(b"\n".join([*lines, b'{"step": 3, "train_loss": 2.0}', b""]))
    tail = MetricsTail(path)

    assert tail.read_new()

    for make in MAKERS.values():
        make(tail.steps)
    steps, skipped = read_metrics(path)
    assert steps[3] == tail.steps[3]
    assert skipped >= 0
    assert seconds_trained(steps) >= 0


@pytest.mark.thorough
@pytest.mark.fault(40, "hostile metrics")
def test_lines_without_number_and_one_without_end_cost_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_tail, "MOST_STEPS", 20_000)
    path = tmp_path / "metrics.jsonl"
    with path.open("wb") as stream:
        for number in range(150_000):
            stream.write(b'{"step": %d, "train_loss": 1.5}\n' % number)
        stream.write(b"x" * (64 * MB))
        stream.write(b'\n{"step": 1000001, "train_loss": 1.0}\n{"step": 1000002, "tr')
    process = psutil.Process()
    before = process.memory_info().rss
    tail = MetricsTail(path)

    assert tail.read_new()

    assert growth(process, before) < 40
    assert max(tail.steps) == 1000001
    assert len(tail.steps) <= 20_000
    assert tail.skipped >= 1
    for make in MAKERS.values():
        make(tail.steps)
