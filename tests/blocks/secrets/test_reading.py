"""A secret is read wherever it is kept, and nowhere that others may read it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from blocks.providers.runpod import RunPod
from blocks.registry import load_provider
from blocks.secrets import reading
from blocks.secrets.reading import is_set, refresh, secret
from blocks.stores.block import StoreBlock
from tests.clouds.vaults import Vaults
from trainer.contract.errors import ConfigError, CredentialsError, OrchestratorError

NAME = "A_TOKEN"
PLACES = ("secret://aws/own", "secret://gcp/own", "secret://azure/vault/own")


@pytest.fixture(autouse=True)
def nothing_read(monkeypatch):
    monkeypatch.setattr(reading, "_read", {})
    for name in (NAME, f"{NAME}_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Vaults() as vaults:
        yield vaults, vaults.environ(tmp_path_factory.mktemp("vaults"))


@pytest.fixture
def vaults(served, monkeypatch):
    vaults, environ = served
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "GOOGLE_CLOUD_PROJECT", "AZURE_CLIENT_SECRET", "AZURE_CLIENT_ID"):
        monkeypatch.delenv(name, raising=False)
    vaults.held, vaults.forbidden = {"own": "own-canary-7781"}, set()
    vaults.asked.clear()
    return vaults


def private(path: Path, content: str = "file-canary\n", mode: int = 0o600) -> Path:
    path.write_text(content)
    path.chmod(mode)
    return path


def test_a_variable_outweighs_its_file_and_a_block_both(tmp_path, monkeypatch):
    assert (secret(NAME), is_set(NAME)) == ("", False)

    monkeypatch.setenv(f"{NAME}_FILE", str(private(tmp_path / "token")))
    assert (secret(NAME), is_set(NAME)) == ("file-canary", True)

    monkeypatch.setenv(NAME, " variable-canary\n")
    assert secret(NAME) == "variable-canary"
    assert secret(NAME, "block-canary") == "block-canary"


def test_a_file_is_read_by_its_address_and_anew_each_time(tmp_path, monkeypatch):
    path = private(tmp_path / "token")
    monkeypatch.setenv(NAME, f"secret://file{path}")

    assert secret(NAME) == "file-canary"
    private(path, "rotated-canary")
    assert secret(NAME) == "rotated-canary"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666])
def test_a_file_that_others_may_read_is_refused_with_the_remedy(tmp_path, monkeypatch, mode):
    path = private(tmp_path / "token", mode=mode)
    monkeypatch.setenv(f"{NAME}_FILE", str(path))

    with pytest.raises(ConfigError) as e:
        secret(NAME)

    assert f"{NAME}_FILE = {path}: may be read by others (its mode is {mode:04o})" in str(e.value)
    assert f"chmod 600 {path}" in str(e.value)
    assert "defaultMode: 0400" in str(e.value)
    assert "canary" not in str(e.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "holds no secret"), ("x" * 70000, "holds no secret"), (None, "No such file")],
)
def test_a_file_without_a_secret_is_named(tmp_path, monkeypatch, content, words):
    path = tmp_path / "token"
    if content is not None:
        private(path, content)
    monkeypatch.setenv(f"{NAME}_FILE", str(path))

    with pytest.raises(ConfigError, match=words) as e:
        secret(NAME)

    assert str(path) in str(e.value)


@pytest.mark.parametrize("place", PLACES)
def test_a_vault_gives_a_secret_or_one_field_of_it(vaults, place):
    assert secret(NAME, place) == "own-canary-7781"

    vaults.held["own"] = '{"user": "ada", "key": "field-canary"}'
    assert secret(NAME, f"{place}#key") == "field-canary"
    with pytest.raises(ConfigError, match=r"is no JSON object with a text 'none'") as e:
        secret(NAME, f"{place}#none")
    assert "canary" not in str(e.value)


@pytest.mark.parametrize(
    ("place", "right"),
    [
        ("secret://aws/own", "Allow secretsmanager:GetSecretValue on own"),
        ("secret://gcp/own", "roles/secretmanager.secretAccessor on projects/own-project/secrets"),
        ("secret://azure/vault/own", "Key Vault Secrets User on the vault vault"),
    ],
)
def test_what_a_vault_refuses_is_said_with_name_place_and_remedy(vaults, place, right):
    vaults.forbidden.add("own")

    with pytest.raises(CredentialsError, match="lack") as e:
        secret(NAME, place)

    assert str(e.value).startswith(f"{NAME} = {place}: ")
    assert right in str(e.value)
    missing = place.replace("own", "nothing")
    with pytest.raises(ConfigError, match="no such secret") as e:
        secret(NAME, missing)
    assert str(e.value).startswith(f"{NAME} = {missing}: ")


@pytest.mark.parametrize(
    ("place", "variable", "kind"),
    [
        ("secret://aws/own", "AWS_ENDPOINT_URL_SECRETS_MANAGER", OrchestratorError),
        ("secret://gcp/own", "SECRET_MANAGER_API_URL", OrchestratorError),
        ("secret://azure/vault/own", "AZURE_KEY_VAULT_URL", OrchestratorError),
        ("secret://aws/own", "AWS_REGION", ConfigError),
        ("secret://aws/own", "AWS_ACCESS_KEY_ID", CredentialsError),
        ("secret://gcp/own", "GOOGLE_APPLICATION_CREDENTIALS", CredentialsError),
        ("secret://azure/vault/own", "IDENTITY_HEADER", CredentialsError),
    ],
)
def test_what_is_missing_for_a_vault_is_one_error_of_ours(
    vaults, monkeypatch, tmp_path, place, variable, kind
):
    # Nothing listens on port 9; a setting that is gone is not found elsewhere either.
    gone = "http://127.0.0.1:9" if "URL" in variable else str(tmp_path / "gone")
    monkeypatch.setenv("HOME", str(tmp_path))
    if variable in {"AWS_REGION", "AWS_ACCESS_KEY_ID"}:
        monkeypatch.delenv(variable)
        monkeypatch.delenv(
            "AWS_SECRET_ACCESS_KEY" if "KEY" in variable else "AWS_DEFAULT_REGION", raising=False
        )
    else:
        monkeypatch.setenv(variable, gone)

    with pytest.raises(kind) as e:
        secret(NAME, place)

    assert str(e.value).startswith(f"{NAME} = {place}: ")


@pytest.mark.parametrize(
    "text", ["secret://", "secret://vault/x", "secret://aws", "secret://hf_canary123"]
)
def test_an_address_that_is_none_is_refused_without_being_quoted(text):
    with pytest.raises(ConfigError, match="says not where the secret is") as e:
        secret(NAME, text)

    assert "canary" not in str(e.value)
    assert "secret://prefect/BLOCK" in str(e.value)


def test_a_vault_is_asked_once_and_again_when_what_it_said_is_old(vaults, monkeypatch):
    place = PLACES[0]
    for _ in range(3):
        refresh(NAME, place)
        assert secret(NAME, place) == "own-canary-7781"
    assert vaults.asked == ["own"]

    vaults.held["own"] = "rotated-canary"
    monkeypatch.setattr(reading, "FRESH_SECONDS", 0.0)
    refresh(NAME, place)
    assert secret(NAME, place) == "rotated-canary"

    del vaults.held["own"]  # what was read stays good while its keeper has nothing better
    refresh(NAME, place)
    assert secret(NAME, place) == "rotated-canary"


async def test_the_key_of_a_provider_may_lie_in_a_vault(vaults, monkeypatch):
    monkeypatch.setenv("RUNPOD_API_KEY", PLACES[0])
    assert RunPod().is_configured()
    assert vaults.asked == []  # not for a look at what is set up

    provider = await load_provider("runpod")

    assert vaults.asked == ["own"]
    assert provider._api()._headers["Authorization"] == "Bearer own-canary-7781"
    assert RunPod(api_key=PLACES[1])._key() == "own-canary-7781"


async def test_the_key_of_a_provider_that_cannot_be_read_is_an_error_when_it_is_used(
    vaults, monkeypatch
):
    vaults.forbidden.add("own")
    monkeypatch.setenv("RUNPOD_API_KEY", PLACES[0])

    provider = await load_provider("runpod")

    with pytest.raises(CredentialsError, match=r"RUNPOD_API_KEY = secret://aws/own: .* lack"):
        await provider.instances()


async def test_a_block_of_prefect_keeps_secrets(prefect_api):
    from prefect.blocks.system import Secret

    await Secret(value="prefect-canary").save("own-token", overwrite=True)

    assert await asyncio.to_thread(secret, NAME, "secret://prefect/own-token") == "prefect-canary"
    assert secret(NAME, "secret://prefect/own-token") == "prefect-canary"  # on the loop, too
    with pytest.raises(ConfigError, match="there is no Secret block of this name"):
        await asyncio.to_thread(secret, NAME, "secret://prefect/none")


def test_the_key_of_a_store_may_lie_in_a_file(tmp_path):
    path = private(tmp_path / "key")

    _, access = StoreBlock(url="s3://own", key_id="id", secret=f"secret://file{path}").place()

    assert access.secret.startswith("file-canary")
    assert not StoreBlock(url="s3://own").place()[1].secret
