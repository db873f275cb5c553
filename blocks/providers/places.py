"""Where machines were ordered: a place that is taken out of the settings is still looked at.

Each place is an empty file below `places/` of this installation's home, so that nothing that
happens at once can undo it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar
from urllib.parse import quote, unquote

from blocks.home import home, private_folder
from trainer.contract.errors import CredentialsError, ProviderError

logger = logging.getLogger(__name__)
T = TypeVar("T")
CLOSED = (CredentialsError, ProviderError)
"""What a place answers that is closed to us, or is no more; it must not hide all others for ever."""


def note(label: str, place: str) -> None:
    """Note that something may be in a place from now on; call it before the order.

    Args:
        label: of the provider; see `Provider.label`.
        place: such as a region.

    Raises:
        OSError: it cannot be written, and so nothing should be ordered there.
    """
    folder = private_folder(private_folder(home() / "places") / quote(label, safe=""))
    (folder / quote(place, safe="")).touch()


def others(label: str, places: Collection[str]) -> list[str]:
    """Return the places that were noted and are not among `places`, sorted."""
    folder = home() / "places" / quote(label, safe="")
    noted = [unquote(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted({*noted} - {*places})


async def if_allowed(place: str, look: Callable[[], Awaitable[list[T]]]) -> list[T]:
    """Return what a look at a place that is not in the settings shows; nothing where it is closed to us.

    Raises:
        OrchestratorError: it cannot be asked now: what is there is not known.
    """
    try:
        return await look()
    except CLOSED as error:
        not_seen(place, error)
        return []


def not_seen(place: str, error: Exception) -> None:
    """Say that a place that is not in the settings cannot be looked at."""
    logger.warning("What is in %s, which is not in the settings, is not seen: %s", place, error)
