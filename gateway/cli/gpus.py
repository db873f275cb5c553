"""What `trainctl gpus` does."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from blocks.providers.local.free_gpus import free_groups
from blocks.providers.local.gpu import Gpu
from blocks.providers.local.gpus import inventory, visible
from gateway.cli.table import print_table
from gateway.exits import note, say, say_json
from gateway.view import printable
from trainer.config import Resources
from trainer.contract import gpu_files
from trainer.contract.errors import CapacityError, ConfigError, DependencyError, GpusBusy, GpusTaken
from trainer.contract.gpu_locks import Allocation, Held, Holder, take

HEAD = ("GPU", "UUID", "NAME", "FREE", "USE", "TEMP", "STATE")
LOOK_SECONDS = 2.0


def show_gpus(*, as_json: bool) -> None:
    """Print the GPUs of this computer, or that there is none."""
    found = inventory()
    if as_json:
        say_json([_record(gpu) for gpu in found])
    elif found:
        print_table(HEAD, [_row(gpu) for gpu in found], named=6, least=("TEMP", "USE", "UUID"))
    else:
        say("this computer has no NVIDIA GPU, or no driver for it")


def execute_on_gpus(
    command: Sequence[str], count: int, min_vram_gb: float | None, *, wait: bool
) -> NoReturn:
    """Become the program, with GPUs taken that are free again when it and its children have ended.

    Raises:
        CapacityError: no GPUs will do, or with `wait` off, others have them.
        DependencyError: there is no such program.
    """
    held = _taken(Resources(gpu_count=count, min_vram_gb=min_vram_gb), command[0], wait=wait)
    # The lock belongs to the open file, so the program that takes our place has it, and whatever it
    # starts that keeps descriptors open.
    for descriptor in held.descriptors:
        os.set_inheritable(descriptor, True)  # noqa: FBT003  its only parameter
    # Python ignores these, and a program keeps what is ignored: `yes | head` would end in an error.
    ignored = {
        number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGPIPE, signal.SIGXFSZ)
    }
    try:
        os.execvpe(command[0], list(command), {**os.environ, **held.allocation.variables})  # noqa: S606  no shell is meant
    except OSError as error:
        for number, handler in ignored.items():
            signal.signal(number, handler)
        held.close()
        raise DependencyError(
            f"{command[0]!r} cannot be started: {error.strerror}.",
            "Give a program and its arguments: trainctl gpus exec -- python train.py",
        ) from error


def heal_gpu(uuid: str) -> str:
    """Put a GPU to use again, and say so.

    Raises:
        ConfigError: there is no such GPU.
    """
    match = sorted(
        {
            name
            for gpu in inventory()
            if (name := gpu.parent or gpu.uuid) and uuid and name.startswith(uuid)
        }
    )
    if len(match) != 1:
        raise ConfigError(
            f"{uuid!r} is {'several GPUs' if match else 'no GPU'} of this computer.",
            "'trainctl gpus' shows them.",
        )
    parts = [gpu.uuid for gpu in inventory() if gpu.parent == match[0]]
    if any([gpu_files.heal(uuid) for uuid in [match[0], *parts]]):  # noqa: C419 - each of them
        return f"{match[0]} is in use again"
    return f"{match[0]} was not taken out of use; what its driver says of it stands"


def _taken(wanted: Resources, program: str, *, wait: bool) -> Held:
    said = ""
    while True:
        found = visible(inventory(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        try:
            for group in free_groups(found, wanted, None, ()):
                uuids = tuple(gpu.uuid for gpu in group)
                try:
                    return take(Allocation(uuids=uuids), Holder.here(name=Path(program).name))
                except GpusTaken:  # a moment ago
                    continue
        except GpusBusy as error:
            if not wait:
                raise GpusBusy(error.message, "Try again later, or without --no-wait.") from None
            if error.message != said:
                note(f"waiting: {error.message}")
                said = error.message
        except CapacityError as error:
            words = error.message.replace("resources.gpu_count", "--count")
            raise CapacityError(
                words.replace("resources.min_vram_gb", "--min-vram-gb"),
                "Ask for less by --count or --min-vram-gb; 'trainctl gpus' shows what there is.",
            ) from None
        time.sleep(LOOK_SECONDS if said else 0.1)


def _row(gpu: Gpu) -> list[str]:
    return [
        str(gpu.index),
        gpu.uuid or "?",
        printable(gpu.name),
        f"{gpu.free_gb:.1f} of {gpu.total_gb:.1f} GiB",
        "" if gpu.utilisation is None else f"{gpu.utilisation:.0f} %",
        "" if gpu.temperature is None else f"{gpu.temperature:.0f} °C",
        printable(_state(gpu)),
    ]


def _state(gpu: Gpu) -> str:
    state = gpu.why_not or "free"
    if gpu.holders and gpu.foreign:
        state += f"; beside it {'; '.join(map(str, gpu.foreign))}"
    return state


def _record(gpu: Gpu) -> dict[str, Any]:
    record = dataclasses.asdict(gpu)
    foreign = [dataclasses.asdict(one) for one in gpu.foreign]
    return {**record, "foreign": foreign, "why_not": gpu.why_not}
