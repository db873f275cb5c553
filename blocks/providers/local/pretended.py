"""GPUs that a file describes, for tests and labs on computers without any.

    {"gpus": [{"uuid": "GPU-aa11", "name": "NVIDIA L4", "total_gb": 24, "processes": [{"pid": 7}]}]}

Fields are those of `Gpu`. Read anew each time, so that a GPU can fall ill while a job has it. Everything
but the driver's answers is real: locks, processes, decisions.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from blocks.providers.local.gpu import Gpu, GpuProcess
from trainer.contract.errors import ConfigError
from trainer.contract.files import NOT_JSON
from trainer.contract.gpu_files import IDENTIFIER, PRETENDED_VARIABLE

_KNOWN = {field.name for field in fields(Gpu)} - {"holders"}
_OF_PROCESS = {field.name for field in fields(GpuProcess)}


def read(file: str) -> list[Gpu]:
    """Return the GPUs that a file describes.

    Raises:
        ConfigError: it does not describe GPUs; it says where.
    """
    try:
        listed = json.loads(Path(file).read_text(encoding="utf-8"))["gpus"]
        found = [_gpu(index, dict(entry)) for index, entry in enumerate(listed)]
    except OSError as error:
        raise _wrong(file, str(error.strerror)) from None
    except (KeyError, TypeError, *NOT_JSON) as error:
        raise _wrong(file, repr(error)) from error
    uuids = [gpu.uuid for gpu in found if gpu.uuid]
    if len(uuids) != len(set(uuids)):
        raise _wrong(file, "two have one uuid")
    return found


def _gpu(index: int, entry: dict[str, Any]) -> Gpu:
    if unknown := set(entry) - _KNOWN:
        raise TypeError(f"a GPU has no {', '.join(sorted(unknown))}")
    uuid = str(entry.get("uuid", ""))
    if uuid and not IDENTIFIER.fullmatch(uuid):
        raise TypeError(f"{uuid!r} is not a GPU's UUID")
    processes = tuple(_process(dict(one)) for one in entry.pop("processes", ()))
    total = float(entry.pop("total_gb", 24.0))
    used = sum(one.used_gb or 0.0 for one in processes)
    settings = {
        "index": index,
        "name": "NVIDIA Pretended",
        "free_gb": max(0.0, total - used),
        "sick": "" if uuid else "it is lost",
        **entry,
        "uuid": uuid,
        "total_gb": total,
        "processes": processes,
    }
    return Gpu(**settings)


def _process(entry: dict[str, Any]) -> GpuProcess:
    if unknown := set(entry) - _OF_PROCESS:
        raise TypeError(f"a process has no {', '.join(sorted(unknown))}")
    return GpuProcess(**entry)


def _wrong(file: str, why: str) -> ConfigError:
    return ConfigError(
        f"{PRETENDED_VARIABLE} names {file}, which does not describe GPUs: {why}.",
        'Write {"gpus": [{"uuid": "GPU-1", "total_gb": 24}]} there, or unset it.',
    )
