"""What a machine of the local Google Cloud does by itself: run its script, and end in time."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.clouds.rented import TICK, Rented
from tests.clouds.shutdown import install_shutdown

if TYPE_CHECKING:
    from tests.clouds.gcp import GoogleCloud


async def lived(cloud: GoogleCloud, rented: Rented) -> None:
    """Run the script of a machine once it runs, and end it when it has run long enough."""
    while rented.started is None and rented.ended is None:
        await asyncio.sleep(TICK)
    itself = cloud.runs_first_words and not cloud.sshd_never
    off = None if itself else await asyncio.to_thread(_run_script, cloud, rented)
    duration = rented.facts["asked"].get("scheduling", {}).get("maxRunDuration")
    seconds = int(duration["seconds"]) * cloud.run_factor if duration else math.inf
    until = time.monotonic() + seconds
    while rented.ended is None and time.monotonic() < until:
        # Else whoever looks after its sshd sees that.
        if cloud.sshd_never and off is not None and off.exists():
            off.unlink()
            await cloud.power_off(rented)
        await asyncio.sleep(TICK)
    if rented.ended is None:  # with the disk, where the order says so
        deletes = rented.facts["asked"]["scheduling"]["instanceTerminationAction"] == "DELETE"
        await cloud.end(rented, cloud.lost_word, gone=deletes)


def stop_script(rented: Rented) -> None:
    """End what the script of a machine has left running."""
    if run := rented.facts.pop("script", None):
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def _run_script(cloud: GoogleCloud, rented: Rented) -> Path | None:
    """Start the script as root would at the first boot; return where a shutdown is noted."""
    items = rented.facts["asked"].get("metadata", {}).get("items", [])
    script = next((one["value"] for one in items if one["key"] == "startup-script"), "")
    folder = cloud.folder / rented.id
    with rented.lock:
        if not script or rented.ended is not None:
            return None
        for name in ("bin", "home"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        off = install_shutdown(folder)
        environment = {
            "HOME": str(folder / "home"),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            **cloud.environment(rented),
        }
        rented.facts["script"] = subprocess.Popen(
            ["sh", "-c", script], env=environment, start_new_session=True
        )
    return off
