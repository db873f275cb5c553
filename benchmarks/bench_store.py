"""Upload and download of 1 GiB in 50 files, against boto3's transfer manager, on a fast local sink.

Each way is a process of its own, in turns: `ours`, verified by SHA-256 before it is sent and while it is
read; `boto3`, verified as much: SHA-256 on the way up, and of what came down; and `aws s3 cp`, the same
transfer manager as that command sets it up, which compares a CRC on the way up. Speed and CPU are the
medians; the sink is a process of its own and counts for none. Files lie in memory (/dev/shm) where
there is room.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import conclude, median, options

from blocks.stores.opening import open_bucket
from blocks.stores.store import Store
from trainer.contract.files import sha256_of
from trainer.contract.manifest import read_manifest, write_manifest

FILES = 50
MIB = 21  # of each file: 1050 in all
WAYS = ("ours", "boto3", "aws s3 cp")
BUCKET, NAME = "bench", "runs/bench/output"
Figures = dict[str, dict[str, float]]


def main() -> None:
    """Measure and print."""
    if len(sys.argv) == 4 and sys.argv[1] in WAYS:
        one(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
        return
    given = options(__doc__ or "", rounds=5)
    shared = Path("/dev/shm")  # noqa: S108
    room = shared.is_dir() and shutil.disk_usage(shared).free > 4 << 30
    found: dict[str, list[Figures]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(dir=shared if room else None) as folder:
        source = Path(folder) / "source"
        made(source)
        for _ in range(given.rounds):
            for way in WAYS:
                found[way].append(measured(way, source, Path(folder) / "back"))
    for way, figures in found.items():
        for direction in ("up", "down"):
            speed = median([FILES * MIB / each[direction]["seconds"] for each in figures])
            cpu = median([each[direction]["cpu"] for each in figures])
            print(f"{way:<10} {direction:<5}{speed:6.0f} MiB/s {cpu:5.2f} s of CPU", flush=True)
    for other in WAYS[1:]:
        for direction in ("up", "down"):
            name = f"store_{direction}_against_{other.replace(' ', '_')}"
            conclude(
                f"{name}_speed", ratio(found[other], found["ours"], direction, "seconds"), ">=", 1.2
            )
            conclude(f"{name}_cpu", ratio(found["ours"], found[other], direction, "cpu"), "<=", 0.8)


def ratio(above: list[Figures], below: list[Figures], direction: str, figure: str) -> float:
    """Return the ratio of two medians."""
    top, bottom = (median([each[direction][figure] for each in some]) for some in (above, below))
    return top / bottom


def made(folder: Path) -> None:
    """Make the files, and a manifest of them."""
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number:02}").write_bytes(os.urandom(MIB << 20))
    write_manifest(folder)


def measured(way: str, source: Path, back: Path) -> Figures:
    """Return what one way takes, with a sink and a process of its own."""
    sink = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("store_sink.py")],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert sink.stdout is not None
        environment = {
            **os.environ,
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{sink.stdout.readline().strip()}",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_REGION": "us-east-1",
        }
        back.mkdir()
        command = [sys.executable, __file__, way, source, back]
        output = subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        )
        assert all(
            (back / name).stat().st_size == MIB << 20 for name in read_manifest(source)["files"]
        )
        return dict(json.loads(output.stdout))
    finally:
        shutil.rmtree(back)
        sink.kill()
        sink.communicate()


def one(way: str, source: Path, back: Path) -> None:
    """Carry the files there and back, and print what it took."""
    up, down = by_ours(source, back) if way == "ours" else by_boto3(way, source, back)
    print(json.dumps({"up": clocked(up), "down": clocked(down)}))


def clocked(work: Callable[[], None]) -> dict[str, float]:
    """Return the seconds, and the CPU seconds of this process, that some work takes."""
    before, cpu = time.perf_counter(), _cpu()
    work()
    return {"seconds": time.perf_counter() - before, "cpu": _cpu() - cpu}


def by_ours(source: Path, back: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return what this product does."""
    store = Store(asyncio.run(open_bucket(f"s3://{BUCKET}")))

    def up() -> None:
        asyncio.run(store.put_folder(source, NAME))

    def down() -> None:
        asyncio.run(store.get_folder(NAME, back))

    return up, down


def by_boto3(way: str, source: Path, back: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return what boto3's transfer manager does, set up as `aws s3 cp` does, or verified as ours is."""
    import boto3
    from botocore.config import Config
    from s3transfer.manager import TransferManager

    verified = way == "boto3"
    names = read_manifest(source)["files"]
    manager = TransferManager(boto3.client("s3", config=Config(max_pool_connections=10)))
    more = {"ChecksumAlgorithm": "SHA256"} if verified else {}

    def up() -> None:
        sent = [manager.upload(str(source / name), BUCKET, name, extra_args=more) for name in names]
        for future in sent:
            future.result()

    def down() -> None:
        for future in [manager.download(BUCKET, name, str(back / name)) for name in names]:
            future.result()
        if verified:
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                hashes = pool.map(lambda name: sha256_of(back / name), names)
            assert [names[name]["sha256"] for name in names] == list(hashes)

    return up, down


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
