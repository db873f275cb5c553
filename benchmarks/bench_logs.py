"""A noisy log: 2,000 lines a second for a minute, from a file on the machine into Prefect.

A process writes the lines; a flow in another mirrors and ships them, as the training flow does;
this one asks Prefect's API again and again for what is new. A line's lag is the time from its
writing until an answer of the API held it, so it includes the asking (5 times a second).
Every line must arrive, once and in order, or this fails.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from common import Place, conclude, fail, options, place, wait_until

ALLOWED_SECONDS = 2.0  # the lag at which the ratio is 1
POLL_SECONDS = 0.2
PAGE = 200
HERE = Path(__file__).parent


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "", rounds=1, rate=2000, seconds=60.0)
    seconds = 5.0 if given.quick else given.seconds
    with place() as here:
        url = here.prefect_server()
        tails = [flooded(here, url, given.rate, seconds, number) for number in range(given.rounds)]
    conclude("log_lag", statistics.median(tails) / ALLOWED_SECONDS, "<=", 1.0)


def flooded(here: Place, url: str, rate: int, seconds: float, number: int) -> float:
    """Ship one log, print what came of it, and return the 99th percentile of the lags."""
    folder = here.folder / f"noisy-{number}"
    folder.mkdir()
    source, result = folder / "train.log", folder / "result.json"
    source.touch()
    shipping = here.start([sys.executable, HERE / "shipping.py", source, result], "shipping.log")
    run = wait_until(lambda: read(result.with_suffix(".run")) or shipping.must_live(), 120)
    flood = here.start([sys.executable, HERE / "flood.py", source, rate, seconds], "flood.log")

    reader = Reader(url, run)
    while shipping.process.poll() is None:
        if flood.process.poll() is not None:
            source.with_suffix(".done").touch()
        reader.read_new()
        time.sleep(POLL_SECONDS)
    flood.finished()
    shipping.finished()
    reader.read_new()

    cost = json.loads(result.read_text())
    tell(source.read_text().splitlines(), reader, cost)
    return percentile(reader.lags, 99)


class Reader:
    """Reads a run's log from Prefect's API as it grows, and notes when it saw each line."""

    def __init__(self, url: str, run_id: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=60)
        self._run_id = run_id
        self._after = datetime(1970, 1, 1, tzinfo=UTC)
        self.lines: list[str] = []
        self.lags: list[float] = []
        self.records = 0

    def read_new(self) -> None:
        """Ask for the records after the last one seen, page by page."""
        while True:
            page = self._page()
            seen = time.time()
            for record in page:
                if record["name"] != "train.log":
                    continue
                lines = record["message"].split("\n")
                self.records += 1
                self.lines += lines
                self.lags += [seen - float(line.split(" ", 2)[1]) for line in lines]
            if page:
                last = datetime.fromisoformat(page[-1]["timestamp"])
                self._after = last + timedelta(microseconds=1)
            if len(page) < PAGE:
                return

    def _page(self) -> list[dict[str, Any]]:
        wanted = {
            "flow_run_id": {"any_": [self._run_id]},
            "timestamp": {"after_": self._after.isoformat()},
        }
        answer = self._client.post(
            "/logs/filter", json={"logs": wanted, "limit": PAGE, "sort": "TIMESTAMP_ASC"}
        )
        answer.raise_for_status()
        page: list[dict[str, Any]] = answer.json()
        return page


def tell(written: list[str], reader: Reader, cost: dict[str, Any]) -> None:
    """Print the figures; end the benchmark when a line is missing, doubled or out of order."""
    lags = reader.lags
    print(f"lines written      {len(written):,}")
    print(f"lines in Prefect   {len(reader.lines):,} in {reader.records:,} records")
    if reader.lines != written:
        pairs = zip(reader.lines, written, strict=False)
        first = next((n for n, (got, sent) in enumerate(pairs) if got != sent), "the end")
        fail(f"The log in Prefect is not the log that was written; it differs at line {first}.")
    print(
        f"lag                p50 {percentile(lags, 50):.2f} s, p99 {percentile(lags, 99):.2f} s, "
        f"max {max(lags):.2f} s"
    )
    share = 100 * cost["cpu"] / cost["wall"]
    print(f"flow process       {share:.0f} % of a core, peak {cost['peak_kib'] / 1024:.0f} MiB")


def percentile(values: list[float], rank: int) -> float:
    """Return a percentile; `rank` is 1 to 99."""
    return statistics.quantiles(values, n=100)[rank - 1]


def read(path: Path) -> str:
    """Return a file's text, or nothing while there is no file."""
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    main()
