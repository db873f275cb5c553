"""A receiver of metrics and alerts that is down for the first half of a run.

    moody_platform.py PORT FILE METRICS STEPS

It refuses connections until METRICS has STEPS lines, and then listens; FILE gets a line per step
that it took. See bench_reporting.
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

LOOK_SECONDS = 0.5


class Handler(BaseHTTPRequestHandler):
    """Takes everything, and notes the steps."""

    def do_POST(self) -> None:
        """Note the steps and say yes."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with Path(sys.argv[2]).open("a") as stream:
            stream.writelines(f"{point['step']}\n" for point in body.get("metrics", []))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main(port: int, metrics: Path, steps: int) -> None:
    """Be down until the run is half over, then up."""
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < steps:
        time.sleep(LOOK_SECONDS)
    HTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[3]), int(sys.argv[4]))
