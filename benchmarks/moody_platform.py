"""A receiver of metrics and alerts that is down half of the time: `moody_platform.py PORT FILE SECONDS`.

It refuses connections for SECONDS, then listens for as long, and so on; FILE gets a line per step
that it took. See bench_reporting.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


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


def main(port: int, seconds: float) -> None:
    """Be down, be up, and again."""
    while True:
        time.sleep(seconds)
        with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
            server.daemon_threads = False  # what is being taken is taken whole
            threading.Timer(seconds, server.shutdown).start()
            server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[3]))
