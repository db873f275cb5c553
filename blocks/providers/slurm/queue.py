"""What Slurm's queue says of jobs, as instances."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blocks.marks import Mark, ours
from blocks.models import Instance, InstanceStatus
from blocks.providers.cloud import as_described
from trainer.contract.errors import CapacityError, OrchestratorError, Scope

TITLE = "Slurm"
# Columns of fixed widths, which every version of squeue has. Names are last and counted in bytes: Slurm
# pads by bytes, and a user may write anything.
_COLUMNS = {
    "JobID": 20,
    "State": 20,
    "RestartCnt": 8,
    "Partition": 60,
    "NumNodes": 8,
    "tres-per-node": 60,
    "StartTime": 24,
    "EndTime": 24,
    "Reason": 140,
    "NodeList": 400,
    "Comment": 80,
    "Name": 80,
}
FORMAT = ",".join(f"{name}:{width}" for name, width in _COLUMNS.items())
LIST = ("squeue", "--me", "--noheader", "--states=all", f"--Format={FORMAT}")
"""The user's jobs, those among them that ended some minutes ago too."""
_NUMBER = re.compile(r"[0-9]+(_[0-9\[\]%,-]+|\+[0-9]+)?")  # of a job, an array's, a part of one
_BEGIN = re.compile(rf"{_NUMBER.pattern} *[A-Z]")

WAITING = "PENDING"
STATES = {
    "CONFIGURING": InstanceStatus.PROVISIONING,
    "RUNNING": InstanceStatus.RUNNING,
    "SUSPENDED": InstanceStatus.RUNNING,
    "RESIZING": InstanceStatus.RUNNING,
    "SIGNALING": InstanceStatus.RUNNING,
    "STAGE_OUT": InstanceStatus.STOPPING,
    "COMPLETING": InstanceStatus.STOPPING,
    "STOPPED": InstanceStatus.LOST,
    "REQUEUED": InstanceStatus.LOST,
    "REQUEUE_FED": InstanceStatus.LOST,
    "REQUEUE_HOLD": InstanceStatus.LOST,
    "SPECIAL_EXIT": InstanceStatus.LOST,
    **dict.fromkeys(
        (
            "BOOT_FAIL",
            "CANCELLED",
            "COMPLETED",
            "DEADLINE",
            "FAILED",
            "NODE_FAIL",
            "OUT_OF_MEMORY",
            "PREEMPTED",
            "REVOKED",
            "TIMEOUT",
        ),
        InstanceStatus.GONE,
    ),
}
NEVER = (
    "badconstraints",
    "dependencyneversatisfied",
    "invalidaccount",
    "invalidqos",
    "partitiontimelimit",
    "partitionnodelimit",
    "maxtimeperjob",
    "perjoblimit",
    "minutesperjoblimit",
    "maxnodeperjob",
    "maxcpuperjob",
    "requested_node_configuration_is_not_available",
)
"""Parts of the reasons for which a job never starts, unless somebody changes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmJob:
    """A job in the queue."""

    id: str
    state: str
    restarts: int
    partition: str
    nodes: int
    gres: str
    starts: str
    ends: str
    reason: str
    hosts: tuple[str, ...]
    mark: Mark | None


def rows_of(printed: str) -> list[SlurmJob]:
    """Return the jobs in what `LIST` prints.

    Raises:
        ProviderError: it is not as squeue describes it.
    """
    lines: list[str] = []
    for line in printed.split("\n"):
        # A user may write line breaks into comment and name, which are last: the rest belongs to the job.
        if lines and not _BEGIN.match(line):
            lines[-1] += f"\n{line}"
        elif line.strip():
            lines.append(line)
    with as_described(TITLE, "squeue"):
        return [_row(line) for line in lines]


def _row(line: str) -> SlurmJob:
    content, begin, found = line.encode(), 0, {}
    for name, width in _COLUMNS.items():
        found[name] = content[begin : begin + width].decode(errors="replace").strip()
        begin += width
    if not _NUMBER.fullmatch(found["JobID"]) or not found["State"]:
        raise ValueError(f"{line.split()[:2]} is no job")
    return SlurmJob(
        id=found["JobID"],
        state=found["State"],
        restarts=int(found["RestartCnt"] or 0),
        partition=found["Partition"].partition(",")[0],
        nodes=int(re.match(r"[0-9]*", found["NumNodes"])[0] or 1),  # type: ignore[index]
        gres=found["tres-per-node"],
        starts=found["StartTime"],
        ends=found["EndTime"],
        reason=found["Reason"],
        hosts=tuple(hosts_in(found["NodeList"])),
        # Where comments are not kept, or a site writes its own, the name has it.
        mark=ours(found["Comment"]) or ours(found["Name"]),
    )


def hosts_in(text: str) -> list[str]:
    """Return the nodes of a list such as `gpu[1-3,07],login1`, in its order."""
    found: list[str] = []
    for part in re.findall(r"[^,\[]*(?:\[[^\]]*\][^,\[]*)*", text):
        heads = [""]
        for piece in re.findall(r"\[[^\]]*\]|[^\[]+", part):
            ends = _numbers(piece[1:-1]) if piece.startswith("[") else [piece]
            heads = [head + end for head in heads for end in ends]
        found += [head for head in heads if head and head not in {"(null)", "n/a", "None"}]
    return found


def _numbers(text: str) -> list[str]:
    found: list[str] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        last = high or low
        found += [f"{number:0{len(low)}d}" for number in range(int(low), int(last) + 1)]
    return found


def instances_of(
    row: SlurmJob, provider: str, price_per_hour: float, addresses: Mapping[str, str]
) -> list[Instance]:
    """Return an instance for each node of a job, the first one first.

    Args:
        row: the job.
        provider: its name in a job file.
        price_per_hour: USD for each node.
        addresses: where a node is reached, by its name.
    """
    status, detail, failure = _status_of(row)
    time_is_up = row.state in {"TIMEOUT", "DEADLINE"}
    kind, count = gpus_of(row.gres)
    found: list[Instance] = []
    for rank in range(row.nodes):
        host = row.hosts[rank] if rank < len(row.hosts) else ""
        found.append(
            Instance(
                provider=provider,
                id=id_of(row.id, rank),
                mark=with_rank(row.mark, rank),
                status=status,
                detail=detail,
                failure=failure,
                time_is_up=time_is_up,
                address=host,
                private_address=addresses.get(host, host),
                instance_type=instance_type(kind, count),
                region=row.partition,
                host=host,
                gpu_type=kind or None,
                gpu_count=count,
                price_per_hour=price_per_hour,
            )
        )
    return found


def _status_of(row: SlurmJob) -> tuple[InstanceStatus, str, OrchestratorError | None]:
    # What ran in it has ended, though the job waits to be started once more.
    if row.restarts and STATES.get(row.state) is not InstanceStatus.GONE:
        return InstanceStatus.LOST, "Slurm put the job back into its queue", None
    if row.state == WAITING:
        return _waiting(row)
    status = STATES.get(row.state, InstanceStatus.UNKNOWN)
    words = row.state.lower().replace("_", " ")
    known = row.reason in {"", "None", "NonZeroExitCode"} or row.reason.lower() == words
    return status, words if known else f"{words}: {row.reason}", None


def _waiting(row: SlurmJob) -> tuple[InstanceStatus, str, OrchestratorError | None]:
    why = row.reason.strip("()") or "None"
    bare = why.casefold().replace(" ", "_")
    if any(part in bare for part in NEVER):
        failure = CapacityError(
            f"Slurm will not start the job in {row.partition}: {why}.",
            "Correct partition, account, qos, constraint or time_limit of the block.",
        ).ruling_out(Scope.REGION)
        return InstanceStatus.QUEUED, why, failure
    start = "" if row.starts in {"", "N/A", "Unknown"} else f", expected to start at {row.starts}"
    return InstanceStatus.QUEUED, f"in the queue of {row.partition}: {why}{start}", None


def with_rank(mark: Mark | None, rank: int) -> Mark | None:
    """Return the mark of a node; a job bears that of its first."""
    if mark is None or mark.run_id is None or not rank:
        return mark
    return Mark(installation=mark.installation, run_id=mark.run_id, attempt=mark.attempt, rank=rank)


def id_of(job: str, rank: int) -> str:
    """Return the id of a job's node: that of the job, and of another than its first `+rank`."""
    return f"{job}+{rank}" if rank else job


def parsed_id(id: str) -> tuple[str, int]:
    """Return job and rank in an id."""
    job, _, rank = id.partition("+")
    return job, int(rank or 0)


def gpus_of(gres: str) -> tuple[str, int]:
    """Return kind and number of the GPUs in `gres:gpu:a100:4`, `gpu:2(S:0-1)` and the like."""
    return kinds_of(gres)[0]


def kinds_of(gres: str) -> list[tuple[str, int]]:
    """Return kind and number of all GPUs, which may be of several kinds; without any, none of no kind."""
    found: list[tuple[str, int]] = []
    for part in re.sub(r"\([^)]*\)", "", gres).split(","):
        words = re.split(r"[:=/]", part.strip().removeprefix("gres:").removeprefix("gres/"))
        if words[0] != "gpu":
            continue
        count = int(words[-1]) if len(words) > 1 and words[-1].isdecimal() else 1
        named = [word for word in words[1:] if not word.isdecimal()]
        found.append((named[0] if named and named[0] != "(null)" else "", count))
    return found or [("", 0)]


def instance_type(kind: str, gpus: int) -> str:
    """Return what we call a node by what is taken of it."""
    return f"{gpus} × {kind or 'GPU'}" if gpus else "CPU"


def _number(row: SlurmJob) -> int:
    return int(re.match(r"[0-9]+", row.id)[0])  # type: ignore[index]


def first_of(rows: Sequence[SlurmJob], mark: Mark) -> tuple[SlurmJob, int] | None:
    """Return the job, and the rank of its node, that a mark means; the youngest job of several."""
    # squeue sorts by partition and priority, and Slurm numbers jobs in the order of their submission.
    for row in sorted(rows, key=_number, reverse=True):
        for rank in range(row.nodes):
            if row.mark and with_rank(row.mark, rank) == mark:
                return row, rank
    return None
