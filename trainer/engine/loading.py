"""Load what a job names, and say in one sentence why it cannot be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.config import TrainingConfig
from trainer.config.model_code import untrusted
from trainer.contract.errors import ModelNotFound

UNLOADED = (
    *(OSError, ValueError, KeyError, ImportError, TypeError),
    *(AttributeError, NotImplementedError, AssertionError),
)
"""What transformers raises for a model that it cannot build, or not without another package."""


def place_of(named: str) -> str:
    """Return the folder of this computer that a name means, or the name, which is the Hub's."""
    path = Path(named).expanduser()
    return str(path) if path.exists() else named


def code_options(config: TrainingConfig) -> dict[str, Any]:
    """Return whether code of the model's own may run, and which revision is meant."""
    here = Path(config.model).expanduser().exists()
    named = {} if here or config.revision is None else {"revision": config.revision}
    return {"trust_remote_code": config.trust_remote_code, **named}


def loaded(load: Any, config: TrainingConfig, **options: Any) -> Any:
    """Return what `load`, a `from_pretrained`, makes of the job's model.

    Raises:
        ModelNotFound: it cannot be loaded; the reason is transformers' own.
        ConfigError: it is made by code of its own, which the job does not trust.
    """
    try:
        return _loaded(load, "training.model", config.model, **options, **code_options(config))
    except ModelNotFound as error:
        # What transformers raises of a model whose code it may not run; it names the argument.
        if "trust_remote_code" in str(error.__cause__) and not config.trust_remote_code:
            raise untrusted(config) from error
        raise


def loaded_adapter(load: Any, config: TrainingConfig, **options: Any) -> Any:
    """Return what `load` makes of the adapter to go on with.

    Raises:
        ModelNotFound: it cannot be loaded; the reason is the library's own.
    """
    return _loaded(load, "training.adapter", str(config.adapter), **options)


def fetched_adapter(named: str, patterns: list[str]) -> Path:
    """Return the folder of an adapter; one of the Hub is fetched, as far as its files match.

    Raises:
        ModelNotFound: it cannot be fetched.
    """
    if (folder := Path(named).expanduser()).is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(_loaded(snapshot_download, "training.adapter", named, allow_patterns=patterns))


def _loaded(load: Any, field: str, named: str, **options: Any) -> Any:
    try:
        return load(place_of(named), **options)
    except UNLOADED as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise ModelNotFound(f"{field}: {named} cannot be loaded: {reason}") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ModelNotFound(
            f"{field}: {named} cannot be loaded: its files hold weights of other shapes than are "
            "trained here, such as the head of a classifier of other classes.",
            "Name the model that it was made from.",
        ) from error
