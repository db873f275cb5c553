"""The fields of a training config; `trainer.config.rules` says which of them go together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from trainer.config.command import CommandConfig, TrainerName, without_model
from trainer.config.dataset import DatasetConfig
from trainer.config.methods import METHODS
from trainer.config.outputs import Quantization, Repository, Tracker
from trainer.config.peft import LoraConfig, Peft
from trainer.config.quantization import QuantizationConfig
from trainer.config.rewards import JudgeConfig, SandboxConfig
from trainer.config.settings import Settings, Text


def _known_method(name: str) -> str:
    if name.casefold().startswith(("embed", "sentence")):
        raise ValueError(
            "is not a training method: models of embeddings are not trained here. Train one with "
            "sentence-transformers, by trainer: command; classify trains classes of texts"
        )
    if name not in METHODS:
        raise ValueError(f"is not a training method; there are: {', '.join(METHODS)}")
    return name


def _some_steps(steps: int) -> int:
    if steps == 0:  # to transformers it means: as num_train_epochs says
        raise ValueError("must be 1 or more, or -1 for no limit")
    return steps


MethodName = Annotated[
    str, AfterValidator(_known_method), Field(json_schema_extra={"enum": sorted(METHODS)})
]


def _a_token(text: str) -> str:
    if text != text.strip():
        raise ValueError("must not begin or end with a space, which texts have before any token")
    return text


def _each_once(tokens: list[str]) -> list[str]:
    if twice := [token for token in tokens if tokens.count(token) > 1]:
        raise ValueError(f"{twice[0]!r} is there twice: name each once")
    return tokens


def _one_or_several(named: str | list[str]) -> str | list[str]:
    if isinstance(named, str):
        return named
    if not named:
        raise ValueError("names no adapter: name one, or leave it out")
    _each_once(named)
    return named if len(named) > 1 else named[0]


def _as_label(value: Any) -> Any:
    """Return what rows with this label have: 1 is "1" there, and true is "true"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool | int):
        return str(value).lower()
    return value.strip() if isinstance(value, str) else value


_LABEL = BeforeValidator(_as_label)
NewTokens = Annotated[list[Annotated[Text, AfterValidator(_a_token)]], AfterValidator(_each_once)]


def _dataset_shorthand(value: Any) -> Any:
    if isinstance(value, list):
        if not value:
            raise ValueError("is an empty list: name a data set")
        if any(isinstance(each, dict) and "streaming" in each for each in value):
            raise ValueError(
                "streaming is for all data sets together: write {streaming: true, sources: [the list]}"
            )
        return {"sources": value}
    return {"path": value} if isinstance(value, str) else value


class TrainingFields(Settings):
    """What the trainer reads: method, model, dataset, adapters and hyperparameters."""

    method: MethodName = "sft"
    """sft: supervised fine-tuning on examples. cpt: continued pretraining on plain text. dpo, orpo:
    from pairs of a better and a worse answer. kto: from single answers that are good or bad.
    reward: a model that scores answers, from such pairs. classify: the class of a text, or several.
    grpo, rloo, ppo: from prompts alone; the model answers, and reward_functions, a reward_model or a
    reward_judge say how well."""
    model: Text
    """The base model: a folder, or a model on the Hub."""
    dataset: Annotated[DatasetConfig, BeforeValidator(_dataset_shorthand)]
    """The examples. In a job file, a path alone will do, or a list of data sets that are mixed."""
    trainer: TrainerName = "builtin"
    """The trainer: builtin (this product), command (any command), or another project by name."""
    command: CommandConfig | None = None
    """For `trainer: command`, the command; for another project, how to start it. null: as the project says."""
    revision: Text | None = None
    """Of a model on the Hub: a commit, tag or branch. null: its main branch."""
    trust_remote_code: bool = False
    """Run the code that the model brings along, where transformers does not know it by itself. Read that
    code before. For a model on the Hub, revision must be a commit."""
    init: Literal["pretrained", "random"] = "pretrained"
    """pretrained: start from the weights. random: start from the config alone."""
    chat_template: Text | None = None
    """How a chat becomes text, instead of the template beside the model's tokenizer: a file of Jinja, or
    the name of a well-known template, such as qwen3 or llama3. It goes along with the result. null: the
    one beside the tokenizer."""
    peft: Peft = LoraConfig()
    """What to train while the model itself stays frozen: adapters (peft_type: lora, ia3, loha, lokr,
    oft, vera, prompt_tuning or prefix_tuning). null: train all weights."""
    new_tokens: NewTokens = Field(default_factory=list)
    """Tokens such as <|sql|> that the model is to learn. The tokenizer reads each as one; their embeddings
    begin as the mean of all others and are trained, with LoRA these rows alone."""
    adapter: Annotated[Text | list[Text], AfterValidator(_one_or_several)] | None = None
    """Go on with this adapter instead of a new one: a folder, such as an artifact, a repository of the
    Hub, or a completed job of this computer by its id or name. Its own settings hold, so leave `peft` out;
    `model` may be left out of a job file too. A list of LoRA adapters of one base is merged into one first.
    null: begin with a new one."""
    quantization: QuantizationConfig | None = None
    """Hold the frozen weights in few bits, so that larger models fit: {load_in_4bit: true} is QLoRA,
    {load_in_8bit: true} is more exact. null: not at all."""
    num_train_epochs: float = Field(default=3.0, gt=0)
    """How many times to go over the dataset."""
    max_steps: Annotated[int, AfterValidator(_some_steps)] = Field(default=-1, ge=-1)
    """Stop after this many optimizer steps; -1: use num_train_epochs."""
    per_device_train_batch_size: int = Field(default=8, ge=1)
    """Examples per device and forward pass; a step has this × accumulation × devices."""
    per_device_eval_batch_size: int = Field(default=8, ge=1)
    """Examples per device in evaluation."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes per optimizer step."""
    learning_rate: float | None = Field(default=None, gt=0, le=10)
    """null: the method's own, such as 2e-4 for sft with adapters and 2e-5 for all weights;
    prompt_tuning 3e-2, prefix_tuning 1e-2."""
    beta: float | None = Field(default=None, ge=0)
    """How strongly the model is held to its starting point (dpo, kto, grpo, rloo, ppo), or how much
    preferences weigh (orpo). null: the method's own, 0.1; grpo: 0; rloo, ppo: 0.05."""
    loss_type: Text | None = None
    """The loss of dpo (sigmoid, ipo, hinge, …), kto or grpo (dapo, grpo, dr_grpo, …), by TRL's
    name. null: the method's own."""
    reward_functions: list[Text] = Field(default_factory=list)
    """What scores the answers of grpo, rloo and ppo: names such as exact_match, or your own
    functions as path.py:function. Several are summed."""
    reward_sandbox: SandboxConfig | None = None
    """Run each of your own reward functions in a process of its own, under a time limit, so that one that
    hangs or crashes costs some answers their score and not the training. null: in the trainer's."""
    reward_judge: JudgeConfig | None = None
    """A model behind an API like OpenAI's that scores the answers, too. null: none does."""
    reward_model: Text | None = None
    """A model with a single score that also scores the answers: a folder, such as the output of method
    reward, or a model on the Hub. null: none does."""
    num_generations: int | None = Field(default=None, ge=2)
    """How many answers per prompt are compared. null: TRL's own, 8 for grpo and 2 for rloo."""
    max_completion_length: int = Field(default=256, ge=1)
    """Longest answer that is generated, in tokens; max_length holds prompt and answer."""
    temperature: float = Field(default=1.0, gt=0)
    """How freely answers are generated; near 0 always the likeliest token."""
    labels: list[Annotated[Text, _LABEL]] | None = None
    """The classes of classify in the order of the model's scores. null: those of the model where it is a
    classifier already, else those of the rows, sorted."""
    several_labels: bool | None = None
    """Whether several classes may fit a text, or none. null: where the labels of rows are lists."""
    class_weights: Literal["balanced"] | dict[Annotated[str, _LABEL], float] | None = None
    """How much a row of each class counts for classify: a number by label, or balanced, which lets rare
    classes count as much as frequent ones. null: every row alike."""
    callbacks: list[Text] = Field(default_factory=list)
    """Your own subclasses of transformers' TrainerCallback, as path.py:Class."""
    formatting: Text | None = None
    """Your own function from a row to a row in one of the formats, as path.py:function. null:
    rows are taken as they are."""
    lr_scheduler_type: Text = "cosine"
    """How the learning rate changes over time; any name that transformers knows."""
    warmup_steps: float = Field(default=0.03, ge=0)
    """Steps until the full learning rate; below 1, a share of all steps."""
    weight_decay: float = Field(default=0.0, ge=0)
    """How strongly every step pulls the weights towards zero."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Gradients are clipped to this norm; 0: never."""
    optim: Text = "adamw_torch_fused"
    """The optimizer; any name that transformers knows. adamw_8bit and paged_adamw_8bit keep their
    state in a quarter of the memory."""
    max_length: int = Field(default=1024, ge=8)
    """Longest example in tokens; longer ones are cut (cpt: the length of a packed block)."""
    packing: bool | None = None
    """Fill every sequence up to max_length. null: for cpt only. sft keeps the rows of a sequence
    apart; cpt cuts the joined text into blocks."""
    padding_free: bool | None = None
    """sft: train on a batch as one sequence without padding; its rows do not see each other, so the
    result is the same. null: where the model's attention makes that faster, with dpo, kto, grpo and
    rloo too. false: never."""
    attn_implementation: Text | None = None
    """How the model attends, by transformers' name, or by that of a kernel of the Hub, such as
    kernels-community/flash-attn2, where the package `kernels` is installed. null: flash_attention_2
    where flash-attn is installed and the weights are held in 16 bits, else sdpa."""
    assistant_only_loss: bool = True
    """Learn from the assistant's (or the completion's) tokens only."""
    learn: Literal["all", "last", "marked"] = "all"
    """Which of the assistant's turns in a chat sft learns: all but those of weight 0, the last of all,
    or those marked with weight 1 or train: true."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Trade time for memory: recompute activations in the backward pass. auto: only where the
    predicted memory would not fit otherwise."""
    parallelism: Literal["ddp", "fsdp", "fsdp_hybrid", "deepspeed"] = "ddp"
    """How several GPUs train one model. ddp: each holds all of it. fsdp, deepspeed: it is split across
    them, so that larger models fit. fsdp_hybrid: across those of each machine, all of which hold it."""
    zero_stage: Literal[1, 2, 3] = 2
    """What parallelism: deepspeed splits. 1: the optimizer's state. 2: gradients too.
    3: weights too."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision. auto: bfloat16 where the GPU has it, else float32."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """For initialisation, dropout, data order and split."""
    logging_steps: int = Field(default=1, ge=1)
    """Write metrics every this many steps."""
    save_steps: int = Field(default=100, ge=1)
    """Write a checkpoint every this many steps."""
    save_total_limit: int = Field(default=2, ge=1)
    """Keep this many checkpoints; the newest valid one and the best are never removed."""
    async_save: bool = True
    """Keep training while a checkpoint is copied and written, if memory has room for the copy."""
    eval_steps: int | None = Field(default=None, ge=1)
    """Evaluate every this many steps. null: at the end of each epoch."""
    eval_on_start: bool = True
    """Evaluate once before training, to see what training gained."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Stop when eval_loss has not improved for this many evaluations, and keep the best.
    null: train to the end."""
    early_stopping_threshold: float = Field(default=0.0, ge=0)
    """An improvement is a drop of more than this."""
    merge: bool = False
    """Also write the base model with the adapter merged in, in full precision, to output/merged/."""
    export: list[Literal["gguf"]] = Field(default_factory=list)
    """Other formats to write as well. gguf: for llama.cpp and Ollama, to output/gguf/."""
    gguf_quantization: Quantization = "F16"
    """Of the exported weights: F32, F16, BF16, Q8_0, Q5_1, Q5_0, Q4_1 or Q4_0."""
    push_to_hub: Repository | None = None
    """Upload the result to this repository of the Hub, as owner/name, by the token in HF_TOKEN
    or else that of `hf auth login`. null: nowhere."""
    hub_private_repo: bool = True
    """Whether the repository is private, if it has to be created."""
    report_to: list[Tracker] = Field(default=["tensorboard"])
    """Where else to send metrics: tensorboard; wandb, offline without WANDB_API_KEY; mlflow, into a file
    without MLFLOW_TRACKING_URI. []: nowhere."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Any further argument of the method's TRL or transformers config, by its own name. One that would
    have no effect here is refused, with what to do instead."""

    @property
    def packs(self) -> bool:
        """Whether sequences are filled up to max_length."""
        return self.packing if self.packing is not None else self.method == "cpt"

    @property
    def adapters(self) -> list[str]:
        """The adapters to go on with, which are merged where there are several."""
        return [self.adapter] if isinstance(self.adapter, str) else self.adapter or []

    def with_adapters(self, change: Callable[[str], Any]) -> Any:
        """Return `adapter` with every name changed, as it is written: one, a list of them, or None."""
        changed = [change(name) for name in self.adapters]
        return changed if isinstance(self.adapter, list) else next(iter(changed), None)

    @property
    def initial_learning_rate(self) -> float:
        """The learning rate; where the job names none, that of the adapters, or the method's."""
        of_method = METHODS[self.method].learning_rate(adapters=self.peft is not None)
        of_adapters = self.peft.learning_rate if self.peft else None
        return self.learning_rate or of_adapters or of_method

    @property
    def shares_weights(self) -> bool:
        """Whether each of several processes holds a part of the weights only."""
        return self.shards or (self.parallelism == "deepspeed" and self.zero_stage == 3)

    @property
    def shards(self) -> bool:
        """Whether PyTorch's FSDP splits the model."""
        return self.parallelism in {"fsdp", "fsdp_hybrid"}

    _without_model = model_validator(mode="before")(without_model)
