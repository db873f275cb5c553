"""Time and memory of `trainctl --help`, and of the process of a local job before it trains.

Each is a process of its own, measured in turns with what it cannot do without: `import typer` for
the help, `import prefect` with its flows for the job. The largest resident memory and the user and
system time count. No library of a cloud may be among the modules.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import NamedTuple

from common import conclude, fail, median, options, spread

SDKS = ("boto3", "botocore", "google.auth", "azure", "obstore", "requests")
ENDS = f"""
import json, resource
sys.stdout = sys.__stdout__
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024,
                  [name for name in {SDKS!r} if name in sys.modules]]))
"""
HELP = """
import io
sys.argv, sys.stdout = ["trainctl", "--help"], io.StringIO()
from gateway.cli import main
try:
    main()
except SystemExit:
    pass
"""
JOB = """
import flows.train, flows.execute
from blocks.registry import provider_class
provider_class("local")()
"""
PROGRAMS = {
    "import typer": "import typer, typer.rich_utils",
    "trainctl --help": HELP,
    "import prefect": "import prefect, prefect.flows, prefect.tasks, prefect.blocks.core",
    "a local job": JOB,
}
PAIRS = {
    "help": ("trainctl --help", "import typer"),
    "local_job": ("a local job", "import prefect"),
}
MOST = {"help": (1.7, 1.4), "local_job": (2.0, 1.4)}
"""How many times the time and the memory of its reference each may take."""


class Took(NamedTuple):
    """What one process took."""

    seconds: float
    megabytes: float


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "", rounds=5)
    took: dict[str, list[Took]] = {name: [] for name in PROGRAMS}
    for _ in range(given.rounds + 1):
        for name, program in PROGRAMS.items():
            took[name].append(measured(name, program))
    for rows in took.values():
        del rows[0]  # byte code is compiled, and files are read from the disk
    for name, rows in took.items():
        times, sizes = [row.seconds for row in rows], [row.megabytes for row in rows]
        print(f"{name:<20}{spread(times)}  {spread(sizes, 'MB')}", flush=True)
    for name, (ours, reference) in PAIRS.items():
        for part, most in zip(Took._fields, MOST[name], strict=True):
            ratio = middle(took[ours], part) / middle(took[reference], part)
            conclude(f"import_{name}_{part}", ratio, "<=", most)


def measured(name: str, program: str) -> Took:
    """Run a program in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}\n{ENDS}"],
        env={**os.environ, "PREFECT_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        fail(f"{name}: {done.stderr[-500:]}")
    seconds, megabytes, found = json.loads(done.stdout.splitlines()[-1])
    if found:
        fail(f"{name} imports {', '.join(found)}")
    return Took(seconds, megabytes)


def middle(rows: list[Took], part: str) -> float:
    """Return the median of one of the two."""
    return median([getattr(row, part) for row in rows])


if __name__ == "__main__":
    main()
