"""Azure's own stand-in, where it is installed: npm install -g azurite."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import shutil
from email.utils import formatdate

import httpx
import pytest

from blocks.stores.opening import open_bucket
from blocks.stores.store import Store
from tests.clouds.machines import free_port
from tests.waiting import until
from trainer.contract.manifest import verify, write_manifest
from trainer.courier.carrying import receive, send

AZURITE = shutil.which("azurite-blob")
ACCOUNT = "devstoreaccount1"
# The one that Azurite has for everybody: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
VERSION = "2021-12-02"

pytestmark = pytest.mark.skipif(not AZURITE, reason="azurite is not installed (npm)")


@pytest.fixture
async def azurite(tmp_path, monkeypatch):
    """Run it with one container, and point the product at it."""
    port = free_port("127.0.0.1")
    options = ["--blobPort", str(port), "--silent", "--location", str(tmp_path / "azurite")]
    url = f"http://127.0.0.1:{port}/{ACCOUNT}"
    process = await asyncio.create_subprocess_exec(AZURITE, *options, "--skipApiVersionCheck")
    try:
        await until(lambda: made(url))
        monkeypatch.setenv(
            "AZURE_STORAGE_CONNECTION_STRING",
            f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={url};",
        )
        yield
    finally:
        process.kill()
        await process.wait()


async def made(url: str) -> bool:
    """Make the container; return whether it is there."""
    date = formatdate(usegmt=True)
    resource = f"/{ACCOUNT}/{ACCOUNT}/models\nrestype:container"
    text = f"PUT{chr(10) * 12}x-ms-date:{date}\nx-ms-version:{VERSION}\n{resource}"
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date,
        "x-ms-version": VERSION,
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
    }
    async with httpx.AsyncClient() as client:
        try:
            answer = await client.put(f"{url}/models?restype=container", headers=headers)
        except httpx.HTTPError:
            return False
    assert answer.status_code == 201, answer.text
    return True


async def test_a_folder_and_a_signed_address_work_at_azurite(azurite, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"a" * 1_000_000)
    (folder / "empty").touch()
    write_manifest(folder)
    store = Store(await open_bucket("az://models/team"))

    await store.put_folder(folder, "runs/1/output")
    await store.put_folder(folder, "runs/2/output")
    await store.get_folder("runs/1/output", tmp_path / "back")

    assert verify(tmp_path / "back") == verify(folder)
    assert await store.names("runs") == ["runs/1/output", "runs/2/output"]
    assert not await store.bucket.create("runs/1/output/MANIFEST.json", b"x")
    facts = verify(folder)["files"]["a.bin"]
    [put] = await store.bucket.sign("PUT", ["objects/again"], 60)
    [get] = await store.bucket.sign("GET", ["objects/again"], 60)
    await asyncio.to_thread(send, folder / "a.bin", facts, put, store.bucket.put_headers)
    await asyncio.to_thread(receive, tmp_path / "again", facts, get)
    await store.forget(["runs/1/output"])
    assert await store.names("runs") == ["runs/2/output"]
