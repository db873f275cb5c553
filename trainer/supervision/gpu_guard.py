"""Watches the GPUs of a job while it trains: that they are well, and that it keeps to its share. Stdlib only.

A job that shares a GPU and uses more of its memory than it has is warned, then asked to pause, and ended
at once where the others on the GPU would run out of memory.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, Self

from trainer.contract.errors import GpuSick, OrchestratorError, ShareExceeded
from trainer.contract.events import Kind, note_event
from trainer.contract.files import append_line, read_json
from trainer.contract.gpu_files import PRETENDED_VARIABLE, mark_sick, sickness
from trainer.contract.gpu_locks import Held
from trainer.contract.job_directory import Desired, JobDirectory
from trainer.supervision.restart_decision import Ended

LOOK_SECONDS = 10.0  # between two looks at what others have noted
ASK_SECONDS = 60.0  # between two questions to nvidia-smi, which take up to a second of a processor
SHARE_SECONDS = 10.0  # the same, where others would be hurt
PRETENDED_SECONDS = 0.5  # both, where a file is read instead
GIVE_UP_SECONDS = 30.0  # nvidia-smi hangs where a driver is broken
SLACK_GB, SLACK_SHARE = 0.25, 0.02  # above a share that are nobody's fault: contexts, fragments
LOOKS_UNTIL_PAUSE = 3  # in a row above its share
LEAST_FREE_GB = 1.0  # of a GPU; with less the next allocation of any of its jobs fails
MIB_PER_GIB = 1024
ASK = (
    "nvidia-smi --query-gpu=uuid,memory.free --format=csv,noheader,nounits; echo @; "
    "nvidia-smi --query-compute-apps=gpu_uuid,pid,used_gpu_memory --format=csv,noheader,nounits"
)
_BROKEN = re.compile(
    r"uncorrectable (ECC|NVLink) error|GPU is lost|fallen off the bus|GPU requires (a )?reset",
    re.IGNORECASE,
)
"""What CUDA and the driver say when the GPU is at fault, not the program."""


@dataclass(slots=True)
class Sight:
    """What the driver says of the GPUs."""

    free_gb: dict[str, float] = field(default_factory=dict)
    used_gb: dict[str, dict[int, float]] = field(default_factory=dict)
    """By GPU and process."""
    sick: dict[str, str] = field(default_factory=dict)
    """Why."""


class Step(StrEnum):
    """What is done about a job by how much it uses of a GPU that it shares."""

    NONE = "none"
    WARN = "warn"
    PAUSE = "pause"
    END = "end"


def next_step(used_gb: float, share_gb: float, free_gb: float, looks: int) -> Step:
    """Return what to do about a job.

    Args:
        used_gb: GiB that it uses of a GPU.
        share_gb: GiB that it may use.
        free_gb: GiB that nobody uses.
        looks: how often in a row it was above its share before.
    """
    if used_gb <= share_gb + max(SLACK_GB, SLACK_SHARE * share_gb):
        return Step.NONE
    if free_gb < LEAST_FREE_GB:
        return Step.END
    if looks == 0:
        return Step.WARN
    return Step.PAUSE if looks == LOOKS_UNTIL_PAUSE else Step.NONE


class GpuGuard:
    """Watches the GPUs of one job. As a context manager: nothing of it is left running."""

    def __init__(self, job: JobDirectory, gpus: Held, grace_seconds: float) -> None:
        """Prepare to watch.

        Args:
            job: whose they are.
            gpus: held; where none are named, there is nothing to watch.
            grace_seconds: how long the trainer may take to save when it has to pause.
        """
        self._job = job
        self._gpus = gpus
        self._grace = grace_seconds
        self._question = _Question()
        self._look_at = self._ask_at = 0.0
        self._over: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._question.close()

    def look(self, trainer: int) -> OrchestratorError | None:
        """Return why the trainer has to end at once, if it has to; what is milder is done here.

        Args:
            trainer: its process id, which is that of its group.
        """
        uuids = self._gpus.allocation.uuids
        if not uuids:
            return None
        now, pretends = time.monotonic(), PRETENDED_VARIABLE in os.environ
        if now >= self._look_at:
            self._look_at = now + (PRETENDED_SECONDS if pretends else LOOK_SECONDS)
            self._gpus.keep()
            for uuid in uuids:
                # Another process may have heard what the driver tells only those who listen.
                if reason := sickness(uuid):
                    return self._broken(uuid, reason)
        if now >= self._ask_at:
            seconds = ASK_SECONDS if self._gpus.allocation.share_gb is None else SHARE_SECONDS
            self._ask_at = now + (PRETENDED_SECONDS if pretends else seconds)
            self._question.ask()
        sight = self._question.answer(uuids)
        if sight is None:
            return None
        for uuid, reason in sight.sick.items():
            if uuid in uuids:
                return self._broken(uuid, reason)
        return self._keep_to_share(sight, trainer)

    def diagnose(self, ended: Ended) -> Ended:
        """Return how a trainer ended, with the GPU as the cause where what it said shows that."""
        said = "\n".join([str((ended.status.error or {}).get("message", "")), *ended.printed])
        found = _BROKEN.search(said)
        if ended.code == 0 or ended.cause or not found:
            return ended
        uuids = self._gpus.allocation.uuids
        # Where one process has several, nobody can tell which it was, and the same would come again.
        if len(uuids) > 1 and not ended.several:
            return ended
        uuid = uuids[ended.local_rank] if ended.local_rank < len(uuids) else ""
        return replace(ended, cause=self._broken(uuid, f"the trainer met {found[0]!r}"))

    def _broken(self, uuid: str, reason: str) -> GpuSick:
        if uuid:
            mark_sick(uuid, reason)
        error = GpuSick(f"{uuid or 'The GPU'} is out of use: {reason}.")
        self._say(Kind.GPU_SICK, error.message, gpu=uuid)
        return error

    def _keep_to_share(self, sight: Sight, trainer: int) -> OrchestratorError | None:
        share = self._gpus.allocation.share_gb
        if share is None:
            return None
        for uuid in self._gpus.allocation.uuids:
            on_it = sight.used_gb.get(uuid, {})
            used = sum(gib for pid, gib in on_it.items() if _belongs(pid, trainer))
            free, looks = sight.free_gb.get(uuid, LEAST_FREE_GB), self._over.get(uuid, 0)
            step = next_step(used, share, free, looks)
            self._over[uuid] = looks + 1 if used > share and (looks or step is not Step.NONE) else 0
            what = f"the job uses {used:.1f} GiB of {uuid}, and its share is {share:g}"
            match step:
                case Step.WARN:
                    self._say(Kind.GPU_MEMORY, f"{what}: it will have to pause", gpu=uuid)
                case Step.PAUSE if self._job.read_control().desired is Desired.RUN:
                    self._say(Kind.GPU_MEMORY, f"{what}: it is asked to pause", gpu=uuid)
                    # By a file: the trainer saves first, and the watchdog ends it after the grace.
                    with suppress(OSError):
                        self._job.request(Desired.PAUSE, grace_seconds=self._grace, reason=what)
                case Step.END:
                    ending = f"{what}: it is ended, because only {free:.1f} GiB are left"
                    self._say(Kind.GPU_MEMORY, ending, gpu=uuid)
                    return ShareExceeded(f"{what[0].upper()}{what[1:]}; {free:.1f} GiB were left.")
                case Step.PAUSE | Step.NONE:
                    pass
        return None

    def _say(self, kind: Kind, message: str, *, gpu: str) -> None:
        with suppress(OSError):
            append_line(self._job.log, message)
        note_event(self._job, kind, message, step=self._job.read_status().step, gpu=gpu)


class _Question:
    """Asks nvidia-smi beside the training, which must never wait for it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._until = 0.0
        self._pretended = False

    def ask(self) -> None:
        """Ask for an answer, unless one is awaited."""
        self._pretended = PRETENDED_VARIABLE in os.environ
        if self._pretended or self._process is not None:
            return
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._until = time.monotonic() + GIVE_UP_SECONDS
        try:
            self._process = subprocess.Popen(  # noqa: S603
                ["/bin/sh", "-c", ASK],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError:  # no process is left: training matters more
            self.close()

    def answer(self, uuids: Iterable[str]) -> Sight | None:
        """Return the answer, once."""
        if self._pretended:
            self._pretended = False
            return _pretended_sight(os.environ[PRETENDED_VARIABLE])
        if self._process is None or self._output is None:
            return None
        if self._process.poll() is None:
            if time.monotonic() > self._until:
                self.close()
            return None
        self._output.seek(0)
        text = self._output.read().decode(errors="replace")
        self.close()
        return read_sight(text, uuids)

    def close(self) -> None:
        """Let go of a question that is not answered."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._output is not None:
            self._output.close()
        self._process = self._output = None


def read_sight(text: str, uuids: Iterable[str]) -> Sight:
    """Return what nvidia-smi printed for `ASK`; what cannot be read is passed over."""
    gpus, _, processes = text.partition("\n@\n")
    sight = Sight()
    for uuid, free in _rows(gpus, 2):
        with suppress(ValueError):
            sight.free_gb[uuid] = float(free) / MIB_PER_GIB
    for uuid, pid, used in _rows(processes, 3):
        with suppress(ValueError):
            sight.used_gb.setdefault(uuid, {})[int(pid)] = float(used) / MIB_PER_GIB
    # Parts of a divided GPU are not in this list. A driver that answers nothing at all proves
    # nothing: a library may just be exchanged.
    trouble = next((line for line in gpus.splitlines() if _BROKEN.search(line)), "")
    for uuid in uuids:
        listed = uuid in sight.free_gb or not uuid.startswith("GPU-")
        if not listed and (sight.free_gb or trouble):
            sight.sick[uuid] = trouble[:200] or "nvidia-smi does not list it any more"
    return sight


def _rows(text: str, columns: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == columns and re.match(r"(GPU|MIG)-", cells[0]):
            yield cells


def _pretended_sight(file: str) -> Sight:
    sight = Sight()
    with suppress(TypeError, ValueError, AttributeError, KeyError):
        for gpu in (read_json(Path(file)) or {})["gpus"]:
            uuid, processes = str(gpu["uuid"]), gpu.get("processes", ())
            sight.used_gb[uuid] = {int(p["pid"]): float(p.get("used_gb") or 0) for p in processes}
            used = sum(sight.used_gb[uuid].values())
            sight.free_gb[uuid] = float(gpu.get("free_gb", float(gpu.get("total_gb", 24)) - used))
            if gpu.get("sick"):
                sight.sick[uuid] = str(gpu["sick"])
    return sight


def _belongs(pid: int, trainer: int) -> bool:
    """Whether a process is the trainer's: of its group, or started by it, or by what it started."""
    with suppress(OSError, ValueError, IndexError):
        if os.getpgid(pid) == trainer:
            return True
        while pid > 1:
            if pid == trainer:
                return True
            # proc(5): the name in brackets may hold anything; state and parent follow it.
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            pid = int(stat.rpartition(")")[2].split()[1])
    return False
