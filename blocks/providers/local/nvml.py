"""The NVIDIA GPUs of this computer, asked of the driver through NVML."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psutil

from blocks.providers.local.gpu import GIB, Gpu, GpuProcess
from trainer.contract.gpu_files import mark_sick

HARMLESS_XIDS = frozenset({13, 31, 43, 45, 63, 68, 92, 94, 109})
"""Errors of a program, or of memory that the GPU has replaced by itself; all others need a person.

As NVIDIA's own device plugin for Kubernetes passes them over, and by
https://docs.nvidia.com/deploy/xid-errors/ for 63, 92 and 94.
"""
MOST_EVENTS = 100  # at one look

T = TypeVar("T")


def read() -> list[Gpu]:
    """Return all GPUs, and the parts of those that are divided; none without a driver or its library.

    It blocks up to a second.
    """
    try:
        import pynvml
    except ImportError:
        return []
    with _driver.lock:
        try:
            # Fails without a driver or without its library; so it is asked here and not at import.
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return []
        try:
            return list(_all())
        except pynvml.NVMLError:  # the driver has gone meanwhile
            _driver.forget()
            return []
        finally:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


@dataclass(slots=True)
class _Driver:
    """What is remembered from one look to the next."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    events: Any = None
    """NVML's set of events. NVML itself counts how often it was opened: this keeps it open."""
    listening: set[str] = field(default_factory=set)
    xids: dict[str, int] = field(default_factory=dict)
    uuids: dict[int, str] = field(default_factory=dict)
    """Of each GPU by its number: one that has fallen off the bus does not say it any more."""
    islands: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict)

    def forget(self) -> None:
        """Begin anew, as after another driver was loaded."""
        self.events = None
        self.listening.clear()


_driver = _Driver()


def _all() -> Iterator[Gpu]:
    import pynvml

    handles: dict[int, Any] = {}
    broken: dict[int, str] = {}
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            # Each by itself, because one GPU that fails must not hide the others.
            handles[index] = handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            _driver.uuids[index] = pynvml.nvmlDeviceGetUUID(handle)
        except pynvml.NVMLError as error:  # fallen off the bus, for instance
            broken[index] = str(error)
            handles.pop(index, None)
    _listen({_driver.uuids[index]: handle for index, handle in handles.items()})
    islands = _islands({_driver.uuids[index]: handle for index, handle in handles.items()})
    for index in sorted(handles | broken):
        uuid, reason = _driver.uuids.get(index, ""), broken.get(index)
        if reason is None:
            try:
                yield from _gpus(index, uuid, handles[index], islands[uuid])
            except pynvml.NVMLError as error:
                reason = str(error)
        if reason is not None:
            yield Gpu(index=index, uuid=uuid, name="?", free_gb=0.0, sick=reason)


def _gpus(index: int, uuid: str, handle: Any, island: str) -> Iterator[Gpu]:
    """Yield a GPU, or its parts."""
    import pynvml

    sick = _sickness(uuid, handle)
    parts = list(_parts(handle))
    for part, parent in [(part, uuid) for part in parts] or [(handle, "")]:
        if sick and parent:  # who has a part looks for the part alone
            mark_sick(pynvml.nvmlDeviceGetUUID(part), sick)
        memory = pynvml.nvmlDeviceGetMemoryInfo(part)
        rates = None if parent else _asked(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
        yield Gpu(
            index=index,
            uuid=pynvml.nvmlDeviceGetUUID(part),
            name=pynvml.nvmlDeviceGetName(part),
            free_gb=memory.free / GIB,
            total_gb=memory.total / GIB,
            utilisation=float(rates.gpu) if rates else None,
            temperature=_asked(
                lambda: float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
            ),
            ecc_errors=_ecc_errors(handle),
            xid=_driver.xids.get(uuid),
            parent=parent,
            # Parts of one GPU do not reach each other: CUDA gives a process one of them.
            island="" if parent else island,
            processes=tuple(_processes(part)),
            sick=sick,
        )


def _parts(handle: Any) -> Iterator[Any]:
    import pynvml

    mode = _asked(lambda: pynvml.nvmlDeviceGetMigMode(handle))
    if not mode or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        return
    for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with suppress(pynvml.NVMLError):  # numbers without a part
            yield pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)


def _processes(handle: Any) -> Iterator[GpuProcess]:
    import pynvml

    for one in _asked(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle)) or ():
        name = user = ""
        with suppress(psutil.Error, KeyError):
            process = psutil.Process(one.pid)
            name, user = process.name(), process.username()
        used = one.usedGpuMemory
        yield GpuProcess(
            pid=one.pid, name=name, user=user, used_gb=None if used is None else used / GIB
        )


# Health ----------------------------------------------------------------------------------------


def _sickness(uuid: str, handle: Any) -> str:
    """Return why nobody is to have a GPU."""
    import pynvml

    xid = _driver.xids.get(uuid)
    if xid is not None and xid not in HARMLESS_XIDS:
        reason = f"the driver reported Xid {xid}"
        mark_sick(uuid, reason)  # nobody else hears of it: the driver tells only who listens
        return reason
    rows = _asked(lambda: pynvml.nvmlDeviceGetRemappedRows(handle))
    if rows and rows[3]:
        return "broken rows of its memory cannot be replaced any more"
    if rows and rows[2]:
        return "it needs a reset to replace broken rows of its memory"
    if _asked(lambda: pynvml.nvmlDeviceGetRetiredPagesPendingStatus(handle)):
        return "it needs a reset to retire broken pages of its memory"
    # Without row remapping (before Ampere) nothing mends what these have broken.
    if not rows and (errors := _ecc_errors(handle)):
        return f"its memory had {errors} uncorrected ECC errors since the driver was loaded"
    return ""


def _ecc_errors(handle: Any) -> int | None:
    import pynvml

    return _asked(
        lambda: int(
            pynvml.nvmlDeviceGetTotalEccErrors(
                handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
            )
        )
    )


def _listen(handles: dict[str, Any]) -> None:
    """Remember the errors that the driver has reported since the last look."""
    import pynvml

    try:
        if _driver.events is None:
            pynvml.nvmlInit()
            _driver.events = pynvml.nvmlEventSetCreate()
        for uuid in handles.keys() - _driver.listening:
            with suppress(pynvml.NVMLError):  # some GPUs report none
                pynvml.nvmlDeviceRegisterEvents(
                    handles[uuid], pynvml.nvmlEventTypeXidCriticalError, _driver.events
                )
            _driver.listening.add(uuid)
        for _ in range(MOST_EVENTS):
            event = pynvml.nvmlEventSetWait_v2(_driver.events, 0)
            if event.eventType & pynvml.nvmlEventTypeXidCriticalError:
                xid, uuid = int(event.eventData), pynvml.nvmlDeviceGetUUID(event.device)
                # A harmless one does not hide that the GPU is broken.
                if _driver.xids.get(uuid, 13) in HARMLESS_XIDS:
                    _driver.xids[uuid] = xid
    except pynvml.NVMLError:  # nothing more has happened
        return


# Which are near each other ----------------------------------------------------------------------


def _islands(handles: dict[str, Any]) -> dict[str, str]:
    """Return the island of each GPU; asked once, for it does not change."""
    key = tuple(sorted(handles))
    if key not in _driver.islands:
        import pynvml

        def linked(one: Any, other: Any) -> bool:
            nvlink = pynvml.NVML_P2P_CAPS_INDEX_NVLINK
            status = _asked(lambda: pynvml.nvmlDeviceGetP2PStatus(one, other, nvlink))
            return bool(status == pynvml.NVML_P2P_STATUS_OK)

        def near(one: Any, other: Any) -> bool:
            level = _asked(lambda: pynvml.nvmlDeviceGetTopologyCommonAncestor(one, other))
            return bool(level is not None and level <= pynvml.NVML_TOPOLOGY_NODE)

        links, nodes = _grouped_by(handles, linked), _grouped_by(handles, near)
        # Where only some have NVLink, the others are told apart by their nodes.
        _driver.islands[key] = {
            uuid: f"nvlink {links[uuid]}"
            if list(links.values()).count(links[uuid]) > 1
            else f"numa {nodes[uuid]}"
            for uuid in handles
        }
    return _driver.islands[key]


def _grouped_by(handles: dict[str, Any], joined: Callable[[Any, Any], bool]) -> dict[str, int]:
    """Return the number of the group of each: those that are joined, directly or through others."""
    group = {uuid: number for number, uuid in enumerate(handles)}
    for one, other in itertools.combinations(handles, 2):
        if group[one] != group[other] and joined(handles[one], handles[other]):
            low, high = sorted((group[one], group[other]))
            group = {uuid: low if number == high else number for uuid, number in group.items()}
    return group


def _asked(question: Callable[[], T]) -> T | None:
    """Return the driver's answer, or None where this GPU, or this driver, does not know it."""
    import pynvml

    try:
        return question()
    except pynvml.NVMLError as error:
        # A GPU that is lost is no GPU without an answer.
        if error.value in {pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED}:
            raise
        return None
