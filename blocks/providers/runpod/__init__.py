"""RunPod: containers on rented GPUs, by its REST API v2."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import Field

from blocks.marks import Mark
from blocks.models import Instance, Offer
from blocks.providers.absence import absent
from blocks.providers.api import Answer, Api, Unanswered
from blocks.providers.base import counted
from blocks.providers.cloud import CloudProvider, one_line
from blocks.providers.lost_answer import came_of
from blocks.providers.runpod.answers import (
    HOST_VARIABLE,
    SET_KEY,
    RunPodApi,
    instance_of,
    is_absent,
    refused,
    rows_of,
)
from blocks.providers.runpod.offers import CPU_CLOUD, cpu_offers, gpu_offers
from trainer.config import Limits, Resources
from trainer.contract.errors import CapacityError, ConfigError, ProviderError

GPU_VARIABLE, KEY_VARIABLE = "RUNPOD_GPU_TYPE", "RUNPOD_SSH_PUBLIC_KEY"
PUBLIC_KEY = re.compile(r"(ssh|ecdsa|sk)-[\w@.-]+ [A-Za-z0-9+/=]+( [^\r\n]*)?", re.ASCII)
CREATE_SECONDS = 60.0  # of silence that a create is allowed
LIST_SECONDS = 2.0  # how old the list of pods may be
CATALOG_SECONDS = 5.0  # how old what is for hire may be
PAGE = 1000
MOST_PAGES = 1000  # a cursor that never ends must not be followed for ever


class RunPod(CloudProvider):
    """Hires pods of RunPod, billed by the second until they are terminated."""

    _block_type_name = "RunPod"
    _block_type_slug = "training-orchestrator-runpod"

    provider_name: ClassVar[str] = "runpod"
    title: ClassVar[str] = "RunPod"
    url: ClassVar[str] = "https://api.runpod.io/v2"
    url_variable: ClassVar[str] = "RUNPOD_API_URL"
    set_up_by: ClassVar[str] = "RUNPOD_API_KEY"
    set_key: ClassVar[str] = SET_KEY
    api_class: ClassVar[type[Api]] = RunPodApi
    instead: ClassVar[Mapping[str, str]] = {
        "RUNPOD_SSH_PRIVATE_KEY_PATH": "each pod gets a key pair of its own, which is removed with "
        f"it; to log in by a key of yours, set {KEY_VARIABLE} to its public half"
    }
    boot_minutes: ClassVar[float] = 15.0
    shutdown_command: ClassVar[str] = one_line(Path(__file__).with_name("shutdown.sh"))

    image: str = Field(
        default="runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404",
        description="Container image; it must start sshd with the key in PUBLIC_KEY, as "
        "RunPod's own images do.",
    )
    cuda: str = Field(
        default="12.8",
        pattern=r"^(\d+\.\d+)?$",
        description="Lowest CUDA version of the host's driver, as the image needs it. Empty: any.",
    )
    cloud: Literal["SECURE", "COMMUNITY"] = Field(
        default="SECURE",
        description="SECURE: data centres. COMMUNITY: computers of third parties, cheaper.",
    )
    disk_gb: int = Field(
        default=60, ge=20, description="Container disk in GB where a job asks for none."
    )

    async def check(self) -> str:
        """Verify the key by listing the pods; see `Provider.check`."""
        self._api().forget("pods")
        pods = await self.instances()
        rate = sum(pod.price_per_hour or 0 for pod in pods)
        return f"{counted(len(pods), 'pod')}, {rate:g} USD per hour"

    async def offers(self, resources: Resources, limits: Limits) -> list[Offer]:
        """Return one offer per kind, and per region where regions are asked for."""
        if resources.spot:
            raise CapacityError(
                "RunPod has no spot pods.", "Set resources.spot: false, or choose another provider."
            )
        wanted = os.environ.get(GPU_VARIABLE, "").strip()
        if wanted and not resources.gpu_types and resources.gpu_count != 0:
            named = resources.model_copy(update={"gpu_types": [wanted]})
            try:
                return await self._offers(named, limits)
            except CapacityError as error:
                words = f"{error.message} {GPU_VARIABLE} = {wanted!r} asks for that GPU."
                raise CapacityError(words, error.suggestion) from None
        return await self._offers(resources, limits)

    async def _offers(self, resources: Resources, limits: Limits) -> list[Offer]:
        kinds, params = (
            ("cpus", {}) if resources.gpu_count == 0 else ("gpus", self._gpu_query(resources))
        )
        answer = await self._api().read(
            f"/catalog/{kinds}",
            CATALOG_SECONDS,
            params={"include": "AVAILABILITY", "product": "POD", **params},
        )
        if not answer.ok:
            raise refused(answer)
        rows = rows_of(answer, kinds)
        if kinds == "cpus":
            return cpu_offers(rows, resources, limits, self.disk_gb)
        return gpu_offers(rows, resources, limits, self.disk_gb, self.cloud)

    async def launch(
        self, offer: Offer, mark: Mark, ssh_public_key: str | None, first_script: str = ""
    ) -> Instance:
        """Create the pod; see `Provider.launch`."""
        return await self.find(mark) or await self._created(offer, mark, ssh_public_key)

    async def find(self, mark: Mark) -> Instance | None:
        """Return the pod whose name is the mark; see `Provider.find`."""
        self._api().forget("pods")  # what was created a moment ago may be in the next list
        return next((pod for pod in await self.instances() if pod.mark == mark), None)

    async def describe(self, id: str) -> Instance:
        """Return the pod as listed; what is not listed is asked for; see `Provider.describe`."""
        for pod in await self.instances():
            if pod.id == id:
                return pod
        # Absent from the list is not yet gone: the list may be two seconds old, the pod younger.
        answer = await self._api().read(_path(id), LIST_SECONDS)
        if is_absent(answer):
            return absent(self.provider_name, id)
        return self._instance(answer)

    async def terminate(self, id: str) -> bool:
        """Delete the pod; see `Provider.terminate`."""
        answer = await self._api().call("DELETE", _path(id))
        self._api().forget("pods")
        if is_absent(answer):
            return False
        if not answer.ok:
            raise refused(answer)
        return True

    async def instances(self) -> list[Instance]:
        """Return every pod of the account but those of clusters; see `Provider.instances`."""
        return await self._api().shared("pods", LIST_SECONDS, self._listed)

    async def remark(self, id: str, mark: Mark) -> bool:
        """Give the pod another name; False when it is gone. Nothing of it restarts."""
        answer = await self._api().call("PATCH", _path(id), body={"name": str(mark)})
        self._api().forget("pods")
        if is_absent(answer):
            return False
        self._instance(answer)
        return True

    async def _call(self, method: str, path: str, **options: Any) -> Answer:
        """Call the API and return the answer.

        Raises:
            OrchestratorError: it refuses.
        """
        answer = await self._api().call(method, path, **options)
        if not answer.ok:
            raise refused(answer)
        return answer

    def _gpu_query(self, resources: Resources) -> dict[str, str]:
        # Hosts have drivers of different ages, and the image does not start on one that is too old.
        floor = {"minCudaVersion": self.cuda} if self.cuda else {}
        # What is free for one GPU may lie on as many hosts as there are GPUs.
        return {"cloud": self.cloud, "count": str(resources.gpu_count or 1), **floor}

    async def _listed(self) -> list[Instance]:
        """Return all pages of the list."""
        found: list[Instance] = []
        params = {"limit": str(PAGE)}
        for _ in range(MOST_PAGES):
            answer = await self._call("GET", "/pods", params=params)
            rows = rows_of(answer, "pods")
            pods = [instance for row in rows if (instance := instance_of(row))]
            if len(pods) < len(rows):
                raise ProviderError("RunPod's answer to GET /pods has a pod without an id.")
            found += pods
            pages = answer.data.get("pagination")
            cursor = pages.get("nextCursor") if isinstance(pages, dict) else None
            if not cursor or not pages.get("hasNextPage"):
                return found
            params["cursor"] = str(cursor)
        # Half a list would make a machine that runs look gone.
        raise ProviderError(f"RunPod's list of pods has more than {MOST_PAGES} pages.")

    async def _created(self, offer: Offer, mark: Mark, ssh_public_key: str | None) -> Instance:
        body = self._order(offer, mark, ssh_public_key)
        try:
            answer = await self._api().call(
                "POST", "/pods", body=body, once=True, read_seconds=CREATE_SECONDS
            )
            if answer.ok:
                return self._instance(answer)
        except Unanswered as error:
            return await came_of(self, mark, error)
        finally:
            self._api().forget("pods")
        raise refused(answer, offer)

    def _order(self, offer: Offer, mark: Mark, ssh_public_key: str | None) -> dict[str, Any]:
        """Return the body of a create."""
        # The API does not say on which computer a pod is; this variable comes back with the pod.
        env = {HOST_VARIABLE: offer.host}
        if ssh_public_key:
            env["PUBLIC_KEY"] = "\n".join([ssh_public_key.strip(), *_users_key()])
        return {
            "name": str(mark),
            "image": self.image,
            "cloud": self._cloud_of(offer),
            "disk": math.ceil(offer.disk_gb or self.disk_gb),
            "env": env,
            "ports": ["22/tcp"],
            "startSsh": True,
            **dict(self._shape(offer)),
        }

    def _cloud_of(self, offer: Offer) -> str:
        return self.cloud if offer.gpu_count else CPU_CLOUD

    def _shape(self, offer: Offer) -> Iterator[tuple[str, Any]]:
        if not offer.gpu_count:
            # As `offers` put them together: `cpu3c-4`.
            flavour, _, vcpus = offer.instance_type.rpartition("-")
            yield "cpu", {"id": flavour, "vcpuCount": int(vcpus)}
        else:
            gpu: dict[str, Any] = {"id": offer.instance_type, "count": offer.gpu_count}
            if self.cuda:
                gpu["minCudaVersion"] = self.cuda
            if offer.ram_gb:
                # RunPod counts memory per GPU, jobs per machine; rounded up, or the pod would have
                # too little.
                gpu["minRamPerGpu"] = math.ceil(offer.ram_gb / offer.gpu_count)
            yield "gpu", gpu
        # Where no region was asked for, the offer names the cloud itself in its place.
        if offer.region != self._cloud_of(offer):
            yield "dataCenterIds", [offer.region]

    def _instance(self, answer: Answer) -> Instance:
        """Return the pod of an answer.

        Raises:
            Unanswered: the pod is there, and the answer does not say which.
            OrchestratorError: it is a refusal.
        """
        if not answer.ok:
            raise refused(answer)
        instance = instance_of(answer.data) if isinstance(answer.data, dict) else None
        if instance is None:
            raise Unanswered("RunPod's answer does not say which pod it made or changed.")
        return instance


def _users_key() -> list[str]:
    """Return the user's own public key, by which pods let in who holds the private one.

    Raises:
        ConfigError: it is none.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if key and PUBLIC_KEY.fullmatch(key) is None:
        raise ConfigError(
            f"{KEY_VARIABLE}: is no public key.",
            "Set it to the one line of a file such as ~/.ssh/id_ed25519.pub, or unset it.",
        )
    return [key] if key else []


def _path(id: str) -> str:
    return f"/pods/{quote(id, safe='')}"
