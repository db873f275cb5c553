"""What is free on the machines of a pool, as jobs are put on it and taken off."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flows.scheduling.pool import Demand, Job, PoolGpu, PoolMachine, Running

SOON = 1.0  # seconds: a job that runs longer than was estimated may end at any moment


@dataclass(slots=True)
class Slot:
    """A GPU and who is on it."""

    gpu: PoolGpu
    room_gb: float
    jobs: int = 0
    whole: bool = False
    """Whether a job has it for itself."""

    def takes(self, demand: Demand, *, may_share: bool) -> bool:
        """Whether it has room for a job."""
        if self.gpu.taken or self.whole or (self.jobs and not (demand.shared and may_share)):
            return False
        if demand.kinds and self.gpu.kind not in demand.kinds:
            return False
        return self.room_gb >= demand.vram_gb


class MachineState:
    """One machine with its jobs."""

    def __init__(self, machine: PoolMachine) -> None:
        self.machine = machine
        self.slots = {gpu.uuid: Slot(gpu, gpu.vram_gb) for gpu in machine.gpus}
        self.ram_gb = machine.ram_gb
        self.threads = machine.threads
        self.disk_gb = machine.disk_gb
        self.cpu_jobs = machine.cpu_jobs
        self.running: list[tuple[float, Running]] = []
        """When each ends by the estimate."""

    def __copy__(self) -> MachineState:
        other = MachineState.__new__(MachineState)
        other.machine = self.machine
        other.ram_gb, other.threads, other.disk_gb = self.ram_gb, self.threads, self.disk_gb
        other.cpu_jobs = self.cpu_jobs
        other.slots = {uuid: copy.copy(slot) for uuid, slot in self.slots.items()}
        other.running = list(self.running)
        return other

    @property
    def free(self) -> int:
        """How many GPUs nobody is on."""
        return sum(not slot.jobs and not slot.gpu.taken for slot in self.slots.values())

    def fit(self, demand: Demand) -> tuple[str, ...] | None:
        """Return the GPUs that a job would have here now; None: it does not fit.

        GPUs of one island come first, of the island that is left with the fewest; a part of a GPU is
        taken where the least is left.
        """
        if demand.ram_gb > self.ram_gb or demand.threads > self.threads:
            return None
        if demand.disk_gb > self.disk_gb or demand.cpu_jobs > self.cpu_jobs:
            return None
        if demand.gpus == 0:
            return ()
        may_share = self.machine.shares
        fitting = [one for one in self.slots.values() if one.takes(demand, may_share=may_share)]
        if len(fitting) < demand.gpus:
            return None
        if demand.shared and may_share:
            # Where somebody is already, and the least is left.
            best = sorted(fitting, key=lambda slot: (not slot.jobs, slot.room_gb, slot.gpu.uuid))
            return tuple(slot.gpu.uuid for slot in best[: demand.gpus])
        return _together(fitting, demand.gpus)

    def put(self, running: Running, ends: float) -> None:
        """Let a job have its GPUs until a moment."""
        demand = running.job.demand
        is_whole = not (demand.shared and self.machine.shares)
        for slot in self._slots(running):
            slot.jobs += 1
            slot.whole = slot.whole or is_whole
            slot.room_gb -= demand.vram_gb
        self.ram_gb -= demand.ram_gb
        self.threads -= demand.threads
        self.disk_gb -= demand.disk_gb
        self.cpu_jobs -= demand.cpu_jobs
        self.running.append((ends, running))

    def take(self, running: Running) -> None:
        """Take a job off its GPUs."""
        demand = running.job.demand
        for slot in self._slots(running):
            slot.jobs -= 1
            slot.whole = False
            slot.room_gb += demand.vram_gb
        self.ram_gb += demand.ram_gb
        self.threads += demand.threads
        self.disk_gb += demand.disk_gb
        self.cpu_jobs += demand.cpu_jobs
        self.running = [pair for pair in self.running if pair[1] is not running]

    def _slots(self, running: Running) -> Iterable[Slot]:
        # A GPU that has been taken out of the pool is held all the same, and is nobody's to give.
        return (self.slots[uuid] for uuid in running.gpus if uuid in self.slots)

    def earliest(self, demand: Demand, now: float) -> float:
        """Return when a job will fit here if nobody else comes, by the estimates; inf: never."""
        later = copy.copy(self)
        if later.fit(demand) is not None:
            return now
        for ends, running in sorted(self.running, key=lambda pair: pair[0]):
            later.take(running)
            if later.fit(demand) is not None:
                return max(ends, now + SOON)
        return math.inf


class PoolState:
    """All machines of a pool."""

    def __init__(
        self,
        machines: Sequence[PoolMachine],
        running: Iterable[Running],
        now: float,
        pausing: float,
    ) -> None:
        """Put what runs on its machines.

        Args:
            machines: of the pool.
            running: what runs on them; what runs elsewhere is passed over.
            now: seconds.
            pausing: after how many seconds a job that is being paused is gone.
        """
        self.now = now
        self.machines = {machine.name: MachineState(machine) for machine in machines}
        for one in running:
            if host := self.machines.get(one.machine):
                left = pausing if one.pausing else one.job.seconds_left
                host.put(one, now + max(SOON, left))

    def fit(self, demand: Demand) -> tuple[MachineState, tuple[str, ...]] | None:
        """Return the machine and the GPUs for a job: where the fewest are left free; None: nowhere."""
        best: tuple[int, MachineState, tuple[str, ...]] | None = None
        for host in self.machines.values():
            gpus = host.fit(demand)
            if gpus is not None and (best is None or host.free < best[0]):
                best = host.free, host, gpus
        return (best[1], best[2]) if best else None

    def start(self, job: Job, host: MachineState, gpus: tuple[str, ...]) -> Running:
        """Let a job have GPUs from now on."""
        running = Running(job=job, machine=host.machine.name, gpus=gpus, since=self.now)
        host.put(running, self.now + max(SOON, job.seconds_left))
        return running

    def earliest(self, demand: Demand) -> tuple[float, MachineState | None]:
        """Return when and where a job fits first if nobody else comes."""
        found = [(one.earliest(demand, self.now), one) for one in self.machines.values()]
        when, host = min(found, key=lambda pair: pair[0], default=(math.inf, None))
        return when, host if when < math.inf else None


def _together(fitting: Sequence[Slot], count: int) -> tuple[str, ...]:
    """Return that many GPUs, of one island if one has them."""
    islands: dict[str, list[str]] = {}
    for slot in fitting:
        islands.setdefault(slot.gpu.island, []).append(slot.gpu.uuid)
    large = [uuids for uuids in islands.values() if len(uuids) >= count]
    if large:
        return tuple(min(large, key=len)[:count])
    # From the fullest island on, so that as few as possible are torn.
    every = sorted(islands.values(), key=len, reverse=True)
    return tuple([uuid for uuids in every for uuid in uuids][:count])


def why_never(demand: Demand, machines: Sequence[PoolMachine]) -> str:
    """Return why no machine of a pool can hold a job even when it is empty; "" if one can."""
    if any(MachineState(_emptied(machine)).fit(demand) is not None for machine in machines):
        return ""
    if not machines:
        return "the pool has no machine"
    most = max(len(machine.gpus) for machine in machines)
    if demand.gpus > most:
        return (
            f"it needs {demand.gpus} GPUs at once, and no machine of the pool has more than {most}"
        )
    kinds = sorted({gpu.kind for machine in machines for gpu in machine.gpus})
    if demand.kinds and not set(kinds) & set(demand.kinds):
        return (
            f"it needs {' or '.join(demand.kinds)}, and the pool has {', '.join(kinds) or 'no GPU'}"
        )
    vram = max((gpu.vram_gb for machine in machines for gpu in machine.gpus), default=0.0)
    if demand.vram_gb > vram:
        return (
            f"it needs {demand.vram_gb:g} GiB on a GPU, and none of the pool has more than {vram:g}"
        )
    needs = (
        ("GiB of main memory", demand.ram_gb, max(machine.ram_gb for machine in machines)),
        ("CPU threads", demand.threads, max(machine.threads for machine in machines)),
        ("GiB of disk", demand.disk_gb, max(machine.disk_gb for machine in machines)),
    )
    for what, needed, there in needs:
        if needed > there:
            return f"it needs {needed:g} {what}, and no machine of the pool has more than {there:g}"
    return "no machine of the pool has all that it needs at once"


def _emptied(machine: PoolMachine) -> PoolMachine:
    """Return a machine as it is once nobody else has any of its GPUs."""
    gpus = tuple(dataclasses.replace(gpu, taken="") for gpu in machine.gpus)
    return dataclasses.replace(machine, gpus=gpus)
