"""The order of an allocation: sbatch's arguments and the script that it runs."""

from __future__ import annotations

import math
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from blocks.marks import Mark
from blocks.models import Offer
from blocks.providers.api import Unanswered
from blocks.providers.slurm.offers import asked_in, seconds_in
from trainer.contract.errors import ConfigError

GRES = "gpu"
EXPORTED = (
    *("HOME", "USER", "LOGNAME", "SHELL", "LANG", "PATH", "LD_LIBRARY_PATH", "MODULEPATH"),
    *("SLURM_CONF", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy"),
    *("no_proxy", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS"),
)
"""What goes along of the environment that sbatch is called in; Slurm keeps it for administrators to read,
so that nothing secret may be in it."""
_OWN = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderTerms:
    """What a user says of all allocations; empty where nothing is said."""

    account: str = ""
    qos: str = ""
    constraint: str = ""
    gres: str = ""
    time_limit: str = ""
    warn_seconds: int = 300
    options: tuple[str, ...] = field(default_factory=tuple)


def told(given: str, variable: str) -> str:
    """Return a setting of the block, or else of the variable that sbatch itself reads."""
    return (given or os.environ.get(variable, "")).strip()


def sbatch(
    offer: Offer, mark: Mark, terms: OrderTerms, *, partition_seconds: float | None, log: str
) -> list[str]:
    """Return the command that orders an allocation; its script goes to the standard input.

    Args:
        offer: the nodes.
        mark: what the job bears, as its comment and as its name.
        terms: what else holds.
        partition_seconds: the longest that the partition allows; None: any time.
        log: absolute path of a file for what the script prints, `%j` standing for the job.
    """
    nodes = asked_in(offer, "nodes") or 1
    words = [
        "sbatch",
        "--parsable",
        f"--job-name={mark}",
        f"--comment={mark}",
        f"--partition={offer.region}",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        # What is begun once more begins in another job, so that nothing is trained twice.
        "--no-requeue",
        "--open-mode=append",
        f"--output={log}",
        "--input=/dev/null",
        "--chdir=/",
        f"--export={','.join(EXPORTED)}",
    ]
    if gres := gres_of(offer, terms.gres):
        words.append(f"--gres={gres}")
    if cpus := asked_in(offer, "cpus"):
        words.append(f"--cpus-per-task={cpus}")
    if offer.ram_gb:
        words.append(f"--mem={math.ceil(offer.ram_gb * 1024)}M")
    named = {"account": terms.account, "qos": terms.qos, "constraint": terms.constraint}
    words += [f"--{name}={value}" for name, value in named.items() if value]
    seconds = time_limit(offer, terms, partition_seconds)
    if seconds is not None:
        words.append(f"--time={math.ceil(seconds / 60)}")
    if terms.warn_seconds:
        words.append(f"--signal=B:USR1@{terms.warn_seconds}")
    return [*words, *terms.options]


def number_in(said: str) -> str:
    """Return the job's number in what sbatch prints.

    Raises:
        Unanswered: there is none; a job may have come of it all the same.
    """
    # `number`, or `number;cluster`; a site's own lines may stand before it.
    number = said.strip().rpartition("\n")[2].partition(";")[0].strip()
    if not number.isdecimal():
        raise Unanswered(f"sbatch does not say which job it made: {said[-200:]!r}.")
    return number


def gres_of(offer: Offer, given: str) -> str:
    """Return what is asked for of each node beside CPUs and memory."""
    if not offer.gpu_count:
        return given
    gpus = ":".join(filter(None, (GRES, offer.gpu_type or "", str(offer.gpu_count))))
    # What a user sets for gpu replaces ours, for clusters that name their kinds in other ways.
    parts = [part for part in given.split(",") if part]
    return ",".join([*([] if any(p.split(":")[0] == GRES for p in parts) else [gpus]), *parts])


def time_limit(offer: Offer, terms: OrderTerms, partition_seconds: float | None) -> float | None:
    """Return after how many seconds Slurm ends the job; None: what the partition says.

    Raises:
        ConfigError: the one that is set is no time.
    """
    wanted = offer.lives_seconds
    if terms.time_limit:
        try:
            wanted = seconds_in(terms.time_limit)
        except ValueError:
            raise ConfigError(
                f"time_limit = {terms.time_limit!r} is no time as Slurm writes it.",
                "Write minutes, hours:minutes:seconds or days-hours: 90, 12:00:00, 2-0.",
            ) from None
    bounds = [seconds for seconds in (wanted, partition_seconds) if seconds is not None]
    return min(bounds) if bounds else None


def script(base: str, home: str) -> str:
    """Return the script of an allocation.

    Args:
        base: our folder on the shared file system, absolute; empty: the one in the home.
        home: what the home folder is for all that runs there; empty: the user's own.
    """
    shebang, _, rest = (_OWN / "batch.sh").read_text(encoding="utf-8").partition("\n")
    agent = (_OWN / "agent.sh").read_text(encoding="utf-8")
    given = {"base": base, "home": home, "agent": agent}
    lines = [f"{name}={shlex.quote(text)}" for name, text in given.items()]
    return "\n".join([shebang, *lines, rest])
