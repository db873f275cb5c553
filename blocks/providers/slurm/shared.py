"""Our folder on the file system that the nodes of a cluster share, as the login node sees it."""

from __future__ import annotations

from blocks.machines.base import Machine
from blocks.machines.shell import FOLDER, all_of, last_of, marked, run_script
from blocks.marks import ours
from trainer.contract.errors import ConnectionLost, ProviderError

SECONDS = 60.0  # for one small script
LEFT_MINUTES = 120  # after which nobody fetches anything any more that an ended job left

# $1: our folder, or nothing for the one in the home. Makes it, and prints where it is.
_MAKE = """
umask 077
base=${1:-$HOME/.training-orchestrator}
mkdir -p -- "$base/slurm" "$base/jobs" && chmod 700 "$base" && printf '@base %s\\n' "$base"
"""
# $1: our folder, $2: the job's number, $3: the job directory's name or nothing
_REMOVE = """
case $2 in '' | *[!0-9]*) exit 64 ;; esac
case $3 in *[!a-z0-9-]*) exit 64 ;; esac
rm -rf -- "$1/slurm/$2" "$1/slurm/$2.log" ${3:+"$1/jobs/$3"}
"""
# $1: our folder, $2: the job's number. Its nodes need not wait for anything, once they are cancelled.
_OVER = """
[ ! -d "$1/slurm/$2" ] || : >"$1/slurm/$2/over"
"""
# $1: our folder, $2: minutes. Prints number and job directories of what was not touched for so long.
_LEFT = """
cd -- "$1/slurm" 2>/dev/null || exit 0
for job in [0-9]*; do
    [ -d "$job" ] && [ -z "$(find "$job" -name alive -mmin "-$2" | head -n 1)" ] || continue
    [ -n "$(find "$job" -maxdepth 0 -mmin "+$2")" ] || continue
    printf '@left %s' "$job"
    for link in "$job"/*/jobs/*; do [ ! -L "$link" ] || printf ' %s' "${link##*/}"; done
    printf '\\n'
done
"""


async def made(login: Machine, folder: str) -> str:
    """Return our folder, absolute, after making it.

    Args:
        login: the login node.
        folder: in which it is, absolute; empty: the home of the user there.

    Raises:
        ProviderError: it cannot be made.
        ConnectionLost: the login node does not answer.
    """
    given = f"{folder}/{FOLDER}" if folder else ""
    try:
        result = await run_script(login, _MAKE, given, timeout=SECONDS)
    except TimeoutError:
        raise ConnectionLost("The login node does not answer.") from None
    base = last_of(marked(result.stdout), "base")
    if not base.startswith("/"):
        said = result.stderr.strip()[-300:]
        raise ProviderError(f"{given or 'The home folder'} cannot be used: {said}.")
    return base


async def over(login: Machine, base: str, job: str) -> None:
    """Say that nobody waits for a job any more.

    Raises:
        TimeoutError: it takes too long.
    """
    await run_script(login, _OVER, base, job, timeout=SECONDS)


async def remove(login: Machine, base: str, job: str, name: str) -> None:
    """Remove what a job left.

    Args:
        login: the login node.
        base: our folder.
        job: its number.
        name: of its job directory; empty: only what its allocation had.

    Raises:
        TimeoutError: it takes too long.
    """
    await run_script(login, _REMOVE, base, job, name, timeout=SECONDS)


async def left(login: Machine, base: str) -> list[tuple[str, list[str]]]:
    """Return the number, and the job directories, of allocations that nobody has used for long.

    Raises:
        TimeoutError: it takes too long.
    """
    said = await run_script(login, _LEFT, base, str(LEFT_MINUTES), timeout=SECONDS)
    found = [line.split() for line in all_of(marked(said.stdout), "left")]
    # Nothing is removed that this installation did not name.
    return [(job, names) for job, *names in found if all(map(ours, names))]
