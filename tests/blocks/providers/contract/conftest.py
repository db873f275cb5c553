"""Every provider with the account, or the place, that it is tried on."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from blocks.models import Offer
from blocks.providers import aws, boto, gcp, lambda_cloud, runpod, sagemaker, slurm, vast
from blocks.providers.aws import AWS
from blocks.providers.azure import Azure, market, network, reading
from blocks.providers.base import Provider
from blocks.providers.gcp import GoogleCloud
from blocks.providers.lambda_cloud import LambdaCloud
from blocks.providers.local import Local
from blocks.providers.runpod import RunPod
from blocks.providers.sagemaker import SageMaker
from blocks.providers.slurm import Slurm
from blocks.providers.ssh import SshHost
from blocks.providers.vast import VastAI
from flows.renting import giving_back
from tests.clouds.aws import AwsCloud
from tests.clouds.azure import AzureCloud
from tests.clouds.cloud import Cloud
from tests.clouds.gcp import GoogleCloud as LocalGoogle
from tests.clouds.lambda_cloud import LambdaCloud as LocalLambda
from tests.clouds.machines import SshdMachine
from tests.clouds.plain import PlainCloud
from tests.clouds.private import PrivateAws, PrivateAzure, PrivateGoogle
from tests.clouds.runpod import RunPodCloud
from tests.clouds.sagemaker import SageMakerCloud
from tests.clouds.slurm import SlurmCluster
from tests.clouds.vast import VastCloud
from trainer.config import Limits, Resources

PAGE = Path(__file__).parents[4] / "docs" / "adding-a-provider.md"


def from_the_page() -> type[Provider]:
    """Return the provider that the page shows, as it stands there."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    module = ModuleType("plain_provider")
    sys.modules[module.__name__] = module  # where pydantic looks for the names in annotations
    exec(compile(code, PAGE, "exec"), module.__dict__)  # noqa: S102 - our own page
    return module.__dict__["PlainCloud"]


@dataclass
class Case:
    """A provider, and what can be seen and broken of its account from outside."""

    provider: Provider
    cloud: Cloud | None = None
    resources: Resources = field(default_factory=lambda: Resources(gpu_count=0))

    async def offer(self) -> Offer:
        """Return the first choice."""
        return (await self.provider.offers(self.resources, Limits()))[0]

    def alive(self) -> list[str] | None:
        """Return the ids of what is billed; None where nothing ever is."""
        return self.cloud.alive() if self.cloud else None

    def left_over(self) -> list[str]:
        """Return what stands in the account beside machines, such as the names of SSH keys."""
        keys = getattr(self.cloud, "keys", {})
        beside = self.cloud.left_over() if self.cloud else []
        return [*beside, *(str(key["name"]) for key in keys.values())]


CASES = {
    "aws": (AwsCloud, AWS, Resources(gpu_count=1)),
    "azure": (AzureCloud, Azure, Resources(gpu_count=1)),
    "gcp": (LocalGoogle, GoogleCloud, Resources(gpu_count=1)),
    "lambda": (LocalLambda, LambdaCloud, Resources(gpu_count=1)),
    "plain": (PlainCloud, from_the_page(), Resources(gpu_count=0)),
    "runpod": (RunPodCloud, RunPod, Resources(gpu_count=0)),
    "sagemaker": (SageMakerCloud, SageMaker, Resources(gpu_count=1)),
    "vast": (VastCloud, VastAI, Resources(gpu_count=1)),
}
"""A local server, the block that speaks with it, and what to ask for."""
PRIVATE = {
    "aws-private": (PrivateAws, AWS, Resources(gpu_count=1)),
    "azure-private": (PrivateAzure, Azure, Resources(gpu_count=1)),
    "gcp-private": (PrivateGoogle, GoogleCloud, Resources(gpu_count=1)),
}
"""The same with machines that are reached through a bucket."""
_LONGER = [pytest.param(name, marks=pytest.mark.thorough) for name in PRIVATE]
CLOUDS = pytest.mark.parametrize("case", [*sorted(CASES), *_LONGER], indirect=True)
OF_JSON = pytest.mark.parametrize(
    "case",
    [
        *sorted(CASES.keys() - {"aws", "azure"}),
        # They have as many answers as three others.
        *(pytest.param(name, marks=pytest.mark.thorough) for name in ("aws", "azure")),
    ],
    indirect=True,
)
"""All whose answers are trees: JSON, or what Amazon's library makes of XML."""
EVERYWHERE = pytest.mark.parametrize(
    "case",
    # A cluster takes a while to start.
    [*sorted(CASES), *_LONGER, "local", "ssh", pytest.param("slurm", marks=pytest.mark.thorough)],
    indirect=True,
)


@pytest.fixture
def case(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Case]:
    """Open the account, in a hurry: no pace, no old answers, a settle time of a second."""
    if request.param == "local":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield Case(Local(home=tmp_path / "home"))
        return
    with ExitStack() as open_here:
        if request.param == "slurm":
            yield Case(_cluster(tmp_path, open_here, monkeypatch))
            return
        if request.param == "ssh":
            yield Case(_host(tmp_path, open_here, monkeypatch))
            return
        server, block, resources = {**CASES, **PRIVATE}[request.param]
        hurry(block, monkeypatch)
        cloud = open_here.enter_context(server(tmp_path / "cloud"))
        cloud.boot_seconds, cloud.sshd_never = 0.1, True
        if hasattr(cloud, "rates"):
            cloud.rates.factor = 0.0
        for name, value in cloud.environ().items():
            monkeypatch.setenv(name, value)
        boto.forget()  # clients of another account
        yield Case(block(), cloud, resources)
        assert cloud.errors == []


def hurry(block: type[Provider], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be waited for that only real services ask for."""
    monkeypatch.setattr(block, "settle_seconds", 0.6)
    monkeypatch.setattr(giving_back, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(block, "intervals", {}, raising=False)
    for module, name in [
        *((lambda_cloud, name) for name in ("TYPES_SECONDS", "INSTANCES_SECONDS")),
        *((vast, name) for name in ("SEARCH_SECONDS", "INSTANCES_SECONDS")),
        (runpod, "LIST_SECONDS"),
        *((gcp, name) for name in ("INSTANCES_SECONDS", "QUOTA_SECONDS")),
        *((gcp.compute, name) for name in ("ROW_SECONDS", "POLL_SECONDS")),
        (aws, "INSTANCES_SECONDS"),
        (sagemaker, "DESCRIBE_SECONDS"),
        (reading, "LIST_SECONDS"),
        (market, "QUOTA_SECONDS"),
        (network, "LOOK_SECONDS"),
    ]:
        monkeypatch.setattr(module, name, 0.0)


def _cluster(folder: Path, open_here: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    cluster = open_here.enter_context(SlurmCluster(folder / "cluster"))
    for name, value in cluster.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm, "LIST_SECONDS", 0.0)
    monkeypatch.setattr(Slurm, "settle_seconds", 0.6)
    return Slurm()


def _host(folder: Path, open_here: ExitStack, monkeypatch: pytest.MonkeyPatch) -> SshHost:
    from blocks.keys import MachineKeys

    own = MachineKeys("own")
    machine = open_here.enter_context(SshdMachine(folder / "host", public_keys=[own.public_key()]))
    monkeypatch.setenv("SSH_KEY_FILE", str(own.private_key))
    return SshHost(hosts=[f"{machine.user}@{machine.address}:{machine.port}"])
