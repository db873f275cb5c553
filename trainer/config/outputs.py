"""What settings of the result must agree on, told before anything is trained."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from trainer.config.settings import Text

if TYPE_CHECKING:
    from trainer.config.training import TrainingConfig

Tracker = Literal["tensorboard", "wandb", "mlflow"]
QUANTIZATIONS = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
"""What the package `gguf` can make of weights; all else needs llama.cpp."""
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def _quantization(name: str) -> str:
    if name.upper() not in QUANTIZATIONS:
        raise ValueError(
            f"is not supported; choose from: {', '.join(QUANTIZATIONS)}. For others export "
            "F16, and run llama.cpp's llama-quantize on the file"
        )
    return name.upper()


def _repository(name: str) -> str:
    if not _REPOSITORY.fullmatch(name) or "--" in name or ".." in name or len(name) > 96:
        raise ValueError("must be owner/name, like the repositories of the Hub")
    return name


Quantization = Annotated[
    Text, AfterValidator(_quantization), Field(json_schema_extra={"enum": list(QUANTIZATIONS)})
]
Repository = Annotated[Text, AfterValidator(_repository)]


def check_outputs(config: TrainingConfig) -> None:
    """Refuse what cannot come of this training.

    Raises:
        ValueError: one sentence with the field, its value and the remedy.
    """
    if config.trainer != "builtin":
        for name in ("merge", "export", "push_to_hub"):
            if getattr(config, name):
                raise ValueError(f"{name} is for trainer: builtin; what others leave is theirs")
    if config.merge and config.peft is None:
        raise ValueError("merge: peft: null leaves a whole model, no adapter: set merge: false")
    if config.peft and config.peft.is_soft_prompt and (config.merge or config.export):
        field = "merge" if config.merge else "export"
        raise ValueError(
            f"{field}: peft_type {config.peft.peft_type} trains tokens before the text, and there is "
            f"nothing in the weights to merge: leave {field} out, or choose another peft_type"
        )
    if config.export and config.method == "reward":
        raise ValueError("export: gguf is for models that write text, and reward gives a score")
