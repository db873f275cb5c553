"""Small POSIX sh scripts on a machine, and the reading of their answers.

A login shell may print a greeting, so a script answers on lines that begin with `@`, a word and a
space; all other lines are passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from blocks.machines.base import CommandResult, Machine

FOLDER = ".training-orchestrator"
"""What is ours in the home folder of a machine."""


@cache
def script(*names: str) -> str:
    """Return the text of script files of this package, one after the other."""
    folder = Path(__file__).parent
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


async def run_script(
    machine: Machine,
    text: str,
    *arguments: str,
    timeout: float,  # noqa: ASYNC109 - the machine ends what takes longer
) -> CommandResult:
    """Run a script with `arguments` as $1 and so on.

    Raises:
        TimeoutError: it took longer than `timeout` seconds.
        ConnectionLost: the machine cannot be reached.
    """
    return await machine.run(["sh", "-c", text, "sh", *arguments], timeout=timeout)


def marked(stdout: str) -> list[tuple[str, str]]:
    """Return word and rest of every line that begins with `@`, in order, printable."""
    found: list[tuple[str, str]] = []
    for line in stdout.splitlines():
        if line.startswith("@"):
            word, _, rest = line[1:].partition(" ")
            # Printable, because it is shown on terminals and a machine may send control codes.
            found.append((word, "".join(filter(str.isprintable, rest.strip()))))
    return found


def all_of(lines: Sequence[tuple[str, str]], word: str) -> list[str]:
    """Return what follows each occurrence of a word."""
    return [rest for found, rest in lines if found == word]


def last_of(lines: Sequence[tuple[str, str]], word: str) -> str:
    """Return what follows the last occurrence of a word, or nothing."""
    return next(iter(reversed(all_of(lines, word))), "")
