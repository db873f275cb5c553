"""This computer as a provider: it costs nothing, and its instances are folders."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, NoReturn

import psutil
from pydantic import Field

from blocks.allotted import allotted
from blocks.home import home as default_home
from blocks.home import private_folder
from blocks.machines.local import LocalMachine
from blocks.marks import Mark, ours
from blocks.models import Instance, InstanceStatus, Offer
from blocks.providers.base import Provider, counted
from blocks.providers.gpu_names import matches
from blocks.providers.local.free_gpus import free_groups
from blocks.providers.local.gpu import GIB, Gpu
from blocks.providers.local.gpus import inventory, visible
from blocks.providers.local.occupants import end_occupants
from trainer.config import Limits, Resources
from trainer.contract.errors import CapacityError, ConfigError, ProviderError
from trainer.contract.files import read_json, replace_json
from trainer.contract.job_directory import JobDirectory

RECORD = "instance.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Local(Provider):
    """Trains on this computer, on the GPUs with the most free memory or on the CPU."""

    _block_type_name = "Local Machine"
    _block_type_slug = "training-orchestrator-local"

    provider_name: ClassVar[str] = "local"
    may_be_free: ClassVar[bool] = True
    is_home: ClassVar[bool] = True
    settle_seconds: ClassVar[float] = 0.0

    home: Path | None = Field(
        default=None,
        description="Where job directories are kept. Empty: TRAINING_ORCHESTRATOR_HOME, "
        "or ~/.training-orchestrator.",
    )

    async def check(self) -> str:
        """Say how many job directories are here, of ended jobs too; see `Provider.check`."""
        folders = [Path(instance.workspace) for instance in await self.instances()]
        at_work = sum(JobDirectory(folder).is_alive() for folder in folders)
        return f"{counted(len(folders), 'job folder')} kept, {at_work} in use"

    async def offers(self, resources: Resources, limits: Limits) -> list[Offer]:
        """Return one offer per group of GPUs that fits, or one for the CPU; see `Provider.offers`.

        GPUs that others have, or that are out of use, are passed over. Those of no other job
        directory come first, then those with the most free memory, so that two jobs that start
        together do not meet on one GPU.

        Raises:
            GpusBusy: some would do, and jobs have them.
        """
        disk_gb = await asyncio.to_thread(self._free_disk_gb)
        if resources.disk_gb and disk_gb < resources.disk_gb:
            raise CapacityError(
                f"No disk with {resources.disk_gb:g} GiB free: {self._instances_folder()} has "
                f"{disk_gb:.1f} GiB free.",
                "Lower resources.disk_gb, free some, or choose another provider.",
            )
        _check_resources(resources)
        found: list[Gpu] = []
        if resources.gpu_count != 0:
            everything = await asyncio.to_thread(inventory)
            found = visible(everything, os.environ.get("CUDA_VISIBLE_DEVICES"))
        # No GPU, and none asked for by number: the CPU does.
        if not found and not resources.gpu_count:
            return [_offer(disk_gb, ())]
        if found and resources.gpu_types:
            found = [gpu for gpu in found if matches(resources.gpu_types, gpu.name)] or _wrong(
                found, resources
            )
        # One entry per job and not a set: of GPUs that jobs in waiting had, the one with the fewest
        # jobs comes first.
        taken = [uuid for instance in await self.instances() for uuid in instance.gpu_ids]
        groups = free_groups(found, resources, allotted.get(), taken)
        return [_offer(disk_gb, group) for group in groups]

    async def launch(
        self, offer: Offer, mark: Mark, ssh_public_key: str | None, first_script: str = ""
    ) -> Instance:
        """Make the job directory; see `Provider.launch`."""
        if instance := await self.find(mark):
            return instance
        name = str(mark)
        folder = private_folder(self._folder(name))
        instance = offer.as_instance(
            name,
            mark,
            status=InstanceStatus.RUNNING,
            address="localhost",
            workspace=str(folder),
        )
        # The record makes the folder an instance. It comes last, in one step, so that a crash
        # before leaves an empty folder and no instance half made.
        await asyncio.to_thread(replace_json, folder / RECORD, instance.to_dict())
        return instance

    async def find(self, mark: Mark) -> Instance | None:
        """Return the instance in the folder of that mark; see `Provider.find`."""
        return _recorded(self._folder(str(mark)))

    async def describe(self, id: str) -> Instance:
        """Return the instance, gone when its folder is; see `Provider.describe`."""
        return _recorded(self._folder(id)) or Instance(
            provider=self.provider_name, id=id, mark=ours(id), status=InstanceStatus.GONE
        )

    async def terminate(self, id: str) -> bool:
        """End the processes of the job directory, then remove it; see `Provider.terminate`."""
        folder = self._folder(id)
        if not folder.is_dir():
            return False
        if not await end_occupants(folder):
            raise ProviderError(
                f"A process that works in {folder} does not end.",
                "End it by hand; the folder is removed by the next terminate or reconcile.",
            )
        try:
            await asyncio.to_thread(_remove, folder)
        except OSError as error:
            raise ProviderError(
                f"{folder} cannot be removed: {error.strerror}.", "Remove it by hand."
            ) from error
        return True

    async def instances(self) -> list[Instance]:
        """Return an instance per folder with a record; see `Provider.instances`."""
        folders = sorted(self._instances_folder().iterdir())
        return [instance for folder in folders if (instance := _recorded(folder))]

    async def regroup(
        self, instance: Instance, resources: Resources, limits: Limits
    ) -> Instance | None:
        """Note other GPUs in the record of the folder; see `Provider.regroup`."""
        offer = (await self.offers(resources, limits))[0]
        folder = self._folder(str(instance.mark))
        if _recorded(folder) is None:
            raise ProviderError(f"{folder / RECORD} cannot be read.", "Run the job anew.")
        found = replace(
            instance,
            instance_type=offer.instance_type,
            gpu_type=offer.gpu_type,
            gpu_ids=offer.gpu_ids,
            gpu_count=offer.gpu_count,
        )
        # In the record it bears the provider's name, whatever its block is called.
        record = replace(found, provider=self.provider_name).to_dict()
        await asyncio.to_thread(replace_json, folder / RECORD, record)
        return found

    def machine(self, instance: Instance, *, compress: bool = False) -> LocalMachine:
        """Return this computer."""
        return LocalMachine()

    def _instances_folder(self) -> Path:
        # ~ may stand in a saved block, where no shell expands it.
        root = self.home.expanduser().absolute() if self.home else default_home()
        return private_folder(private_folder(root) / "instances")

    def _folder(self, name: str) -> Path:
        # The name becomes a path that `terminate` removes with all that is below it.
        if not NAME.fullmatch(name) or ".." in name:
            raise ConfigError(
                f"{name!r} cannot be the name of an instance.",
                "Use up to 128 letters, digits, '.', '_' and '-', and not '..'.",
            )
        return self._instances_folder() / name

    def _free_disk_gb(self) -> float:
        return shutil.disk_usage(self._instances_folder()).free / GIB


def _offer(disk_gb: float, group: Sequence[Gpu]) -> Offer:
    """Return the offer of some GPUs of one kind, or of the CPU alone."""
    gpu = group[0] if group else None
    return Offer(
        provider=Local.provider_name,
        instance_type=gpu.name if gpu else "CPU",
        region="local",
        price_per_hour=0.0,
        gpu_type=gpu.name if gpu else None,
        gpu_count=len(group),
        gpu_ids=tuple(each.uuid for each in group),
        vram_gb=min((each.free_gb for each in group), default=0.0),
        disk_gb=disk_gb,
        ram_gb=psutil.virtual_memory().total / GIB,
    )


def _check_resources(resources: Resources) -> None:
    """Refuse what this computer cannot be.

    Raises:
        CapacityError: naming the field.
    """
    ram_gb = psutil.virtual_memory().total / GIB
    if resources.min_ram_gb and ram_gb < resources.min_ram_gb:
        raise CapacityError(
            f"This computer has {ram_gb:.1f} GiB of memory, resources.min_ram_gb asks for "
            f"{resources.min_ram_gb:g}."
        )
    if resources.spot:
        raise CapacityError("This computer is not a spot machine.", "Set resources.spot: false.")
    if resources.regions and "local" not in resources.regions:
        raise CapacityError(
            f"resources.regions asks for {', '.join(resources.regions)}, not for this computer.",
            "Add local to resources.regions, or choose another provider.",
        )


def _wrong(found: list[Gpu], resources: Resources) -> NoReturn:
    raise CapacityError(
        f"resources.gpu_types asks for {', '.join(resources.gpu_types)}: {'; '.join(map(str, found))}.",
        "Correct resources.gpu_types, or choose another provider.",
    )


def _recorded(folder: Path) -> Instance | None:
    """Return the instance in a folder's record, or None without a usable record."""
    record = read_json(folder / RECORD)
    try:
        # By the folder's name, which is the mark, also of records that older versions wrote.
        return Instance.from_dict({**record, "mark": folder.name}) if record else None
    except TypeError:
        return None


def _remove(folder: Path) -> None:
    """Remove a folder, its record last, so that what is cut short still shows as an instance."""
    for path in folder.iterdir():
        # A link is removed and never followed: what it points at may be somebody's data set.
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != RECORD:
            path.unlink()
    shutil.rmtree(folder)
