"""The providers by name, each imported when it is first used."""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points

import httpx

from blocks.providers.base import Provider
from blocks.secrets.reading import is_elsewhere, refresh
from trainer.contract.errors import ConfigError, DependencyError, OrchestratorError

logger = logging.getLogger(__name__)

GROUP = "training_orchestrator.providers"
"""The entry point group by which another package adds a provider: name = module:Class."""

PROVIDERS = {
    "aws": "blocks.providers.aws:AWS",
    "azure": "blocks.providers.azure:Azure",
    "gcp": "blocks.providers.gcp:GoogleCloud",
    "lambda": "blocks.providers.lambda_cloud:LambdaCloud",
    "local": "blocks.providers.local:Local",
    "runpod": "blocks.providers.runpod:RunPod",
    "sagemaker": "blocks.providers.sagemaker:SageMaker",
    "slurm": "blocks.providers.slurm:Slurm",
    "ssh": "blocks.providers.ssh:SshHost",
    "vast": "blocks.providers.vast:VastAI",
}
"""Our own, sorted: the place of the class by the provider's name."""

AGAIN_SECONDS = 5.0  # for Prefect to load a block again
_loaded: dict[str, Provider] = {}
"""The blocks that were loaded, by label."""


def provider_names() -> list[str]:
    """Return the name of every provider that a job may ask for, sorted."""
    return sorted(PROVIDERS.keys() | entry_points(group=GROUP).names)


def provider_class(label: str) -> type[Provider]:
    """Return the block class of a provider.

    Args:
        label: its name, or name/document for a saved block.

    Raises:
        ConfigError: there is no provider of that name.
        DependencyError: what it needs is not installed.
    """
    name = label.partition("/")[0]
    place, remedy = _place(name)
    module, _, attribute = place.partition(":")
    try:
        kind = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise DependencyError(
            f"The provider {name!r} cannot be loaded: {error}.", f"Try: {remedy}."
        ) from error
    # Entry points name anything that can be imported, and the mistake is better named here than
    # met as an AttributeError in the middle of a search.
    if not (isinstance(kind, type) and issubclass(kind, Provider)):
        raise DependencyError(
            f"{place} is not a provider.", f"Correct the entry point {name!r} of its package."
        )
    return kind


def how_to_set_up(labels: Iterable[str] = ()) -> str:
    """Return, in one sentence, the remedy for a user who has set up none of some providers.

    Args:
        labels: theirs; empty: of all.
    """
    kinds = map(provider_class, list(labels) or provider_names())
    variables = list(dict.fromkeys(kind.set_up_by for kind in kinds if kind.set_up_by))
    which = f"one of {', '.join(variables)}" if len(variables) > 1 else "".join(variables)
    return (
        f"Set {which}, or save a block in Prefect's UI."
        if which
        else "Save a block in Prefect's UI."
    )


async def load_provider(label: str) -> Provider:
    """Return a provider: `runpod` with settings from the environment, `runpod/mine` as saved.

    Raises:
        ConfigError: there is no such provider, or no block saved under that name.
        DependencyError: what it needs is not installed.
    """
    kind = provider_class(label)
    _, _, document = label.partition("/")
    if not document:
        return await _ready(kind())
    known = _loaded.get(label)
    try:
        # Of one that was loaded before the newest is wanted, but a machine is not kept waiting by a
        # Prefect that is away.
        async with asyncio.timeout(AGAIN_SECONDS if known else None):
            _loaded[label] = await kind.aload(document)
    except (TimeoutError, httpx.HTTPError):
        if known is None:
            raise
    except ValueError as error:  # what Prefect raises for a document that does not exist
        raise ConfigError(
            f"provider = {label!r}: no {kind.get_block_type_slug()} block is saved as "
            f"{document!r}.",
            "Save one in Prefect's UI under Blocks, or name another.",
        ) from error
    return await _ready(_loaded[label])


async def configured_providers() -> list[Provider]:
    """Return every provider that has credentials: by the environment, or as a saved block.

    A third party's that cannot be loaded is left out, with a warning.
    """
    found: list[Provider] = []
    for name in provider_names():
        try:
            kind = provider_class(name)
        except OrchestratorError as error:
            # A package of somebody else's; the other providers' machines must not wait for it.
            logger.warning("provider %s is left out: %s", name, error)
            continue
        # The account of the environment and saved accounts of the same provider are independent:
        # one may be set up without the other.
        default = kind()
        if default.is_configured():
            found.append(await _ready(default))
        found += [await load_provider(f"{name}/{document}") for document in await _saved(kind)]
    return found


async def _ready(provider: Provider) -> Provider:
    """Return a provider once its secrets are at hand, or are known not to be readable."""
    elsewhere = [
        (name, given) for name, given in provider.secrets().items() if is_elsewhere(name, given)
    ]
    # Off the loop, since vaults are asked; what goes wrong is raised when the secret is used.
    for name, given in elsewhere:
        await asyncio.to_thread(refresh, name, given)
    return provider


async def _saved(kind: type[Provider]) -> list[str]:
    """Return the names of the blocks of a kind that Prefect keeps."""
    from prefect import get_client
    from prefect.exceptions import ObjectNotFound

    async with get_client() as client:
        try:
            documents = await client.read_block_documents_by_type(kind.get_block_type_slug())
        # The type was never registered, so no block was saved: Prefect 3.8 raises the latter.
        except ObjectNotFound:
            return []
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.NOT_FOUND:
                raise
            return []
    return [document.name for document in documents if document.name]


def _place(name: str) -> tuple[str, str]:
    """Return where the class of a provider is and how to install it; ours come first."""
    # Ours first: an installed package must not put itself in the place of a built-in provider.
    if name in PROVIDERS:
        return PROVIDERS[name], "pip install training-orchestrator"
    for entry in entry_points(group=GROUP, name=name):
        package = entry.dist.name if entry.dist else "the package that has it"
        return entry.value, f"pip install --force-reinstall {package}"
    names = provider_names()
    # A typing error is far more likely than a package that is missing.
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names)}, any."
    raise ConfigError(f"provider = {name!r} is not known; {hint}")
