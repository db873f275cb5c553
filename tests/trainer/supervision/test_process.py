"""A trainer that is forked from a process with everything imported is started as a new one is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FORKS = """
import os, signal, sys
from pathlib import Path
from trainer.supervision import process
from trainer.supervision.process import IMPORTED, TrainerProcess

root = Path(sys.argv[1])
variables = dict(word.split("=") for word in sys.argv[2:])


def main(word):
    print("forked", word, signal.getsignal(signal.SIGPIPE).name, flush=True)
    return 0


command = [sys.executable, "-c", "import sys; print('new', sys.argv[1])", "job"]
IMPORTED[tuple(command[:-1])] = lambda word: main
trainer = TrainerProcess(command, log=root / "log", locks=[], variables=variables)
with trainer:
    trainer.release()
    while trainer.poll() is None:
        pass
print(trainer.code)
"""


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ((), "forked job SIG_IGN"),
        (("RANK=1", "CUDA_VISIBLE_DEVICES=0"), "forked job SIG_IGN"),
        # Of several processes each has its share of the cores, which torch reads as it is loaded.
        (("RANK=1", "OMP_NUM_THREADS=3"), "new job"),
        (("OMP_NUM_THREADS=7",), "forked job SIG_IGN"),
    ],
)
def test_what_libraries_read_as_they_are_loaded_takes_a_new_process(
    tmp_path: Path, variables, said
):
    code = subprocess.run(
        [sys.executable, "-c", FORKS, str(tmp_path), *variables],
        env={"PATH": "/usr/bin", "OMP_NUM_THREADS": "7"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert code == "0\n"
    assert (tmp_path / "log").read_text() == f"{said}\n"
