"""python -m trainer.courier JOBDIR NAME: carry out one order, in a process that outlives this one."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from trainer.contract.errors import OrchestratorError
from trainer.contract.own_python import own_python
from trainer.courier.orders import FOLDER, carry_out, take

NICE = 10  # training comes first


def main(arguments: list[str] | None = None) -> int:
    """Start to carry out an order, or carry it out; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainer.courier", description=__doc__)
    parser.add_argument("job_directory", type=Path, metavar="JOBDIR")
    parser.add_argument("name", help="of the order: JOBDIR/store/NAME.json")
    parser.add_argument("--foreground", action="store_true", help="until it is carried out")
    options = parser.parse_args(arguments)
    job: Path = options.job_directory.resolve()
    if not options.foreground:
        command = own_python("-m", "trainer.courier", str(job), options.name, "--foreground")
        with (job / FOLDER / "courier.log").open("ab") as log:
            # A session of its own: it goes on when the connection that started it ends.
            process = subprocess.Popen(  # noqa: S603 - ourselves
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        sys.stdout.write(json.dumps({"pid": process.pid}) + "\n")
        process.returncode = 0  # nobody waits for it here
        return 0
    os.nice(NICE)
    try:
        return 0 if carry_out(job, options.name, take(job, options.name)) else 1
    except OrchestratorError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
