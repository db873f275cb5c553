"""Start a process that trains sooner: without the packages that its job has no use for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.config.code_references import is_reference
from trainer.config.extras import BITSANDBYTES_OPTIMIZER
from trainer.config.model_files import looks_like_path
from trainer.contract.files import read_json
from trainer.contract.garbage import search_seldom

ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # TRL reports every trainer otherwise
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # the log is a file
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    # Threads that spin while they wait make each other wait: on two shared cores training was
    # five times slower without this.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
}


def start_lightly(config: Any) -> None:
    """Make ready to import little; for a process that trains once, before it imports torch.

    Args:
        config: the training config as job.json has it.
    """
    search_seldom()
    set_environment()
    # The user's own code may import them.
    if isinstance(config, dict) and not _has_own_code(config):
        for name in _unused(config):
            sys.modules.setdefault(name, None)  # type: ignore[arg-type] # None: it cannot be found


def is_light(config: Any) -> bool:
    """Whether a job has no use for any package that `start_lightly` can leave out."""
    all_of_them = {*_unused({})}
    return (
        isinstance(config, dict) and not _has_own_code(config) and {*_unused(config)} == all_of_them
    )


def set_environment() -> None:
    """Set what libraries read when they are imported, unless the user has."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _has_own_code(config: Mapping[str, Any]) -> bool:
    own = ("callbacks", "formatting", "trust_remote_code")
    functions = config.get("reward_functions") or []
    return any(config.get(name) for name in own) or any(is_reference(str(f)) for f in functions)


def _unused(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield packages that libraries import wherever they are installed, and this job never uses."""
    report_to = config.get("report_to") or []
    # TRL imports every tracker: three seconds of CPU for mlflow and wandb.
    yield from {"mlflow", "wandb"} - {*report_to}
    if "mlflow" not in report_to:  # which may keep its files in S3
        yield "boto3"  # accelerate's questionnaire about SageMaker
    # PEFT imports it for layers of few bits: a second of CPU.
    if not _may_need_bitsandbytes(config):
        yield "bitsandbytes"


def _may_need_bitsandbytes(config: Mapping[str, Any]) -> bool:
    if config.get("quantization") or BITSANDBYTES_OPTIMIZER.search(str(config.get("optim"))):
        return True
    models = [config.get("model"), config.get("reward_model")]
    return any(_may_be_quantised(str(m), config.get("revision")) for m in models if m is not None)


def _may_be_quantised(model: str, revision: Any) -> bool:
    """Whether a model's own weights may have few bits; of one that is not here yet, nobody knows."""
    from huggingface_hub import try_to_load_from_cache

    path: Any = Path(model).expanduser() / "config.json"
    if not path.is_file() and not looks_like_path(model):
        with suppress(ValueError):  # no name of a model
            path = try_to_load_from_cache(model, "config.json", revision=revision)
    found = read_json(Path(path)) if isinstance(path, str | Path) else None
    return found is None or "quantization_config" in str(found)
