"""Packages that only some jobs need: the extras of this project. Standard library only."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from trainer.contract.errors import DependencyError

if TYPE_CHECKING:
    from trainer.config import TrainingConfig

MODULES = {
    "bitsandbytes": ("bitsandbytes",),
    "deepspeed": ("deepspeed",),
    "gguf": ("gguf",),
    "mlflow": ("mlflow", "sqlalchemy"),
    "wandb": ("wandb",),
}
"""What an extra lets us import, by the extra's name."""
BITSANDBYTES_OPTIMIZER = re.compile(r"(?<!torch_)8bit|bnb|paged|ademamix|^lion_")
"""The names that transformers gives to optimizers that need bitsandbytes, and to no other."""


NEEDED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors")
"""What our own trainer cannot do without."""


def check_trainer() -> dict[str, str]:
    """Return the versions of what our trainer needs in this Python, without importing any.

    Raises:
        DependencyError: something is missing; with the command that installs it.
    """
    found: dict[str, str] = {}
    for name in NEEDED:
        # By metadata, without importing: torch alone takes seconds.
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise DependencyError(
            f"{sys.executable} lacks {', '.join(missing)}.",
            f"Run: {sys.executable} -m pip install 'training-orchestrator[trainer]'",
        )
    return found


def extras_of(config: TrainingConfig) -> list[str]:
    """Return the extras that a job needs, sorted."""
    return sorted({extra for _, extra in _wanted(config)})


def check_extras(config: TrainingConfig) -> None:
    """Look for the packages of a job's extras without importing them.

    Raises:
        DependencyError: naming the field that wants one, and the command that installs it.
    """
    for field, extra in _wanted(config):
        for module in MODULES[extra]:
            # find_spec does not run the package: importing bitsandbytes or deepspeed takes seconds.
            if importlib.util.find_spec(module) is None:
                raise DependencyError(
                    f"training.{field}: {extra} needs the package {module}, which is not "
                    "installed here.",
                    f"Run: {sys.executable} -m pip install 'training-orchestrator[{extra}]'",
                )


def _wanted(config: TrainingConfig) -> Iterator[tuple[str, str]]:
    """Yield field and extra for everything that a job asks for and not every job needs."""
    if config.trainer != "builtin":
        return  # only the other trainer knows which packages it needs
    if config.quantization:
        yield "quantization", "bitsandbytes"
    if BITSANDBYTES_OPTIMIZER.search(config.optim):
        yield f"optim = {config.optim!r}", "bitsandbytes"
    if config.parallelism == "deepspeed":
        yield "parallelism", "deepspeed"
    for field, names in (("report_to", config.report_to), ("export", config.export)):
        for name in names:
            if name in MODULES:
                yield field, name
