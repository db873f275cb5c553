"""Settings of the environment, with what is wrong with them in one message."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings
from pydantic_settings.exceptions import SettingsError

from trainer.contract.errors import ConfigError

PREFIX = "TRAINING_ORCHESTRATOR_"
S = TypeVar("S", bound=BaseSettings)


def read_settings(kind: type[S], **given: Any) -> S:
    """Return the settings of the environment; what is given outweighs it, None does not.

    Raises:
        ConfigError: a value is not one that the setting can have.
    """
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # A rule between several settings stands at none of them.
        prefix = kind.model_config.get("env_prefix", "")
        name = f"{prefix}{first['loc'][0]}".upper() + " = " if first["loc"] else ""
        value = f"{first.get('input')!r}: " if name else ""
        raise ConfigError(f"{name}{value}{first['msg']}.", "Correct it, or unset it.") from None
    except SettingsError as error:
        raise ConfigError(f"{error}.", f"Correct the variables {PREFIX}….") from None
