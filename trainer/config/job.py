"""One job: its training, its machine, its limits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainer.config.settings import JobName, Settings, Text
from trainer.config.training import TrainingConfig
from trainer.methods import METHODS

MAX_NODES = 128


class Resources(Settings):
    """What the machine must have."""

    gpu_count: int | None = Field(default=None, ge=0)
    """How many GPUs of a machine train together; see training.parallelism. 0: none is used.
    null: one, but here the CPU will do without one."""
    cpu_processes: int | None = Field(default=None, ge=1)
    """How many processes train together where no GPU is used (gpu_count: 0). null: one."""
    nodes: int = Field(default=1, ge=1, le=MAX_NODES)
    """How many machines train the job together, each with so many GPUs or processes: of one provider
    and region, hired, started and replaced as one. For ssh and lambda, whose machines reach each
    other."""
    min_vram_gb: float | None = Field(default=None, gt=0)
    """Free memory that each GPU must have, in GiB."""
    disk_gb: float | None = Field(default=None, gt=0)
    """Free disk that the machine must have, in GiB. null: as much as the provider's default."""
    gpu_types: list[Text] = Field(default_factory=list)
    """Only these GPUs, such as [RTX 4090, A100]; parts of a name will do. []: any."""
    min_ram_gb: float | None = Field(default=None, gt=0)
    """Main memory that the machine must have, in GiB."""
    spot: bool | None = False
    """true: only machines that may be taken back at any time, which cost less. null: either."""
    regions: list[Text] = Field(default_factory=list)
    """Only these regions, in the provider's words. []: any."""
    cpu_threads: int | None = Field(default=None, ge=1)
    """Threads for CPU arithmetic. null: as torch decides."""


class Limits(Settings):
    """What the job may use."""

    max_runtime_minutes: float | None = Field(default=None, gt=0)
    """Stop with a saved checkpoint after this long. null: no limit."""
    stall_timeout_minutes: float = Field(default=30.0, gt=0)
    """No batch trained or evaluated for this long (outside of training: no log line): dump the
    stacks and restart."""
    max_restarts: int = Field(default=2, ge=0)
    """Restarts after a stall or a killed trainer, each from the newest valid checkpoint."""
    stop_grace_seconds: float = Field(default=120.0, gt=0)
    """How long a pause or a stop may take to save before the trainer is killed."""
    max_cost: float | None = Field(default=None, gt=0)
    """USD for the whole job, failed boots included; then it stops with a saved checkpoint."""
    max_price_per_hour: float | None = Field(default=None, gt=0)
    """USD per hour and machine; dearer ones are not hired."""
    boot_timeout_minutes: float | None = Field(default=None, gt=0)
    """How long a machine may take to boot. null: as long as is usual at its provider."""
    max_offers: int = Field(default=10, ge=1)
    """How many offers are tried, one after the other, before placing the job fails."""
    max_machine_losses: int = Field(default=5, ge=0)
    """How many lost or taken back machines the job survives."""
    max_lost_steps: int | None = Field(default=None, ge=0)
    """How many steps may have to be trained again after losses. null: any number."""
    lease_minutes: float = Field(default=30.0, ge=0.05)
    """A rented machine that nobody has renewed for so long saves, stops and ends itself."""
    teardown: Literal["verified", "always"] = "verified"
    """verified: a rented machine that holds the only copy of a result is kept until it is home."""


class TrainingJob(Settings):
    """One training job: what to train, on what, where, and within which limits."""

    name: JobName
    """Letters, digits, '.', '_' and '-'; it names folders and machines."""
    training: TrainingConfig
    """What to train."""
    provider: Text | list[Text] = "local"
    """Where the machine comes from: local (this computer), ssh, runpod, lambda, vast; a list in
    order of preference; or any, the cheapest of all that are set up."""
    resources: Resources = Resources()
    """What the machine must have."""
    limits: Limits = Limits()
    """What the job may use."""
    setup: list[str] = Field(default_factory=list)
    """Shell commands to run on the machine before training."""
    ssh_compression: bool = False
    """Compress what goes to and from a rented machine. It makes checkpoints smaller by less than a
    tenth and takes a core there: for a slow line only."""
    keep_minutes: float = Field(default=0.0, ge=0)
    """Keep a rented machine for so long after the job, for the next job of the same shape."""
    output_dir: Text | None = None
    """Where the verified adapter goes. null: artifacts/ in the orchestrator's home."""

    @model_validator(mode="after")
    def _several_machines(self) -> TrainingJob:
        """Refuse what one machine can do and several cannot."""
        nodes, training = self.resources.nodes, self.training
        if nodes == 1:
            return self
        if training.trainer != "builtin":
            raise ValueError(
                f"resources.nodes = {nodes}: trainer {training.trainer} is started on one machine "
                "only. Set resources.nodes: 1, or trainer: builtin"
            )
        if training.parallelism != "ddp":
            raise ValueError(
                f"resources.nodes = {nodes}: parallelism {training.parallelism} shares checkpoints "
                "out among the machines, and they come home from the first. Set parallelism: ddp"
            )
        if METHODS[training.method].generates:
            raise ValueError(
                f"training.method = {training.method} generates answers in one process only. "
                "Set resources.nodes: 1"
            )
        if self.keep_minutes:
            raise ValueError(
                f"keep_minutes = {self.keep_minutes:g}: machines are kept one by one, and "
                f"resources.nodes = {nodes} takes several at once. Set keep_minutes: 0"
            )
        return self

    @model_validator(mode="after")
    def _trains_together(self) -> TrainingJob:
        """Refuse what several processes cannot do."""
        resources, training = self.resources, self.training
        gpus, processes = resources.gpu_count or 0, self.processes_per_machine
        if (resources.cpu_processes or 1) > 1 and resources.gpu_count != 0:
            raise ValueError(
                f"resources.cpu_processes = {resources.cpu_processes} is for training without a "
                "GPU; each GPU has one process. Remove cpu_processes, or set gpu_count: 0"
            )
        if training.parallelism != "ddp" and gpus < 2:
            raise ValueError(
                f"training.parallelism = {training.parallelism} shares a model out among GPUs. "
                "Set resources.gpu_count: 2 or more, or parallelism: ddp"
            )
        if processes > 1 and METHODS[training.method].generates:
            raise ValueError(
                f"training.method = {training.method} generates answers in one process only, and "
                f"resources asks for {processes}. Set gpu_count: 1, or cpu_processes: 1"
            )
        return self

    @property
    def processes_per_machine(self) -> int:
        """How many processes of ours train together on one machine; a command starts its own."""
        if self.training.trainer != "builtin":
            return 1
        gpus = self.resources.gpu_count or 0
        return gpus if gpus > 1 else self.resources.cpu_processes or 1

    @property
    def providers(self) -> list[str]:
        """The names of the providers in order of preference; `any` stands for itself."""
        return [self.provider] if isinstance(self.provider, str) else list(self.provider)
