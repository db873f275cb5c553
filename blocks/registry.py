"""The providers by name, each imported when it is first used."""

from __future__ import annotations

import difflib
from importlib import import_module
from importlib.metadata import entry_points

from blocks.providers.base import Provider
from trainer.errors import ConfigError, DependencyError

GROUP = "training_orchestrator.providers"
"""The entry point group by which another package adds a provider: name = module:Class."""

PROVIDERS = {
    "local": ("blocks.providers.local:Local", "pip install training-orchestrator"),
}
"""Our own, sorted: name, place of the class, and how to install what it needs."""


def provider_names() -> list[str]:
    """Return the name of every provider that a job may ask for, sorted."""
    return sorted(PROVIDERS.keys() | entry_points(group=GROUP).names)


def load_provider(name: str) -> Provider:
    """Return a provider with its default settings.

    Raises:
        ConfigError: there is no provider of that name.
        DependencyError: what it needs is not installed.
    """
    place, remedy = _place(name)
    module, _, attribute = place.partition(":")
    try:
        kind = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise DependencyError(
            f"The provider {name!r} cannot be loaded: {error}.", f"Try: {remedy}."
        ) from error
    provider = kind()
    if not isinstance(provider, Provider):
        raise DependencyError(
            f"{place} is no provider.", f"Correct the entry point {name!r} of its package."
        )
    return provider


def _place(name: str) -> tuple[str, str]:
    """Return where the class of a provider is and how to install it; ours come first."""
    if name in PROVIDERS:
        return PROVIDERS[name]
    for entry in entry_points(group=GROUP, name=name):
        package = entry.dist.name if entry.dist else "the package that has it"
        return entry.value, f"pip install --force-reinstall {package}"
    names = provider_names()
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names)}."
    raise ConfigError(f"provider = {name!r} is not known; {hint}")
