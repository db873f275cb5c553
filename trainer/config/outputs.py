"""What becomes of the result: trackers, export formats, a repository of the Hub."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from trainer.config.settings import Text

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
    # The rules of validate_repo_id in huggingface_hub, a package of the trainer's: where jobs are
    # checked it may be missing.
    if not _REPOSITORY.fullmatch(name) or "--" in name or ".." in name or len(name) > 96:
        raise ValueError("must be owner/name, like the repositories of the Hub")
    return name


Quantization = Annotated[
    Text, AfterValidator(_quantization), Field(json_schema_extra={"enum": list(QUANTIZATIONS)})
]
Repository = Annotated[Text, AfterValidator(_repository)]
