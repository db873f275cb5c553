"""Stores to try everything on."""

from __future__ import annotations

import pytest
from obstore.store import MemoryStore

from blocks.stores.bucket import Bucket
from blocks.stores.opening import open_bucket
from tests.clouds.blob import BlobServer
from tests.clouds.gcs import GoogleStoreServer
from trainer.config.store_urls import parse_store_url


@pytest.fixture
def google(monkeypatch, tmp_path):
    """Google Cloud Storage on loopback, and the environment set for it."""
    with GoogleStoreServer() as server:
        key = tmp_path / "google.json"
        key.write_text(server.credentials())
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server
        assert server.errors == []


@pytest.fixture
def azure(monkeypatch):
    """Azure Blob Storage on loopback, and the environment set for it."""
    with BlobServer() as server:
        for name, value in server.environ().items():
            monkeypatch.setenv(name, value)
        yield server
        assert server.errors == []


@pytest.fixture(params=["memory", "folder", "s3", "google", "azure"])
async def bucket(request, tmp_path):
    """A bucket of each kind that costs little."""
    if request.param == "memory":
        return Bucket(parse_store_url("s3://memory"), MemoryStore())
    if request.param == "folder":
        return await open_bucket(str(tmp_path / "store"))
    request.getfixturevalue(request.param)
    scheme = {"google": "gs", "azure": "az"}.get(request.param, "s3")
    return await open_bucket(f"{scheme}://models/team a/ünits")
