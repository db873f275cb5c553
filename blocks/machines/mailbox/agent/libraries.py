"""Mailboxes by a library: obstore, or botocore where that is what the machine has."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from blocks.machines.mailbox.agent.box import Box

OBSTORE = "obstore>=0.12,<0.13"


class ByObstore(Box):
    """A bucket of any kind, or a folder."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        from obstore import exceptions
        from obstore.store import from_url

        self._store = from_url(url, **options)
        self.errors = (exceptions.BaseError, OSError)

    def get(self, name: str) -> bytes | None:
        """Return an object, or None if there is none."""
        import obstore

        try:
            return bytes(obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None

    def put(self, name: str, content: bytes) -> None:
        """Make or replace an object."""
        import obstore

        # Never in parts: one that is left behind would be billed.
        obstore.put(self._store, name, content, use_multipart=False)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        import obstore

        with contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, name)


class ByBotocore(Box):
    """A bucket of S3."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.session import Session

        self._bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._prefix = prefix.strip("/")
        # The library does not look at this variable.
        region = options.get("region") or os.environ.get("AWS_REGION")
        self._client = Session().create_client(
            "s3", endpoint_url=options.get("endpoint"), region_name=region
        )
        self._error = ClientError
        self.errors = (BotoCoreError, ClientError, OSError)

    def get(self, name: str) -> bytes | None:
        """Return an object, or None if there is none."""
        try:
            return bytes(self._client.get_object(**self._at(name))["Body"].read())
        except self._error as error:
            if error.response["Error"]["Code"] in {"NoSuchKey", "404"}:
                return None
            raise

    def put(self, name: str, content: bytes) -> None:
        """Make or replace an object."""
        self._client.put_object(**self._at(name), Body=content)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        self._client.delete_object(**self._at(name))

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}/{name}"}


def opened(url: str, options: dict[str, Any], beside: Path) -> Box:
    """Return a bucket; obstore is installed into the folder `beside` where it is missing."""
    sys.path.append(str(beside))  # last: what the machine has goes before it
    with contextlib.suppress(ImportError):
        return ByObstore(url, options)
    pip = [sys.executable, "-P", "-m", "pip", "install", "-q", "--target", str(beside), OBSTORE]
    # Its own folder, so that nothing which a trainer uses changes.
    installed = subprocess.run(pip, stdin=subprocess.DEVNULL, check=False)  # noqa: S603
    if installed.returncode and url.startswith("s3://"):  # a network without a package index
        return ByBotocore(url, options)
    return ByObstore(url, options)
