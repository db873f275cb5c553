"""The gateway's metrics store and its streams.

store    values appended in posts of 20 steps by ten jobs at once, per CPU-second of this process;
         bytes a value on disk, levels included; 20 whole curves of 10,000 points when 100,000,000
         values are stored (of 1,000 jobs, each of 10 metrics).
streams  `trainctl serve` with a Prefect server: 1,000 WebSocket readers of 20 jobs, each of which
         writes a line of metrics a second; from the line to its reader. And one client that never
         reads among 50: how late the others are, and after how long it is closed.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import Place, conclude, fail, options, place, wait_until
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

HERE = Path(__file__).parent
METRICS, POINTS, CURVES = 10, 10_000, 20
READERS, JOBS, SECONDS = 1000, 20, 20
MEASURED = 100_000
"""Steps from here on are measured; see `gateway_readers`."""
HISTORY = 30_000  # steps: 8 MB of messages, more than any kernel holds for a client


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "", rounds=1, jobs=1000, readers=READERS)
    if given.quick:
        given.jobs, given.readers = 20, 60
    with place() as here:
        os.environ.update(here.environment)
        asyncio.run(store(given.jobs))
        streams(here, given.readers)


async def store(jobs: int) -> None:
    """Measure the store."""
    from gateway.database.engine import database_url, make_engine
    from gateway.database.upgrading import upgrade
    from gateway.metrics.store import MetricsStore

    engine = make_engine()
    await upgrade(engine)
    found = MetricsStore(engine)
    cpu = time.process_time()
    await asyncio.gather(*(_report(found, f"job-{n}") for n in range(10)))
    rate = 10 * METRICS * POINTS / (time.process_time() - cpu)
    print(f"{rate:,.0f} values a CPU-second")
    for n in range(10, min(jobs, 20)):
        await found.append(f"job-{n}", list(_records(n)))
    await _copy(engine, jobs)
    size = _size(str(database_url().database)) / (jobs * METRICS * POINTS)
    keys = [(f"job-{n}", "m0") for n in range(0, jobs, max(1, jobs // CURVES))][:CURVES]
    times = []
    for _ in range(10):
        began = time.perf_counter()
        curves = await found.curves(keys)
        times.append(time.perf_counter() - began)
    if {len(curve.steps) for curve in curves} != {POINTS} or len(curves) != CURVES:
        fail("The curves are not whole.")
    worst = 1000 * max(times)
    print(f"{jobs * METRICS * POINTS:,} values; 20 curves: at worst {worst:.1f} ms")
    await found.close()
    await engine.dispose()
    conclude("values_per_cpu_second_over_40000", rate / 40_000, ">=", 1)
    conclude("bytes_per_value", size, "<=", 6)
    conclude("20_curves_over_100_ms", worst / 100, "<=", 1)


def _size(path: str) -> int:
    return Path(path).stat().st_size


async def _report(store: Any, job: str) -> None:
    records = list(_records(int(job[4:])))
    for at in range(0, POINTS, 20):
        await store.append(job, records[at : at + 20])


def _records(seed: int) -> Iterator[dict[str, Any]]:
    """Yield records as of a training: noisy, smooth, rising and constant ones."""
    draw = np.random.default_rng(seed).normal(size=(POINTS, METRICS))
    for n in range(POINTS):
        values = {f"m{k}": float(np.float32(2 + draw[n, k])) for k in range(5)}
        smooth = {"m5": 2e-4 * (1 - n / POINTS), "m6": round(n / 300, 4), "m7": 22.13}
        rounded = {f"m{k}": round(float(9 + draw[n, k]), 3) for k in (8, 9)}
        yield {"step": 10 * n, **values, **smooth, **rounded}


async def _copy(engine: AsyncEngine, jobs: int) -> None:
    """Give further jobs the curves of those that there are, row by row."""
    async with engine.begin() as connection:
        series = (await connection.execute(text("SELECT max(id) FROM metric_series"))).scalar_one()
        there = (await connection.execute(text("SELECT max(id) FROM metric_job"))).scalar_one()
        for times in range(1, math.ceil(jobs / there)):
            shift = {"s": times * series, "j": times * there}
            for statement in (
                "INSERT INTO metric_job SELECT id + :j, 'job-' || (id + :j - 1), followed, revision,"
                " updated FROM metric_job WHERE id <= :there",
                "INSERT INTO metric_series SELECT id + :s, job_id + :j, name FROM metric_series"
                " WHERE id <= :series",
                "INSERT INTO metric_chunk SELECT series_id + :s, first_step, points, hundreds, tens, ones"
                " FROM metric_chunk WHERE series_id <= :series",
            ):
                values = {"there": there, "series": series, **shift}
                wanted = {k: v for k, v in values.items() if f":{k}" in statement}
                await connection.execute(text(statement), wanted)
    async with engine.connect() as connection:
        await connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))


def streams(here: Place, readers: int) -> None:
    """Measure the streams of a service."""
    here.prefect_server()
    from prefect import flow, get_client

    from flows.run_folder import RunFolder

    @flow(name="train")
    def train() -> None:
        """Stands for the training flow."""

    async def runs() -> list[RunFolder]:
        async with get_client() as client:
            return [RunFolder((await client.create_flow_run(train)).id) for _ in range(JOBS + 1)]

    folders = asyncio.run(runs())
    port = _free_port()
    service = here.start([sys.executable, "-m", "gateway", "serve", "--port", port], "serve.log")
    wait_until(lambda: _listens(port) or service.must_live(), 180)
    print(f"{readers} readers of {JOBS} jobs")
    many = _read(here, port, readers, folders[:JOBS], _a_line_a_second)
    memory = psutil.Process(service.process.pid).memory_full_info().pss / (1 << 20)
    print(f"{many}, {memory:.0f} MiB")
    conclude("metric_to_reader_p99_seconds", many["p99"], "<=", 1)
    conclude("memory_over_500_mib", memory / 500, "<=", 1)
    lazy = Lazy(port, folders[JOBS].run_id)
    _write_history(folders[JOBS], port)
    others = _read(here, port, 49, folders[JOBS:], lazy.ask_and_write)
    closed = lazy.closed_after()
    print(f"{others}; the one that does not read was closed after {closed:.1f} s")
    conclude("others_p99_over_100_ms", others["p99"] / 0.1, "<=", 1)
    conclude("unread_closed_over_15_s", closed / 15, "<=", 1)


def _read(here: Place, port: int, readers: int, folders: list[Any], write: Any) -> dict[str, Any]:
    """Let readers watch while `write` writes; return what they saw."""
    ids = [folder.run_id for folder in folders]
    words = [sys.executable, HERE / "gateway_readers.py", port, SECONDS + 5, readers, *ids]
    name = f"readers-{readers}.log"
    process = here.start(words, name)
    wait_until(lambda: "ready" in process.log.read_text() or process.must_live(), 180)
    write(folders)
    facts: dict[str, Any] = json.loads(process.finished().splitlines()[-1])
    if facts["ended"]:
        fail(f"{facts['ended']} readers were closed.")
    return facts


def _a_line_a_second(folders: list[Any]) -> None:
    until = time.monotonic() + SECONDS
    step = MEASURED
    while time.monotonic() < until:
        for folder in folders:
            _write(folder, step, train_loss=1 / step, learning_rate=2e-4, grad_norm=0.5)
            time.sleep(1 / len(folders))
        step += 1


def _write(folder: Any, step: int, **values: float) -> None:
    record = {"step": step, "sent": time.time(), **values}
    with folder.metrics.open("a") as stream:
        stream.write(json.dumps(record) + "\n")


def _write_history(folder: Any, port: int) -> None:
    """Write what there was before, and wait until the service has it."""
    with folder.metrics.open("a") as stream:
        for step in range(HISTORY):
            record = {"step": step, **{f"metric_{n}": step / (n + 3) for n in range(10)}}
            stream.write(json.dumps(record) + "\n")
    address = f"http://127.0.0.1:{port}/metrics"

    def stored() -> bool:
        with urllib.request.urlopen(address, timeout=30) as answer:
            text = answer.read().decode()
        found = re.search(r"metric_points_total (\S+)", text)
        return found is not None and float(found[1]) >= 10 * HISTORY

    wait_until(stored, 180, every=1)


class Lazy:
    """A client that asks for a stream and never reads it."""

    def __init__(self, port: int, job: str) -> None:
        self._port, self._job = port, job
        self._asked = 0.0
        self._closed = 0.0

    def ask_and_write(self, folders: list[Any]) -> None:
        """Ask for all that there was, and then write 20 small lines a second."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", self._port))
        client.sendall(
            f"GET /ws/training/jobs/{self._job}?after=0 HTTP/1.1\r\nHost: localhost\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        self._asked = time.monotonic()
        watching = threading.Thread(target=self._watch, args=[client.getsockname()[1]])
        watching.start()
        until = time.monotonic() + SECONDS - 2
        step = MEASURED
        while time.monotonic() < until:
            _write(folders[0], step, train_loss=1.0)
            step += 1
            time.sleep(0.05)
        watching.join()
        client.close()

    def closed_after(self) -> float:
        """Return after how many seconds the service had ended its connection."""
        return self._closed - self._asked if self._closed else math.inf

    def _watch(self, port: int) -> None:
        while time.monotonic() < self._asked + SECONDS:
            states = {
                each.status
                for each in psutil.net_connections("tcp")
                if each.laddr and each.laddr.port == self._port
                if each.raddr and each.raddr.port == port
            }
            # The service's end: not established any more once it has closed it.
            if "ESTABLISHED" not in states:
                self._closed = time.monotonic()
                return
            time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
