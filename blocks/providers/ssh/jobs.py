"""The job directories on a user's own host: listed, made and ended by small scripts of sh.

What a host says is taken with care: a record is at most 4 KiB, and nothing that could mislead us
is read from it. Where an instance is, we know without it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blocks.machines.shell import FOLDER, all_of, script
from blocks.marks import PREFIX, ours
from blocks.models import Instance, InstanceStatus, Offer
from blocks.providers.ssh.hosts import Host
from trainer.contract.errors import ConfigError
from trainer.contract.files import NOT_JSON

NAME = re.compile(rf"{PREFIX}-[0-9a-f]{{8}}-[0-9a-z][0-9a-z-]{{0,79}}")
"""The texts of marks, of any installation; no other folder is ever touched."""
MAX_GPUS = 64

_OWN = Path(__file__).parent
_RECORDS = (_OWN / "jobs.sh").read_text(encoding="utf-8")
LIST = _RECORDS + 'printf "@home %s\\n" "$HOME"; records "$1"\n'
"""$1: a name, or nothing for all. Prints `@home`, and `@job` with name and record of each."""
MAKE = _RECORDS + 'make "$1" "$2" || exit; printf "@home %s\\n" "$HOME"; records "$1"\n'
"""$1: the name, $2: its record. Then as `LIST`."""
END = script("occupied.sh") + (_OWN / "end.sh").read_text(encoding="utf-8")
"""$1: the name, $2 and $3: seconds for SIGTERM and SIGKILL. Prints `@occupied` or `@left`."""


def check_name(name: str) -> str:
    """Return a name that may become a folder on a host.

    Raises:
        ConfigError: it may not.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of an instance.",
            "Names are given by the orchestrator: to-<installation>-<run>-<attempt>.",
        )
    return name


def record_of(offer: Offer) -> str:
    """Return what is kept on the host about an instance of an offer."""
    facts = {
        "instance_type": offer.instance_type,
        "gpu_type": offer.gpu_type,
        "gpu_ids": list(offer.gpu_ids),
        "gpu_count": offer.gpu_count,
    }
    return json.dumps(facts)


def instances_in(
    lines: Sequence[tuple[str, str]], host: Host, home: str, price_per_hour: float
) -> list[Instance]:
    """Return the instances in a host's `@job` lines.

    One without a usable record has status unknown: its folder is there all the same.
    """
    found: list[Instance] = []
    for line in all_of(lines, "job"):
        name, _, text = line.partition(" ")
        if not NAME.fullmatch(name):
            continue
        # The line came from the host: size, types and characters are checked before any of it is
        # used.
        record = _read(text)
        status = InstanceStatus.UNKNOWN if record is None else InstanceStatus.RUNNING
        found.append(
            Instance(
                provider="ssh",
                id=f"{host}/{name}",
                mark=ours(name),
                status=status,
                detail="its record cannot be read" if record is None else "",
                address=host.address,
                port=host.port,
                user=host.user,
                region=host.address,
                host=str(host),
                price_per_hour=price_per_hour,
                workspace=f"{home.rstrip('/')}/{FOLDER}/jobs/{name}",
                **(record or {}),
            )
        )
    return found


def _read(text: str) -> dict[str, Any] | None:
    """Return what we wrote in a record, or None when it is something else."""
    try:
        record = json.loads(text)
    # A record of more than 4 KiB arrives cut off, and fails here.
    except NOT_JSON:
        return None
    if not isinstance(record, dict):
        return None
    kind, gpu = record.get("instance_type"), record.get("gpu_type")
    ids, count = record.get("gpu_ids"), record.get("gpu_count")
    usable = (
        _is_word(kind)
        and (gpu is None or _is_word(gpu))
        and isinstance(ids, list)
        and len(ids) <= MAX_GPUS
        and all(_is_word(entry) for entry in ids)
        and isinstance(count, int)
        and 0 <= count <= MAX_GPUS
    )
    if not usable:
        return None
    return {
        "instance_type": kind,
        "gpu_type": gpu,
        "gpu_ids": tuple(ids or ()),
        "gpu_count": int(count or 0),
    }


def _is_word(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 100 and value.isprintable()


def whole(seconds: float) -> str:
    """Return seconds as sh can count them."""
    return str(math.ceil(seconds))
