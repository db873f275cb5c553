"""The accounts that walks are taken at: what there is to be known of each provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType

from blocks.providers import lambda_cloud, runpod, vast
from blocks.providers.base import Provider
from tests.clouds.cloud import Cloud, Rented
from tests.clouds.lambda_cloud import LambdaCloud as LocalLambda
from tests.clouds.runpod import RunPodCloud
from tests.clouds.vast import VastCloud
from tests.faults.walks.machines import Machines


@dataclass(frozen=True, kw_only=True)
class Account:
    """A provider as a walk knows it."""

    server: type[Cloud]
    block: type[Provider]
    module: ModuleType
    """Where its seconds are."""
    hurry: Mapping[str, float] = field(default_factory=dict)
    """Seconds of that module, for a walk in which seconds are tenths."""


ACCOUNTS = {
    "lambda": Account(
        server=LocalLambda,
        block=lambda_cloud.LambdaCloud,
        module=lambda_cloud,
        hurry={"LAUNCH_SECONDS": 0.3, "TYPES_SECONDS": 0.1, "INSTANCES_SECONDS": 0.1},
    ),
    "runpod": Account(
        server=RunPodCloud,
        block=runpod.RunPod,
        module=runpod,
        hurry={"LIST_SECONDS": 0.1, "CREATE_SECONDS": 0.3},
    ),
    "vast": Account(
        server=VastCloud,
        block=vast.VastAI,
        module=vast,
        hurry={"SEARCH_SECONDS": 0.1, "INSTANCES_SECONDS": 0.1, "EXITED_SECONDS": 1.0},
    ),
}


class OnFolders(Cloud):
    """An account whose machines are folders; mixed into a local cloud."""

    machines_of_walk: Machines

    def rent(self, rented: Rented) -> Rented:
        self.machines_of_walk.begin(rented.id)
        return super().rent(rented)

    def _end(self, rented: Rented) -> None:
        super()._end(rented)
        self.machines_of_walk.end(rented.id)


def opened(name: str, *arguments: object) -> OnFolders:
    """Return a provider's local cloud with machines that are folders, not yet started."""
    return type("WalkedCloud", (OnFolders, ACCOUNTS[name].server), {})(*arguments)
