"""Training few parameters instead of all: what PEFT offers, under PEFT's own names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from trainer.config.settings import Settings, Text

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema


HEAD = "lm_head"


class PeftSettings(Settings):
    """What all kinds share."""

    is_soft_prompt: ClassVar[bool] = False
    """Whether what is trained stands before the input, and leaves the model's layers alone."""
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

    peft_type: Literal["lora"] = "lora"
    """The kind: lora, prompt_tuning or prefix_tuning; each has settings of its own."""
    r: int = Field(default=16, ge=1, le=1024)
    """Rank of the adapters."""
    lora_alpha: int = Field(default=32, ge=1)
    """Scale: the adapter's output is multiplied by lora_alpha / r."""
    lora_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout before the adapter."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Which layers get an adapter: all-linear, or names such as [q_proj, v_proj]."""
    exclude_modules: list[str] | None = None
    """Layers among those that get none, such as [lm_head]."""
    layers_to_transform: list[int] | None = None
    """Which blocks of the model get adapters, by number from 0; null: all."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=1024)]] = Field(default_factory=dict)
    """Other ranks for some layers, by their names or a regular expression: {q_proj: 32}."""
    alpha_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """The same for lora_alpha."""
    modules_to_save: list[str] | None = None
    """Layers trained in full and saved with the adapter, such as [embed_tokens]."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained."""
    use_dora: bool = False
    """DoRA: train the length of each column of a weight apart from its direction (Liu et al. 2024,
    arXiv:2402.09353). Better at low ranks, and slower."""
    use_rslora: bool = False
    """rsLoRA: scale by lora_alpha / √r instead, so that high ranks learn as well (Kalajdzievski
    2023, arXiv:2312.03732)."""

    @model_validator(mode="after")
    def _names_its_layers(self) -> LoraConfig:
        if self.layers_to_transform is not None and self.target_modules == "all-linear":
            raise ValueError(
                "layers_to_transform: PEFT wants the layers by name beside the blocks' numbers: set "
                "target_modules, such as [q_proj, k_proj, v_proj, o_proj]"
            )
        return self

    @model_validator(mode="after")
    def _leaves_the_head(self) -> LoraConfig:
        # TRL multiplies the hidden states by lm_head.weight to save memory, which passes the
        # adapter by. "all-linear" leaves the head out by itself.
        if isinstance(self.target_modules, list) and HEAD in self.target_modules:
            raise ValueError(
                f"target_modules: an adapter on {HEAD} would never be trained, for TRL computes "
                f"with its weight directly: name {HEAD} in modules_to_save instead"
            )
        return self


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
    """For example the task in words; repeated or cut to fit."""

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


KINDS: tuple[type[PeftSettings], ...] = (LoraConfig, PromptTuningConfig, PrefixTuningConfig)


class _AsAnyOf:
    """Lets the JSON schema say anyOf where pydantic says oneOf, which Prefect's form has not."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        described = handler(schema)
        # Equivalent here: the tags exclude each other.
        described["anyOf"] = described.pop("oneOf")
        return described


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
    | Annotated[PromptTuningConfig, Tag("PromptTuningConfig")]
    | Annotated[PrefixTuningConfig, Tag("PrefixTuningConfig")]
    | Annotated[None, Tag("None")],
    Discriminator(
        _class_of,
        custom_error_type="peft_type",
        custom_error_message="peft_type should be lora, prompt_tuning or prefix_tuning",
    ),
    _AsAnyOf(),
]
