"""The dead-man switch of a rented machine: it ends itself when its lease is not renewed.

When all our processes are gone, or the network is, only the machine itself can stop its bill. A
script of POSIX sh on it, `sentinel.sh`, watches these files of the base folder:

    lease             the seconds of the term; a write or a touch renews it
    jobs/*/lease      the same, for a job's own supervisor; renews the machine's too
    shutdown_command  one line of sh by which the machine ends itself; only its owner can read it
    sentinel.pid      which process is the sentinel, and what it was armed with
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time

from blocks.machines.base import Machine
from blocks.machines.shell import last_of, marked, run_script, script
from trainer.contract.errors import BootError, ConnectionLost, OrchestratorError

AGAIN_SECONDS = 60  # from one attempt at shutting down to the next
RUN_SECONDS = 30.0  # for one small script
START_SECONDS = 15.0  # for the sentinel to write its process id
LOOK_SECONDS = 0.1

_SENTINEL = script("occupied.sh", "sentinel.sh")

# Prints what the running sentinel of the base folder $1 was armed with. A process id alone proves
# nothing, since after a reboot it may be another program's; the command line decides.
_WHO = r"""
sentinel() {
    pid='' mark=''
    read -r pid mark 2>/dev/null <"$1/sentinel.pid"
    case $pid in '' | *[!0-9]*) return 1 ;; esac
    tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$1/sentinel.sh "
}
sentinel "$1" && printf '@sentinel %s\n' "$mark"
"""

# Runs before the command is written, to make the folder, and again after: a write puts a new file
# at that place, and the mode of the old one goes with it.
_PREPARE = r"""
umask 077
mkdir -p -- "$1" && : >>"$1/shutdown_command" && chmod 600 "$1/shutdown_command"
"""

# $2: seconds, $3: a job directory or nothing. A touch needs no disk, so a full one renews too.
_RENEW = r"""
renew() {
    [ -d "$1" ] || return 0
    had=
    read -r had 2>/dev/null <"$1/lease"
    if [ "$had" = "$2" ]; then
        touch -- "$1/lease"
    else
        printf '%s\n' "$2" >"$1/.lease.$$" && mv -f -- "$1/.lease.$$" "$1/lease"
    fi
}
[ -d "$1" ] || { echo "there is no folder $1" >&2; exit 1; }
renew "$1" "$2" && { [ -z "$3" ] || renew "$3" "$2"; } || exit
"""


async def arm(
    machine: Machine,
    base: str,
    term_seconds: float,
    shutdown_command: str,
    *,
    grace_seconds: float,
) -> None:
    """Start the sentinel, unless one that was armed in the same way is there, and renew its lease.

    When the lease expires it asks every job at work to save and stop, waits for them, and runs
    the shutdown command, every minute for as long as the machine is still there. With the command
    `:` the machine stays and the sentinel ends. It needs no Python there and outlives the
    connection. There is only one: of two that are armed at the same time the later stays.

    Args:
        machine: the connection to it.
        base: absolute path of our folder on it.
        term_seconds: how long it may go without a renewal; counted in whole seconds.
        shutdown_command: a line of sh; it finds the variables that the machine was started with.
        grace_seconds: how long the jobs may take to save and stop.

    Raises:
        BootError: it does not start.
        ConnectionLost: the machine cannot be reached.
    """
    grace, again = str(math.ceil(max(grace_seconds, 0.0))), str(AGAIN_SECONDS)
    armed_by = "\n".join((_SENTINEL, shutdown_command, grace, again))
    # A new version of the script, another command or another grace period gives another mark, and
    # so replaces the sentinel that runs.
    mark = hashlib.sha256(armed_by.encode()).hexdigest()[:16]
    await _run(machine, _PREPARE, base)
    # Before the sentinel starts: it refuses to run without a lease to watch.
    await renew(machine, base, None, term_seconds)
    if await _armed_with(machine, base) == mark:
        return
    # Not as an argument: anybody on the machine can read the arguments of a process.
    await machine.write(f"{base}/shutdown_command", shutdown_command.encode() + b"\n")
    await machine.write(f"{base}/sentinel.sh", _SENTINEL.encode())
    await _run(machine, _PREPARE, base)
    await machine.start(["sh", f"{base}/sentinel.sh", base, mark, grace, again])
    deadline = time.monotonic() + START_SECONDS
    while await _armed_with(machine, base) != mark:
        if time.monotonic() > deadline:
            raise BootError(
                f"The dead-man switch of the machine does not start within {START_SECONDS:g} s: "
                f"{base}/sentinel.sh needs sh, stat, /proc and a folder to write to."
            )
        await asyncio.sleep(LOOK_SECONDS)


async def renew(machine: Machine, base: str, workspace: str | None, term_seconds: float) -> bool:
    """Renew the lease of the machine, and of a job directory if it is there, for another term.

    Returns:
        Whether the sentinel runs; if not, arm it again.

    Raises:
        OrchestratorError: the machine refuses, for instance because its disk is read-only.
        ConnectionLost: the machine cannot be reached.
    """
    # Whole seconds, because sh cannot count in fractions; at least one, because 0 means no term.
    term = str(max(1, math.ceil(term_seconds)))
    return bool(await _run(machine, _RENEW + _WHO, base, term, workspace or ""))


async def _armed_with(machine: Machine, base: str) -> str:
    """Return the mark of the sentinel that runs; empty if none does."""
    return await _run(machine, _WHO, base)


async def _run(machine: Machine, text: str, *arguments: str) -> str:
    """Run a script, which must succeed, and return what it says of the sentinel."""
    try:
        # The `:` at the end makes a missing sentinel no failure of the script.
        result = await run_script(machine, f"{text}\n:", *arguments, timeout=RUN_SECONDS)
    except TimeoutError:
        # A machine that is too busy to touch a file is treated like one that cannot be reached:
        # the lease has most of its term left when it is tried again.
        raise ConnectionLost(
            f"The machine takes longer than {RUN_SECONDS:g} s to renew its lease.",
            "It is tried again at the next renewal.",
        ) from None
    if result.exit_code:
        raise OrchestratorError(
            f"The lease in {arguments[0]} cannot be renewed: {result.stderr.strip()[-300:]}.",
            "Look at the machine's disk: it may be full or read-only.",
        )
    return last_of(marked(result.stdout), "sentinel")
