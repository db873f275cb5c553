"""The accounts that walks are taken at: what there is to be known of each provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from blocks.providers import aws, azure, gcp, lambda_cloud, runpod, sagemaker, vast
from blocks.providers.aws import offers as aws_offers
from blocks.providers.aws import prices as aws_prices
from blocks.providers.aws import sweeping as aws_sweeping
from blocks.providers.azure import market as azure_market
from blocks.providers.azure import network as azure_network
from blocks.providers.azure import reading as azure_reading
from blocks.providers.base import Provider
from blocks.providers.gcp import compute
from tests.clouds.aws import AwsCloud as LocalAWS
from tests.clouds.azure import AzureCloud as LocalAzure
from tests.clouds.cloud import Cloud, Rented
from tests.clouds.gcp import GoogleCloud as LocalGoogle
from tests.clouds.lambda_cloud import LambdaCloud as LocalLambda
from tests.clouds.runpod import RunPodCloud
from tests.clouds.sagemaker import SageMakerCloud
from tests.clouds.vast import VastCloud
from tests.faults.walks.machines import Machines


@dataclass(frozen=True, kw_only=True)
class Account:
    """A provider as a walk knows it."""

    server: type[Cloud]
    block: type[Provider]
    hurry: Sequence[tuple[ModuleType, Mapping[str, float]]]
    """Seconds of its modules, for a walk in which seconds are tenths."""


ACCOUNTS = {
    "aws": Account(
        server=LocalAWS,
        block=aws.AWS,
        hurry=[
            (aws, {"INSTANCES_SECONDS": 0.1}),
            (aws_offers, {"OFFERINGS_SECONDS": 0.5, "QUOTA_SECONDS": 0.5}),
            (aws_prices, {"SPOT_SECONDS": 0.1}),
            (aws_sweeping, {"IDLE_SECONDS": 2.0}),
        ],
    ),
    "azure": Account(
        server=LocalAzure,
        block=azure.Azure,
        hurry=[
            (azure, {"ORDER_SECONDS": 0.5, "SPENT_SECONDS": 0.5, "ORPHAN_SECONDS": 2.0}),
            (azure_market, {"SIZES_SECONDS": 0.5, "QUOTA_SECONDS": 0.5}),
            (azure_network, {"LOOK_SECONDS": 0.05}),
            (azure_reading, {"LIST_SECONDS": 0.1}),
        ],
    ),
    "gcp": Account(
        server=LocalGoogle,
        block=gcp.GoogleCloud,
        hurry=[
            (
                gcp,
                {
                    "ORDER_SECONDS": 0.5,
                    "FOLLOW_SECONDS": 1.0,
                    "LABEL_SECONDS": 1.0,
                    "INSTANCES_SECONDS": 0.1,
                    "QUOTA_SECONDS": 0.5,
                    "FULL_SECONDS": 0.5,
                    "IDLE_DISK_SECONDS": 2.0,
                },
            ),
            (compute, {"POLL_SECONDS": 0.05, "ROW_SECONDS": 0.1}),
        ],
    ),
    "lambda": Account(
        server=LocalLambda,
        block=lambda_cloud.LambdaCloud,
        hurry=[
            (
                lambda_cloud,
                {"LAUNCH_SECONDS": 0.3, "TYPES_SECONDS": 0.1, "INSTANCES_SECONDS": 0.1},
            )
        ],
    ),
    "runpod": Account(
        server=RunPodCloud,
        block=runpod.RunPod,
        hurry=[(runpod, {"LIST_SECONDS": 0.1, "CREATE_SECONDS": 0.3})],
    ),
    "sagemaker": Account(
        server=SageMakerCloud,
        block=sagemaker.SageMaker,
        hurry=[(sagemaker, {"DESCRIBE_SECONDS": 0.1})],
    ),
    "vast": Account(
        server=VastCloud,
        block=vast.VastAI,
        hurry=[
            (vast, {"SEARCH_SECONDS": 0.1, "INSTANCES_SECONDS": 0.1, "EXITED_SECONDS": 1.0}),
        ],
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
