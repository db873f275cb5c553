"""What a cluster's partitions have, as offers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from blocks.models import Offer
from blocks.providers.cloud import as_described
from blocks.providers.gpu_names import matches
from blocks.providers.slurm.queue import TITLE, instance_type, kinds_of
from trainer.config import Limits, Resources
from trainer.contract.errors import CapacityError

LIST = ("sinfo", "--noheader", "--exact", "--format=%P|%a|%l|%D|%c|%m|%G|%T")
"""Partition, whether it is up, time limit, nodes, CPUs and MB of each, GRES, state."""
ADDRESSES = ("sinfo", "--noheader", "--Node", "--format=%N|%o")
UNUSABLE = ("down", "drain", "fail", "maint", "inval", "unknown")
MB_PER_GIB = 1024.0
NAME = "slurm"
_TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """Nodes of one kind in one partition; of nodes with several kinds of GPUs, one for each."""

    partition: str
    is_default: bool
    seconds: float | None
    """The partition's time limit; None: it has none."""
    count: int
    cpus: int
    ram_gb: float
    gpu_type: str
    gpus: int
    is_well: bool
    """Whether they can be had now; for others Slurm lets a job wait."""


def nodes_of(printed: str) -> list[Nodes]:
    """Return the nodes of the partitions that are up, in what `LIST` prints.

    Raises:
        ProviderError: it is not as sinfo describes it.
    """
    found: list[Nodes] = []
    with as_described(TITLE, "sinfo"):
        for line in filter(str.strip, printed.splitlines()):
            name, up, limit, count, cpus, memory, gres, state = line.split("|")
            if up.strip() != "up" or state.strip().lower().startswith("future"):
                continue
            found += [
                Nodes(
                    partition=name.strip().rstrip("*"),
                    is_default=name.strip().endswith("*"),
                    seconds=seconds_in(limit),
                    count=_number(count),
                    cpus=_number(cpus),
                    ram_gb=_number(memory) / MB_PER_GIB,
                    gpu_type=kind,
                    gpus=gpus,
                    is_well=_is_well(state.strip().lower()),
                )
                for kind, gpus in kinds_of(gres)
            ]
    return found


def _number(text: str) -> int:
    """Return a number as sinfo writes it: it makes 2K of 2048, and puts a + behind the least of several."""
    text = text.strip().rstrip("+")
    return int(text[:-1]) * 1024 if text.endswith("K") else int(text)


def _is_well(state: str) -> bool:
    # A star: the node does not answer.
    return not state.startswith(UNUSABLE) and not state.endswith("*")


def seconds_in(text: str) -> float | None:
    """Return the seconds in a time as Slurm writes it; None: no limit.

    Minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes and so on.

    Raises:
        ValueError: it is no time.
    """
    text = text.strip()
    if text.lower() in {"infinite", "unlimited", "n/a", "not_set", "partition_limit"}:
        return None
    if not _TIME.fullmatch(text):
        raise ValueError(f"{text!r} is no time")
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        parts = [*parts, 0, 0][:3]
    elif len(parts) == 1:
        parts = [0, *parts, 0]
    elif len(parts) == 2:
        parts = [0, *parts]
    hours, minutes, seconds = parts
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60.0 + seconds


def offers_of(
    found: Sequence[Nodes],
    resources: Resources,
    limits: Limits,
    *,
    partitions: Sequence[str],
    price_per_hour: float,
) -> list[Offer]:
    """Return an offer for each kind of node that fits, whether it is free now or not.

    Args:
        found: what the cluster has.
        resources: what is asked for.
        limits: with the price cap.
        partitions: those that are set; empty: the cluster's default.
        price_per_hour: USD for a node.

    Raises:
        CapacityError: none fits.
    """
    if resources.spot:
        raise CapacityError(
            "resources.spot: Slurm's nodes are not sold as spot machines.",
            "Set resources.spot: false; a partition that is preempted may be set all the same.",
        )
    cap = limits.max_price_per_hour
    if cap is not None and price_per_hour > cap:
        raise CapacityError(
            f"A node costs {price_per_hour:g} USD/h, limits.max_price_per_hour is {cap:g}."
        )
    # Without a word of anybody it is the partition that sbatch itself would take.
    wanted = resources.regions or partitions
    here = [one for one in found if (one.partition in wanted if wanted else one.is_default)]
    if not here:
        names = ", ".join(sorted({one.partition for one in found})) or "none that is up"
        what = ", ".join(wanted) or "a default partition"
        raise CapacityError(
            f"Slurm has no nodes in {what}; its partitions: {names}.",
            "Set SBATCH_PARTITION or resources.regions to one of them.",
        )
    fitting = [one for one in here if _fits(one, resources)]
    if not fitting:
        has = ", ".join(sorted({f"{one.partition}: {_in_words(one)}" for one in here}))
        raise CapacityError(f"No node of Slurm's fits the job: {has}.")
    order = list(wanted)
    # Of equal price, what is well; then the partition that is named first; of one partition, the smallest that does.
    fitting.sort(
        key=lambda one: (
            not one.is_well,
            order.index(one.partition) if one.partition in order else 0,
            one.gpus,
            one.ram_gb,
        )
    )
    made = [_offer(one, resources, price_per_hour) for one in fitting]
    return list({offer.id: offer for offer in made}.values())


def _fits(one: Nodes, resources: Resources) -> bool:
    gpus = resources.gpu_count if resources.gpu_count is not None else min(1, one.gpus)
    return (
        one.gpus >= gpus
        and (not gpus or matches(resources.gpu_types, one.gpu_type or None))
        and one.ram_gb >= (resources.min_ram_gb or 0)
        and one.cpus >= (resources.cpu_threads or 1)
        and one.count >= 1
    )


def _in_words(one: Nodes) -> str:
    return f"{one.count} × {instance_type(one.gpu_type, one.gpus)}, {one.ram_gb:.0f} GiB"


def _offer(one: Nodes, resources: Resources, price_per_hour: float) -> Offer:
    gpus = resources.gpu_count if resources.gpu_count is not None else min(1, one.gpus)
    kind = one.gpu_type if gpus else ""
    cpus = f" cpus={resources.cpu_threads}" if resources.cpu_threads else ""
    return Offer(
        provider=NAME,
        instance_type=instance_type(kind, gpus),
        region=one.partition,
        id=f"{one.partition}/{kind or ('gpu' if gpus else 'cpu')}{cpus}",
        host=one.partition,
        price_per_hour=price_per_hour,
        gpu_type=kind or None,
        gpu_count=gpus,
        # What the job is given of it, where it says how much it needs.
        ram_gb=resources.min_ram_gb,
    )


def together(offer: Offer, nodes: int) -> Offer:
    """Return an offer of which several nodes are ordered at once."""
    return replace(offer, id=f"{offer.id} nodes={nodes}")


def asked_in(offer: Offer, what: str) -> int | None:
    """Return how many nodes, or cpus, an offer means; None: it does not say."""
    for word in offer.id.split()[1:]:
        name, _, number = word.partition("=")
        if name == what:
            return int(number)
    return None
