"""Which of a user's own hosts fit a job, and which of their GPUs to take first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from blocks.machines.hardware import Hardware, same_gpu
from blocks.models import Instance, Offer
from blocks.providers.local.free_gpus import free_groups
from blocks.providers.local.gpu import Gpu
from blocks.providers.ssh.gpus import GpuUses
from blocks.providers.ssh.hosts import Host
from trainer.config import Limits, Resources
from trainer.contract.errors import CapacityError, GpusBusy, ProviderError

Ranked = tuple[tuple[float, ...], Offer]


@dataclass(frozen=True, slots=True)
class HostSurvey:
    """What a host has, and which instances are there already."""

    host: Host
    hardware: Hardware
    instances: list[Instance]
    uses: GpuUses = field(default_factory=GpuUses)

    def in_words(self) -> str:
        """Return the names of its GPUs with their number, or how many cores it has."""
        counted = Counter(gpu.name for gpu in self.hardware.gpus)
        words = [f"{count} × {name}" for name, count in counted.items()]
        return ", ".join(words) or f"{self.hardware.cores} cores and no GPU"


def fitting_offers(
    surveys: Sequence[HostSurvey], resources: Resources, limits: Limits, price_per_hour: float
) -> tuple[list[Offer], dict[str, ProviderError]]:
    """Return the offers, the one to take first at the head, and why other hosts make none.

    An error that is `GpusBusy` says that the host would do, once others let go of its GPUs. If no number of GPUs is asked for and no host has one, the CPU will do.
    """
    any_gpu = any(survey.hardware.gpus for survey in surveys)
    on_cpu = resources.gpu_count == 0 or (resources.gpu_count is None and not any_gpu)
    ranked: list[Ranked] = []
    reasons: dict[str, ProviderError] = {}
    for survey in surveys:
        try:
            _check_host(survey, resources, limits, price_per_hour)
            if on_cpu:
                ranked += _cpu_offer(survey, price_per_hour)
            else:
                ranked += _gpu_offers(survey, resources, price_per_hour)
        except (CapacityError, GpusBusy) as error:
            reasons[str(survey.host)] = error
    # By rank alone: offers themselves cannot be compared. The sort is stable, so equal hosts keep
    # the order in which the user lists them.
    ranked.sort(key=lambda entry: entry[0])
    return [offer for _, offer in ranked], reasons


def _check_host(
    survey: HostSurvey, resources: Resources, limits: Limits, price_per_hour: float
) -> None:
    """Look at all but the GPUs.

    Raises:
        CapacityError: why the host does not fit.
    """
    has = survey.hardware
    cap = limits.max_price_per_hour
    reason = ""
    if resources.spot:
        reason = "it is never taken back, and resources.spot asks for machines that are"
    elif resources.regions and survey.host.address not in map(str.casefold, resources.regions):
        reason = "it is not among resources.regions; the region of a host is its address"
    elif cap is not None and price_per_hour > cap:
        reason = f"it costs {price_per_hour:g} USD/h, limits.max_price_per_hour is {cap:g}"
    elif resources.disk_gb and has.disk_free_gb < resources.disk_gb:
        reason = f"{has.disk_free_gb:.1f} GiB of disk are free, {resources.disk_gb:g} are asked for"
    elif resources.min_ram_gb and has.ram_gb < resources.min_ram_gb:
        reason = f"it has {has.ram_gb:.1f} GiB of memory, {resources.min_ram_gb:g} are asked for"
    if reason:
        raise CapacityError(reason)


def _cpu_offer(survey: HostSurvey, price_per_hour: float) -> list[Ranked]:
    # The cores of a host are shared by all its jobs, so the one with the fewest jobs comes first.
    rank = (float(len(survey.instances)), -float(survey.hardware.cores))
    return [(rank, _offer(survey, (), price_per_hour))]


def _gpu_offers(survey: HostSurvey, resources: Resources, price_per_hour: float) -> list[Ranked]:
    """Return an offer for each group of GPUs that fits.

    Raises:
        CapacityError, GpusBusy: none does.
    """
    seen = survey.hardware.gpus
    if not seen:
        raise CapacityError(f"it has no GPU: {survey.hardware.trouble or 'nvidia-smi lists none'}")
    found = [
        survey.uses.gpu(gpu)
        for gpu in seen
        if not resources.gpu_types
        or any(same_gpu(asked, gpu.name) for asked in resources.gpu_types)
    ]
    if not found:
        asked = ", ".join(resources.gpu_types)
        raise CapacityError(f"it has {survey.in_words()}, resources.gpu_types asks for {asked}")
    taken = [uuid for instance in survey.instances for uuid in instance.gpu_ids]
    groups = free_groups(found, resources, None, taken)
    jobs = float(len(survey.instances))
    return [
        (
            # First by jobs on these GPUs, then by jobs on the host, then by free memory.
            (float(sum(taken.count(gpu.uuid) for gpu in group)), jobs, -group[0].free_gb),
            _offer(survey, group, price_per_hour),
        )
        for group in groups
    ]


def _offer(survey: HostSurvey, group: Sequence[Gpu], price_per_hour: float) -> Offer:
    """Return the offer of some of a host's GPUs, or of its CPU alone."""
    gpu = group[0] if group else None
    return Offer(
        provider="ssh",
        instance_type=gpu.name if gpu else "CPU",
        region=survey.host.address,
        price_per_hour=price_per_hour,
        id=str(survey.host),
        host=str(survey.host),
        gpu_type=gpu.name if gpu else None,
        gpu_count=len(group),
        gpu_ids=tuple(each.uuid for each in group),
        vram_gb=min((each.free_gb for each in group), default=0.0),
        disk_gb=survey.hardware.disk_free_gb,
        ram_gb=survey.hardware.ram_gb,
    )
