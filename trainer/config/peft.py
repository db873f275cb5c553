"""Training few parameters instead of all: what PEFT offers, under PEFT's own names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from trainer.config.settings import Settings, Text

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema


HEAD = "lm_head"
ALL_LINEAR = "all-linear"


def _targets(targets: str | list[str]) -> str | list[str]:
    if not targets:
        raise ValueError("names no layer")
    if isinstance(targets, list) or targets == ALL_LINEAR:
        return targets
    # It is matched against whole paths, which have dots.
    if re.fullmatch(r"[\w, -]+", targets):
        raise ValueError(
            f"must be {ALL_LINEAR}, a list of names such as [q_proj, v_proj], or a regular "
            "expression of whole paths"
        )
    try:
        re.compile(targets)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return targets


Targets = Annotated[list[str] | str, AfterValidator(_targets)]


class PeftSettings(Settings):
    """What all kinds share."""

    title: ClassVar[str] = ""
    """What its adapters are called."""
    is_soft_prompt: ClassVar[bool] = False
    """Whether what is trained stands before the input, and leaves the model's layers alone."""
    trains_rows: ClassVar[bool] = False
    """Whether it trains rows of new tokens beside its adapters."""
    on_few_bits: ClassVar[bool] = True
    """Whether it can be put on weights of 4 or 8 bits."""
    allows_gradient_checkpointing: ClassVar[bool] = True
    learning_rate: ClassVar[float | None] = None
    """The default where it is another than the method's."""

    @model_validator(mode="before")
    @classmethod
    def _of_this_kind(cls, value: Any) -> Any:
        """Name the kind that a setting belongs to: it may be known, and yet mean nothing here."""
        for name in value if isinstance(value, dict) else ():
            # Before pydantic, which would only say that the field is unknown.
            owners = [kind for kind in KINDS if name in kind.model_fields]
            if owners and cls not in owners:
                kinds = " or ".join(_kind_name(kind) for kind in owners)
                raise ValueError(
                    f"{name} belongs to peft_type: {kinds}, this one is {_kind_name(cls)}: "
                    "change peft_type, or remove it"
                )
        return value


class LoraConfig(PeftSettings):
    """Low-rank adapters in the model's layers (Hu et al. 2021, arXiv:2106.09685)."""

    title = "LoRA"
    trains_rows = True

    peft_type: Literal["lora"] = "lora"
    """The kind: lora, ia3, loha, lokr, oft, vera, prompt_tuning or prefix_tuning; each has settings of
    its own."""
    r: int = Field(default=16, ge=1, le=1024)
    """Rank of the adapters."""
    lora_alpha: int = Field(default=32, ge=1)
    """Scale: the adapter's output is multiplied by lora_alpha / r."""
    lora_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout before the adapter."""
    target_modules: Targets = "all-linear"
    """Which layers get an adapter: all-linear, names such as [q_proj, v_proj], or a regular expression
    of whole paths, such as .*layers[.][0-7][.].*_proj."""
    exclude_modules: list[str] | None = None
    """Layers among those that get none, such as [lm_head]. null: no further ones."""
    layers_to_transform: list[int] | None = None
    """Which blocks of the model get adapters, by number from 0; null: all."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=1024)]] = Field(default_factory=dict)
    """Other ranks for some layers, by their names or a regular expression: {q_proj: 32}."""
    alpha_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """The same for lora_alpha."""
    modules_to_save: list[str] | None = None
    """Layers trained in full and saved with the adapter, such as [norm]. For new tokens there is
    training.new_tokens. null: none."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained."""
    use_dora: bool = False
    """DoRA: train the length of each column of a weight apart from its direction (Liu et al. 2024,
    arXiv:2402.09353). Better at low ranks, and slower."""
    use_rslora: bool = False
    """rsLoRA: scale by lora_alpha / √r instead, so that high ranks learn as well (Kalajdzievski
    2023, arXiv:2312.03732)."""

    @model_validator(mode="after")
    def _has_layers(self) -> LoraConfig:
        _check_layers(self.target_modules, self.layers_to_transform)
        return self


def _check_layers(targets: str | list[str], blocks: list[int] | None = None) -> None:
    if blocks is not None and isinstance(targets, str):
        raise ValueError(
            "layers_to_transform: PEFT wants the layers by name beside the blocks' numbers: set "
            "target_modules, such as [q_proj, k_proj, v_proj, o_proj]"
        )
    # TRL multiplies the hidden states by lm_head.weight to save memory, which passes the adapter
    # by. "all-linear" leaves the head out by itself.
    if isinstance(targets, list) and HEAD in targets:
        raise ValueError(
            f"target_modules: an adapter on {HEAD} would never be trained, for TRL computes with "
            f"its weight directly: name {HEAD} in modules_to_save instead"
        )


class LayerSettings(PeftSettings):
    """What the kinds share that stand in the model's layers, LoRA apart, which has more."""

    target_modules: Targets = "all-linear"
    """Which layers get an adapter: all-linear, names such as [q_proj, v_proj], or a regular expression
    of whole paths, such as .*layers[.][0-7][.].*_proj."""
    modules_to_save: list[str] | None = None
    """Layers trained in full and saved with the adapter, such as [norm]. null: none."""

    @model_validator(mode="after")
    def _has_layers(self) -> LayerSettings:
        _check_layers(self.target_modules, getattr(self, "layers_to_transform", None))
        return self


class IA3Config(LayerSettings):
    """Each output of a layer is multiplied by a number (Liu et al. 2022, arXiv:2205.05638)."""

    title = "IA3"
    learning_rate = 3e-3

    peft_type: Literal["ia3"]
    """This kind."""
    exclude_modules: list[str] | None = None
    """Layers among those that get none, such as [down_proj]. null: no further ones."""
    feedforward_modules: list[str] = Field(default_factory=list)
    """Layers among those of which the inputs are multiplied instead, such as [down_proj]."""

    @model_validator(mode="after")
    def _are_targets(self) -> IA3Config:
        targets = self.target_modules
        other = [name for name in self.feedforward_modules if name not in targets]
        if other and isinstance(targets, list):
            raise ValueError(f"feedforward_modules: {other[0]} is not among target_modules: add it")
        return self


class _Lycoris(LayerSettings):
    """What LoHa and LoKr share."""

    on_few_bits = False

    r: int = Field(default=8, ge=1, le=1024)
    """Rank of the adapters."""
    alpha: int = Field(default=8, ge=1)
    """Scale: the adapter's output is multiplied by alpha / r."""
    rank_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The share of a layer's outputs to which the adapter adds nothing in a step."""
    module_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The share of layers whose adapter is off in a step."""
    exclude_modules: list[str] | None = None
    """Layers among those that get none, such as [down_proj]. null: no further ones."""
    layers_to_transform: list[int] | None = None
    """Which blocks of the model get adapters, by number from 0; null: all."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=1024)]] = Field(default_factory=dict)
    """Other ranks for some layers, by their names or a regular expression: {q_proj: 32}."""
    alpha_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """The same for alpha."""


class LoHaConfig(_Lycoris):
    """The product, number by number, of two pairs of thin matrices (Hyeon-Woo et al. 2021).

    See arXiv:2108.06098. With as many parameters as LoRA of twice the rank it reaches the square of its rank.
    """

    title = "LoHa"

    peft_type: Literal["loha"]
    """This kind."""


class LoKrConfig(_Lycoris):
    """The Kronecker product of two small matrices (Yeh et al. 2023, arXiv:2309.14859)."""

    title = "LoKr"

    peft_type: Literal["lokr"]
    """This kind."""
    decompose_both: bool = False
    """Make thin matrices of the left factor too, which has even fewer parameters."""
    decompose_factor: int = Field(default=-1, ge=-1)
    """How large the left factor is; -1: as near to the right one's size as can be."""


class OFTConfig(LayerSettings):
    """The inputs of each layer are rotated (Qiu et al. 2023, arXiv:2306.07280)."""

    title = "OFT"

    peft_type: Literal["oft"]
    """This kind."""
    oft_block_size: int = Field(default=32, ge=2)
    """How many inputs are rotated together; it must divide their number in every layer."""
    coft: bool = False
    """Keep every rotation within eps of none."""
    eps: float = Field(default=6e-5, gt=0)
    """See coft."""
    block_share: bool = False
    """Rotate all blocks of a layer alike, which has fewer parameters."""
    exclude_modules: list[str] | None = None
    """Layers among those that get none, such as [down_proj]. null: no further ones."""
    layers_to_transform: list[int] | None = None
    """Which blocks of the model get adapters, by number from 0; null: all."""

    @model_validator(mode="after")
    def _is_held(self) -> OFTConfig:
        if not self.coft and self.eps != type(self).model_fields["eps"].default:
            raise ValueError("eps has an effect only with coft: true")
        return self


class VeraConfig(LayerSettings):
    """LoRA whose matrices are random, frozen, and the same in all layers; scales of each are trained.

    See Kopiczko et al. 2023, arXiv:2310.11454.
    """

    title = "VeRA"
    learning_rate = 4e-3

    peft_type: Literal["vera"]
    """This kind."""
    r: int = Field(default=256, ge=1, le=8192)
    """Rank; higher than with LoRA, for few parameters come of it."""
    d_initial: float = Field(default=0.1, gt=0)
    """What the scales begin as."""
    vera_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout before the adapter."""
    projection_prng_key: int = Field(default=0, ge=0)
    """The seed of the random matrices."""
    layers_to_transform: list[int] | None = None
    """Which blocks of the model get adapters, by number from 0; null: all."""


class PromptTuningConfig(PeftSettings):
    """Trained vectors before every input, as if they were tokens (Lester et al. 2021).

    See arXiv:2104.08691. Nothing trains fewer parameters; it takes a large model to work well.
    """

    is_soft_prompt = True
    learning_rate = 3e-2

    peft_type: Literal["prompt_tuning"]
    """This kind."""
    num_virtual_tokens: int = Field(default=20, ge=1, le=4096)
    """The number of vectors."""
    prompt_tuning_init: Literal["random", "sample_vocab", "text"] = "random"
    """Start from noise, from random tokens, or from a text."""
    prompt_tuning_init_text: Text | None = None
    """For example the task in words; repeated or cut to fit. null: see prompt_tuning_init."""

    @model_validator(mode="after")
    def _has_its_text(self) -> PromptTuningConfig:
        begins_with_text = self.prompt_tuning_init == "text"
        if begins_with_text and not self.prompt_tuning_init_text:
            raise ValueError("prompt_tuning_init: text needs prompt_tuning_init_text")
        if self.prompt_tuning_init_text and not begins_with_text:
            raise ValueError(
                "prompt_tuning_init_text has an effect only with prompt_tuning_init: text"
            )
        return self


class PrefixTuningConfig(PeftSettings):
    """Trained keys and values before every input, in each layer (Li and Liang 2021).

    See arXiv:2101.00190.
    """

    is_soft_prompt = True
    allows_gradient_checkpointing = False  # transformers then drops the keys and values
    learning_rate = 1e-2

    peft_type: Literal["prefix_tuning"]
    """This kind."""
    num_virtual_tokens: int = Field(default=20, ge=1, le=4096)
    """The number of keys and values in each layer."""
    init_weights: Literal["zero"] | None = None
    """null: start from noise. zero: from zeros."""


KINDS: tuple[type[PeftSettings], ...] = (
    LoraConfig,
    *(IA3Config, LoHaConfig, LoKrConfig, OFTConfig, VeraConfig),
    *(PromptTuningConfig, PrefixTuningConfig),
)


class _AsAnyOf:
    """Lets the JSON schema say anyOf where pydantic says oneOf, which Prefect's form has not."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        described = handler(schema)
        # Equivalent here: the tags exclude each other.
        described["anyOf"] = described.pop("oneOf")
        return described


def kind_of(peft_type: str) -> type[PeftSettings] | None:
    """Return the class of an adapter's settings, by PEFT's name in capitals or ours."""
    return next((kind for kind in KINDS if _kind_name(kind) == peft_type.lower()), None)


def _kind_name(kind: type[PeftSettings]) -> str:
    """Return the value of `peft_type`."""
    name: str = kind.model_fields["peft_type"].annotation.__args__[0]  # type: ignore[union-attr] # a Literal
    return name


def _class_of(value: Any) -> str | None:
    """Return the name of the class that a value is for; without peft_type, as in old jobs, LoRA."""
    if isinstance(value, PeftSettings):
        return type(value).__name__
    wanted = value.get("peft_type", "lora") if isinstance(value, dict) else "lora"
    classes = {_kind_name(kind): kind.__name__ for kind in KINDS}
    return "None" if value is None else classes.get(str(wanted))


Peft = Annotated[
    Annotated[LoraConfig, Tag("LoraConfig")]
    | Annotated[IA3Config, Tag("IA3Config")]
    | Annotated[LoHaConfig, Tag("LoHaConfig")]
    | Annotated[LoKrConfig, Tag("LoKrConfig")]
    | Annotated[OFTConfig, Tag("OFTConfig")]
    | Annotated[VeraConfig, Tag("VeraConfig")]
    | Annotated[PromptTuningConfig, Tag("PromptTuningConfig")]
    | Annotated[PrefixTuningConfig, Tag("PrefixTuningConfig")]
    | Annotated[None, Tag("None")],
    Discriminator(
        _class_of,
        custom_error_type="peft_type",
        custom_error_message=(
            "peft_type should be lora, ia3, loha, lokr, oft, vera, prompt_tuning or prefix_tuning"
        ),
    ),
    _AsAnyOf(),
]
