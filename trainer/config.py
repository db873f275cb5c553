"""What a user asks for: `TrainingJob` and its parts. YAML on disk, a form in the Prefect UI.

Hyperparameters bear the names that transformers, TRL and PEFT give them, and mean the same.
Everything is refused that is not known, so that a misspelt name is an error, never "off".
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from trainer.methods import METHODS

DatasetFormat = Literal[
    "auto", "messages", "conversations", "instruction", "prompt_completion", "text"
]


class Settings(BaseModel):
    """The base of all settings: frozen, and unknown names are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def _known_method(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"is no training method; there are: {', '.join(METHODS)}")
    return name


def _plain_text(text: str) -> str:
    if any(ord(character) < 32 for character in text):
        raise ValueError("must not hold control characters such as line breaks")
    return text


def _some_steps(steps: int) -> int:
    if steps == 0:  # to transformers it means: as num_train_epochs says
        raise ValueError("must be 1 or more, or -1 for no limit")
    return steps


NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


def _safe_name(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN.rstrip("$"), name) or ".." in name:
        raise ValueError(
            "must be 1 to 63 letters, digits, '.', '_' or '-', start with a letter or digit, "
            "and not hold '..'"
        )
    return name


Text = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_plain_text)]
MethodName = Annotated[
    str, AfterValidator(_known_method), Field(json_schema_extra={"enum": sorted(METHODS)})
]
JobName = Annotated[
    str, AfterValidator(_safe_name), Field(json_schema_extra={"pattern": NAME_PATTERN})
]


class DatasetConfig(Settings):
    """Where the examples are and how to read them."""

    path: Text
    """A file (JSONL, JSON, CSV, Parquet), a folder of such files, or a dataset on the Hub."""
    format: DatasetFormat = "auto"
    """How rows are laid out. auto: told from the column names of the first row."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Your names for the columns, by ours: {instruction: question, output: answer}."""
    subset: Text | None = None
    """A Hub dataset's configuration, where it has several."""
    split: Text = "train"
    """A Hub dataset's split."""
    max_rows: int | None = Field(default=None, ge=1)
    """Read no more rows than this; for a quick trial."""
    eval_path: Text | None = None
    """Held-out rows, in the same format, from here."""
    eval_fraction: float = Field(default=0.0, ge=0.0, le=0.5)
    """Hold out this share of the rows, the same rows for the same seed."""

    @model_validator(mode="after")
    def _one_source_of_evaluation(self) -> DatasetConfig:
        if self.eval_path and self.eval_fraction:
            raise ValueError("give eval_path or eval_fraction, not both")
        return self


class LoraConfig(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685), trained by PEFT."""

    r: int = Field(default=16, ge=1, le=1024)
    """Rank of the adapters."""
    lora_alpha: int = Field(default=32, ge=1)
    """Scale: the adapter's output is multiplied by lora_alpha / r."""
    lora_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout before the adapter."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Which layers get an adapter: all-linear, or names such as [q_proj, v_proj]."""
    modules_to_save: list[str] | None = None
    """Layers trained in full and saved with the adapter, such as [embed_tokens]."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained."""


def _dataset_shorthand(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class TrainingConfig(Settings):
    """What the trainer reads: method, model, dataset, adapters and hyperparameters."""

    method: MethodName = "sft"
    """sft: supervised fine-tuning on examples. cpt: continued pretraining on plain text."""
    model: Text
    """The base model: a folder, or a model on the Hub."""
    init: Literal["pretrained", "random"] = "pretrained"
    """pretrained: start from the weights. random: start from the config alone."""
    dataset: Annotated[DatasetConfig, BeforeValidator(_dataset_shorthand)]
    """The examples. A path alone will do."""
    peft: LoraConfig | None = LoraConfig()
    """Adapters to train. null: train all weights."""
    num_train_epochs: float = Field(default=3.0, gt=0)
    """How often to go over the dataset."""
    max_steps: Annotated[int, AfterValidator(_some_steps)] = Field(default=-1, ge=-1)
    """Stop after so many optimizer steps; -1: as num_train_epochs says."""
    per_device_train_batch_size: int = Field(default=8, ge=1)
    """Examples per device and forward pass."""
    per_device_eval_batch_size: int = Field(default=8, ge=1)
    """Examples per device in evaluation."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes per optimizer step."""
    learning_rate: float | None = Field(default=None, gt=0, le=10)
    """null: 2e-4 with adapters, 2e-5 for all weights."""
    lr_scheduler_type: Text = "cosine"
    """How the learning rate falls; any name that transformers knows."""
    warmup_steps: float = Field(default=0.03, ge=0)
    """Steps until the full learning rate; below 1 a share of all steps."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Gradients are clipped to this norm; 0: never."""
    optim: Text = "adamw_torch_fused"
    """The optimizer; any name that transformers knows."""
    max_length: int = Field(default=1024, ge=8)
    """Longest example in tokens; longer ones are cut (cpt: the length of a packed block)."""
    packing: bool | None = None
    """Fill every sequence up to max_length. null: for cpt only."""
    assistant_only_loss: bool = True
    """Learn from the assistant's (or the completion's) tokens only."""
    gradient_checkpointing: bool = False
    """Trade time for memory: recompute activations in the backward pass."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision. auto: bfloat16 where the GPU has it, else float32."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Of initialisation, dropout, data order and split."""
    logging_steps: int = Field(default=1, ge=1)
    """Write metrics every so many steps."""
    save_steps: int = Field(default=100, ge=1)
    """Write a checkpoint every so many steps."""
    save_total_limit: int = Field(default=2, ge=1)
    """Keep so many checkpoints; the newest valid one and the best are never removed."""
    eval_steps: int | None = Field(default=None, ge=1)
    """Evaluate every so many steps. null: at the end of each epoch."""
    eval_on_start: bool = True
    """Evaluate once before training, to see what training gained."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Stop when eval_loss was not better for so many evaluations, and keep the best."""
    early_stopping_threshold: float = Field(default=0.0, ge=0)
    """Better means lower by more than this."""
    report_to: list[Literal["tensorboard"]] = ["tensorboard"]
    """Where else metrics go. []: nowhere."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Any further argument of the method's TRL or transformers config, by its own name."""

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        held_out = self.dataset.eval_path or self.dataset.eval_fraction
        if self.early_stopping_patience and not held_out:
            raise ValueError(
                "early_stopping_patience needs held-out rows: "
                "set dataset.eval_fraction or dataset.eval_path"
            )
        if self.init == "random" and self.peft:
            raise ValueError("init: random has no weights to adapt: set peft: null")
        return self


class Resources(Settings):
    """What the machine must have."""

    gpu_count: int | None = Field(default=None, ge=0, le=1)
    """1: a GPU is required. 0: none is used. null: one, but here the CPU will do without one."""
    min_vram_gb: float | None = Field(default=None, gt=0)
    """Free memory that the GPU must have, in GiB."""
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
    """No log line and no metric for this long: dump the stacks and restart."""
    max_restarts: int = Field(default=2, ge=0)
    """Restarts after a stall or a killed trainer, each from the newest valid checkpoint."""
    stop_grace_seconds: float = Field(default=120.0, gt=0)
    """How long a pause or a stop may take to save before the trainer is killed."""
    max_cost: float | None = Field(default=None, gt=0)
    """USD for the whole job, failed boots included; then it stops with a saved checkpoint."""
    max_price_per_hour: float | None = Field(default=None, gt=0)
    """USD per hour; dearer machines are not hired."""
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
    keep_minutes: float = Field(default=0.0, ge=0)
    """Keep a rented machine for so long after the job, for the next job of the same shape."""
    output_dir: Text | None = None
    """Where the verified adapter goes. null: artifacts/ in the orchestrator's home."""

    @property
    def providers(self) -> list[str]:
        """The names of the providers in order of preference; `any` stands for itself."""
        return [self.provider] if isinstance(self.provider, str) else list(self.provider)
