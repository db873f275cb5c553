"""Open a store by its address."""

from __future__ import annotations

import asyncio
from typing import cast

import httpx

from blocks.stores.access import Access
from blocks.stores.bucket import Bucket
from trainer.config.store_urls import StoreUrl, parse_store_url
from trainer.contract.errors import ConfigError, StoreAway

_loaded: dict[str, tuple[StoreUrl, Access]] = {}
"""What saved blocks said last, by their names."""


async def open_bucket(address: str, *, field: str = "store") -> Bucket:
    """Return the bucket at an address: a folder, s3://, gs://, az:// or block://.

    Nothing is sent to the store yet.

    Args:
        address: such as s3://models/team, or block://NAME/PATH for a saved block.
        field: of the job file, for messages.

    Raises:
        ConfigError: it is no address, no block is saved under that name, or a setting cannot be used.
        DependencyError: a library that it needs is not installed.
        StoreError: the folder cannot be made, or Prefect, which has the block, cannot be reached.
    """
    try:
        url = parse_store_url(address)
    except ValueError as error:
        raise ConfigError(f"{field} = {error}.", "Correct the address.") from None
    access = Access()
    if url.scheme == "block":
        url, access = await _saved(url, field)
    # In a thread: keepers of secrets are asked over the network, and so is who we are in a cloud.
    return await asyncio.to_thread(Bucket.at, url, access)


async def _saved(url: StoreUrl, field: str) -> tuple[StoreUrl, Access]:
    from blocks.stores.block import StoreBlock  # Prefect, for those who need it

    try:
        block = cast("StoreBlock", await StoreBlock.aload(url.bucket))
        _loaded[url.bucket] = await asyncio.to_thread(block.place)
    except httpx.HTTPError as error:
        # Prefect is away: what it said before will do.
        if url.bucket not in _loaded:
            raise StoreAway(f"{field} = '{url}': Prefect cannot be reached: {error}.") from None
    except ValueError:  # what Prefect raises for a document that does not exist
        raise ConfigError(
            f"{field} = '{url}': no {StoreBlock.get_block_type_slug()} block is saved as "
            f"{url.bucket!r}.",
            "Save one in Prefect's UI under Blocks, or name another.",
        ) from None
    place, access = _loaded[url.bucket]
    return place.inside(url.path), access
