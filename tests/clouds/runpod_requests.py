"""The bodies that RunPod accepts: their schemas are closed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tests.clouds.runpod_catalog import CPUS, GPUS, Cpu, Gpu

Version = Annotated[str, Field(pattern=r"^\d+\.\d+$")]


class Closed(BaseModel):
    """A body that holds nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True)


class GpuRequest(Closed):
    id: str
    count: int = Field(default=1, ge=1)
    allowedCudaVersions: list[Version] = []
    minCudaVersion: Version | None = None
    minRamPerGpu: int | None = Field(default=None, ge=1)
    minVcpuCountPerGpu: int | None = Field(default=None, ge=1)


class CpuRequest(Closed):
    id: str = Field(min_length=1)
    vcpuCount: int = Field(ge=2)


class CreatePod(Closed):
    name: str = Field(min_length=1)
    image: str = ""
    gpu: GpuRequest | None = None
    cpu: CpuRequest | None = None
    cloud: Literal["SECURE", "COMMUNITY"] = "SECURE"
    dataCenterIds: list[str] = []
    disk: int | None = Field(default=None, ge=1)
    env: dict[str, str] = {}
    ports: list[str] = []
    args: str = ""
    cmd: list[str] = []
    entrypoint: list[str] = []
    registry: str | None = None
    startSsh: bool = False
    startJupyter: bool = False
    globalNetworking: bool = False

    def kind(self) -> Gpu | Cpu | None:
        """Return what is asked for, if there is such a thing."""
        if self.gpu:
            return next((gpu for gpu in GPUS if gpu.id == self.gpu.id), None)
        return next((cpu for cpu in CPUS if self.cpu and cpu.id == self.cpu.id), None)

    def fits(self, kind: Gpu | Cpu) -> bool:
        """Return whether a host can have what is asked for."""
        if self.gpu and isinstance(kind, Gpu):
            price = kind.secure if self.cloud == "SECURE" else kind.community
            floor = self.gpu.minCudaVersion or "0.0"
            enough = [*map(int, kind.cuda.split("."))] >= [*map(int, floor.split("."))]
            ram = self.gpu.minRamPerGpu or 0
            return price is not None and self.gpu.count <= kind.most and enough and ram <= 128
        count = self.cpu.vcpuCount if self.cpu else 0
        power = count & (count - 1) == 0
        return isinstance(kind, Cpu) and power and count <= kind.most and (self.disk or 20) >= 20

    def price(self, kind: Gpu | Cpu) -> float:
        """Return USD per hour, for the whole pod."""
        if isinstance(kind, Cpu):
            return kind.per_vcpu * (self.cpu.vcpuCount if self.cpu else 0)
        price = kind.secure if self.cloud == "SECURE" else kind.community
        return (price or 0.0) * (self.gpu.count if self.gpu else 0)

    def nvidia_smi(self, kind: Gpu | Cpu) -> tuple[str, ...]:
        """Return what nvidia-smi says about each GPU of the pod."""
        if isinstance(kind, Cpu) or self.gpu is None:
            return ()
        return (f"{kind.id}, {kind.mib}",) * self.gpu.count

    def shape(self) -> dict[str, Any]:
        """Return the field of a pod that says what it has."""
        if self.gpu:
            count = self.gpu.count
            return {
                "gpu": {
                    "id": self.gpu.id,
                    "count": count,
                    "vcpuCount": 16 * count,
                    "memory": 64 * count,
                }
            }
        cpu = self.cpu
        return {"cpu": {"id": cpu.id, "vcpuCount": cpu.vcpuCount, "memory": 2 * cpu.vcpuCount}}


class UpdatePod(Closed):
    name: str | None = Field(default=None, min_length=1)
    locked: bool | None = None


class ActionRequest(Closed):
    action: Literal["start", "stop", "restart", "terminate"]
