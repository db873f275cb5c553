"""One job: its training, its machine, its limits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from trainer.config.notifications import Notifications
from trainer.config.on_completion import OnCompletion
from trainer.config.settings import JobName, Settings, Text
from trainer.config.store_urls import parse_store_url
from trainer.config.training import TrainingConfig

MAX_NODES = 128


def _of_a_store(text: str) -> str:
    try:
        parse_store_url(text)
    except ValueError as error:  # which begins with the value, as does what shows this
        raise ValueError(str(error).removeprefix(f"{text!r}: ")) from None
    return text


class Resources(Settings):
    """What the machine must have."""

    gpu_count: int | None = Field(default=None, ge=0)
    """How many GPUs of a machine train together; see training.parallelism. 0: use no GPU. null: one, or
    the CPU if this computer has none."""
    cpu_processes: int | None = Field(default=None, ge=1)
    """How many processes train together without a GPU (gpu_count: 0). null: one."""
    nodes: int = Field(default=1, ge=1, le=MAX_NODES)
    """How many machines train the job together, each with that many GPUs or processes: of one provider
    and region, hired, started and replaced as one. For aws, azure, gcp, lambda, slurm, ssh, whose machines reach
    each other."""
    min_vram_gb: float | None = Field(default=None, gt=0)
    """Free memory that each GPU must have, in GiB. null: any."""
    disk_gb: float | None = Field(default=None, gt=0)
    """Free disk that the machine must have, in GiB. null: as much as the provider's default."""
    gpu_types: list[Text] = Field(default_factory=list)
    """Only these GPUs, such as [RTX 4090, A100]; part of a name is enough. []: any."""
    min_ram_gb: float | None = Field(default=None, gt=0)
    """Main memory that the machine must have, in GiB. null: any."""
    spot: bool | None = False
    """true: only machines that the provider may take back at any time, which cost less. null: either."""
    regions: list[Text] = Field(default_factory=list)
    """Only these regions, by the provider's names. []: any."""
    cpu_threads: int | None = Field(default=None, ge=1)
    """CPU threads for computing. null: let torch decide."""


class Limits(Settings):
    """What the job may use."""

    max_runtime_minutes: float | None = Field(default=None, gt=0)
    """Stop with a saved checkpoint after this long. null: no limit."""
    stall_timeout_minutes: float = Field(default=30.0, gt=0)
    """Dump the stacks and restart when no batch was trained or evaluated for this long (outside of
    training: no log line)."""
    max_restarts: int = Field(default=2, ge=0)
    """Restarts after a stall or a killed trainer, each from the newest valid checkpoint."""
    stop_grace_seconds: float = Field(default=120.0, gt=0)
    """How long the trainer may take to save on a pause or stop before it is killed."""
    max_cost: float | None = Field(default=None, gt=0)
    """USD for the whole job, failed boots included; at the limit it saves a checkpoint and stops.
    null: no limit."""
    max_price_per_hour: float | None = Field(default=None, gt=0)
    """USD per hour and machine; more expensive ones are not rented. null: at any price."""
    boot_timeout_minutes: float | None = Field(default=None, gt=0)
    """How long a machine may take to boot. null: what is usual for its provider."""
    max_offers: int = Field(default=10, ge=1)
    """How many offers to try, one after the other, before giving up."""
    max_machine_losses: int = Field(default=5, ge=0)
    """How many machines may be lost or taken back before the job fails."""
    max_lost_steps: int | None = Field(default=None, ge=0)
    """How many steps may be trained again after losing machines. null: any number."""
    lease_minutes: float = Field(default=30.0, ge=0.05)
    """A rented machine whose lease was not renewed for this long saves, stops and shuts down."""
    teardown: Literal["verified", "always"] = "verified"
    """verified: keep a rented machine that holds the only copy of a result until it is home."""


class TrainingJob(Settings):
    """One training job: what to train, on what, where, and within which limits."""

    name: JobName
    """Letters, digits, '.', '_' and '-'; used in the names of folders and machines."""
    training: TrainingConfig
    """What to train."""
    provider: Text | list[Text] = "local"
    """Where the machine comes from: local (this computer), ssh, aws, azure, gcp, runpod, lambda, sagemaker,
    vast; a list in order of preference; or any, the cheapest of all that are set up."""
    priority: int | None = Field(default=None, ge=0, le=100)
    """How urgent it is in the queue of its pool, 0 to 100; more goes first. null: as its work queue says:
    high 80, default 50, low 20."""
    project: JobName | None = None
    """What it is a part of: the share of a pool and the quotas are counted by user and by project.
    null: no project."""
    resources: Resources = Resources()
    """What the machine must have."""
    limits: Limits = Limits()
    """What the job may use."""
    setup: list[str] = Field(default_factory=list)
    """Shell commands to run on the machine before training."""
    ssh_compression: bool = False
    """Compress transfers to and from a rented machine. Checkpoints shrink by less than a tenth, and it
    takes a CPU core there: only for slow connections."""
    keep_minutes: float = Field(default=0.0, ge=0)
    """Keep a rented machine this long after the job, for the next job of the same shape."""
    output_dir: Text | None = None
    """Where the verified result goes. null: artifacts/ in the orchestrator's home folder."""

    store: Annotated[Text, AfterValidator(_of_a_store)] | None = None
    """Where checkpoints and the result are kept too: s3://BUCKET/PATH, gs://BUCKET/PATH,
    az://CONTAINER/PATH, block://NAME for a saved block, or a folder. null: nowhere else."""
    on_completion: OnCompletion | None = None
    """A deployment to start, once, when the job has completed. null: none."""
    notifications: Notifications | None = None
    """Who is told what becomes of it, besides those whom the installation tells. null: nobody."""

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
        if training.parallelism == "deepspeed":
            raise ValueError(
                f"resources.nodes = {nodes}: DeepSpeed over several machines was never tried, and how "
                "it shares its checkpoints out is not known here. Set parallelism: fsdp"
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
        gpus = resources.gpu_count or 0
        if (resources.cpu_processes or 1) > 1 and resources.gpu_count != 0:
            raise ValueError(
                f"resources.cpu_processes = {resources.cpu_processes} is for training without a "
                "GPU; each GPU has one process. Remove cpu_processes, or set gpu_count: 0"
            )
        if training.parallelism == "deepspeed" and gpus < 2:
            raise ValueError(
                "training.parallelism = deepspeed splits a model across GPUs. "
                "Set resources.gpu_count: 2 or more, or parallelism: fsdp"
            )
        if training.shards and self.sharing == 1:
            raise ValueError(
                f"training.parallelism = {training.parallelism} splits a model across processes. "
                "Set resources.gpu_count: 2 or more (without a GPU cpu_processes), or parallelism: ddp"
            )
        return self

    @property
    def processes_per_machine(self) -> int:
        """How many processes of ours train together on one machine; a command starts its own."""
        if self.training.trainer != "builtin":
            return 1
        gpus = self.resources.gpu_count or 0
        # Each GPU has one process; with one GPU, or none asked for, cpu_processes decides.
        return gpus if gpus > 1 else self.resources.cpu_processes or 1

    @property
    def sharing(self) -> int:
        """How many processes hold the model together once, where it is split across processes."""
        nodes = self.resources.nodes if self.training.parallelism == "fsdp" else 1
        return nodes * self.processes_per_machine

    @property
    def providers(self) -> list[str]:
        """The names of the providers in order of preference; `any` stands for itself."""
        return [self.provider] if isinstance(self.provider, str) else list(self.provider)
