"""GPUs of a computer that has none: what the driver would say of them stands in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.contract.files import read_json, replace_json


class PretendedGpus:
    """The file, which may change while jobs have the GPUs; locks and processes are real."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def set_up(self, count: int, **facts: Any) -> list[str]:
        """Have that many GPUs, all alike, and return their UUIDs: GPU-0, GPU-1 and so on."""
        gpus = [{"uuid": f"GPU-{number}", "total_gb": 24, **facts} for number in range(count)]
        replace_json(self.file, {"gpus": gpus}, durable=False)
        return [str(gpu["uuid"]) for gpu in gpus]

    def change(self, uuid: str, **facts: Any) -> None:
        """Let the driver say something else of a GPU, such as `sick`, `xid` or `processes`."""
        record = read_json(self.file) or {}
        for gpu in record["gpus"]:
            if gpu["uuid"] == uuid:
                gpu.update(facts)
        replace_json(self.file, record, durable=False)
