"""The meter while this computer sleeps: the machine is billed on."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys

import pytest

HOURS_8 = 8 * 3600
# A namespace of the kernel in which eight hours have passed since the computer was started, of
# which it was awake for none: what a laptop finds when its lid is opened in the morning.
ASLEEP = ["unshare", "--time", "--boottime", str(HOURS_8)]
METER = (
    "import sys; from flows.renting.journal import Journal; from flows.run_folder import RunFolder;"
    "[hire] = Journal.of(RunFolder(sys.argv[1])).hires; print(hire.seconds());"
    # As whoever looks at the machine does when the provider says that it is there.
    "hire.exists(); print(hire.seconds(), hire.cost())"
)


def can_sleep() -> bool:
    return bool(shutil.which("unshare")) and not subprocess.run([*ASLEEP, "true"]).returncode


@pytest.mark.fault(66, "the computer sleeps")
@pytest.mark.skipif(not can_sleep(), reason="needs root and namespaces of time")
async def test_the_hours_that_the_computer_slept_are_billed(hunt):
    await hunt.machine()
    price = hunt.journal.hires[0].price_per_hour

    process = await asyncio.create_subprocess_exec(
        *(*ASLEEP, sys.executable, "-c", METER, hunt.run.run_id), stdout=asyncio.subprocess.PIPE
    )
    before, seconds, cost = map(float, (await process.communicate())[0].split())

    # It may have ended itself long ago: until somebody has looked, no longer counts than that.
    assert before < 3600
    assert seconds == pytest.approx(HOURS_8, abs=120)
    assert cost == pytest.approx(8 * price, rel=0.01)
    await hunt.over()
