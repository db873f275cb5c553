"""What a store is opened with: the standard settings of its own tools, or those of a saved block."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blocks.secrets.reading import is_address, may_change, renewed
from trainer.config.store_urls import StoreUrl
from trainer.contract.errors import ConfigError, DependencyError, StoreError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

GOOGLE_KEY = "GOOGLE_APPLICATION_CREDENTIALS"
AWS_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
KEY_SECONDS = 600.0  # that a key is believed in; the library asks again five minutes before
METADATA_SECONDS = 1.0
CONNECT = "10s"
SILENCE = "60s"
WHOLE = "24h"
"""For one request. The library's 30 seconds would end the upload of anything large; what takes too
long for its size is ended by `Bucket`."""
INSTALL = "pip install 'training-orchestrator[store]'"
NATIVE = frozenset({"service_account", "authorized_user"})
"""Kinds of Google's credential files that the library reads itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Settings that outweigh those of the environment; an empty one is looked up there."""

    endpoint: str = ""
    """Base URL of the service, for what is not Amazon's, Google's or Microsoft's own."""
    region: str = ""
    key_id: str = ""
    """S3: the access key's id. Azure: the account's name."""
    secret: str = ""
    """S3: the secret access key. Google: a service account's key as JSON. Azure: the account's key, or
    a shared access signature, which begins with sv= or ?."""
    session_token: str = ""


def make_store(url: StoreUrl, access: Access, *, reads: bool = False) -> ObjectStore:
    """Return the library's store of an address; nothing is sent yet.

    Args:
        url: the address.
        access: what it is opened with.
        reads: whether it is for reading, so that a line that falls silent is given up. The library
            would count the whole of an upload as one silence.

    Raises:
        DependencyError: a library that it needs is not installed.
        ConfigError: a setting cannot be used.
        StoreError: the folder cannot be made, or no account or key is known.
    """
    silence = SILENCE if reads else ""
    try:
        from obstore import store as stores
        from obstore.exceptions import BaseError
    except ImportError:
        raise DependencyError(f"{url} needs obstore, which is not installed.", INSTALL) from None
    try:
        match url.scheme:
            case "file":
                return stores.LocalStore(Path(url.path), mkdir=True)
            case "s3":
                return _s3(url, access, stores.S3Store, silence)
            case "gs":
                return _google(url, access, stores.GCSStore, silence)
            case _:
                return _azure(url, access, stores.AzureStore, silence)
    except BaseError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{url} cannot be opened: {reason}.", _HOW[url.scheme]) from None
    except OSError as error:
        raise StoreError(
            f"{url} cannot be opened: {error.strerror or error}.",
            "Name a folder that you may write to.",
        ) from None


def _s3(
    url: StoreUrl, access: Access, kind: Callable[..., ObjectStore], silence: str
) -> ObjectStore:
    endpoint = access.endpoint or _first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    config: dict[str, Any] = {
        # What arrives is compared with it; a tenth of the work of a SHA-256, which every content of
        # ours has as its name besides. So the signature, behind TLS, need not hold another one.
        "checksum_algorithm": _first("AWS_CHECKSUM_ALGORITHM") or "CRC64NVME",
        "unsigned_payload": _first("AWS_UNSIGNED_PAYLOAD") or "true",
        "region": access.region or _first("AWS_REGION", "AWS_DEFAULT_REGION"),
        # By this name, which outweighs the variable of this name.
        "aws_endpoint_url_s3": endpoint,
    }
    credentials: Any = None
    if not access.key_id and any(map(may_change, AWS_KEYS)):
        _kept_aws_keys()  # what is wrong with them is said now, in our words
        credentials = _kept_aws_keys
    elif key_id := access.key_id or renewed("AWS_ACCESS_KEY_ID"):
        config["access_key_id"] = key_id
        config["secret_access_key"] = renewed("AWS_SECRET_ACCESS_KEY", access.secret)
        # One of the environment belongs to the key of the environment.
        token = access.session_token or ("" if access.key_id else renewed("AWS_SESSION_TOKEN"))
        config["session_token"] = token
    elif _first("AWS_SKIP_SIGNATURE").lower() not in {"1", "true"}:
        credentials, region = _aws_chain()
        config["region"] = config["region"] or region
    # The library would ask Amazon where a bucket lies in vain; without a region it is this one.
    config["region"] = config["region"] or "us-east-1"
    return kind(
        url.bucket,
        prefix=url.path or None,
        config=_given(config),
        credential_provider=credentials,
        client_options=_client(endpoint, silence, "AWS_CA_BUNDLE"),
    )


def _kept_aws_keys() -> dict[str, Any]:
    """Return the keys of S3 as they are where they are kept; the library asks again in time."""
    key_id, key, token = map(renewed, AWS_KEYS)
    return {
        "access_key_id": key_id,
        "secret_access_key": key,
        "token": token or None,
        "expires_at": datetime.now(UTC) + timedelta(seconds=KEY_SECONDS),
    }


def _aws_chain() -> tuple[Any, str]:
    """Return what Amazon's own library finds as credentials, and the region it is set to.

    Environment, web identity and the metadata services are known without it; profiles, logins by
    SSO and assumed roles are not.
    """
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        if profile := os.environ.get("AWS_PROFILE"):
            raise DependencyError(
                f"AWS_PROFILE = {profile!r} needs boto3, which is not installed.",
                "pip install 'training-orchestrator[aws]', or set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY.",
            ) from None
        given = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        if not _first(*given, "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
            _in_a_cloud("s3", "169.254.169.254")
        return None, ""
    from botocore.exceptions import BotoCoreError

    try:
        # What ends in minutes must not sign what is to last longer.
        provider = Boto3CredentialProvider(ttl=timedelta(seconds=KEY_SECONDS))
    except ValueError:  # it has looked everywhere
        raise _no_credentials("s3") from None
    except BotoCoreError as error:
        raise ConfigError(f"AWS credentials: {error}.", _HOW["s3"]) from None
    return provider, str(provider.config.get("region") or "")


def _google(
    url: StoreUrl, access: Access, kind: Callable[..., ObjectStore], silence: str
) -> ObjectStore:
    endpoint = access.endpoint or _first("STORAGE_EMULATOR_HOST", "GOOGLE_BASE_URL")
    if endpoint and "://" not in endpoint:
        endpoint = f"http://{endpoint}"  # as Google's own libraries read STORAGE_EMULATOR_HOST
    key = (
        renewed(GOOGLE_KEY, access.secret)
        if access.secret or is_address(_first(GOOGLE_KEY))
        else ""
    )
    config = {"service_account_key": key, "base_url": endpoint}
    return kind(
        url.bucket,
        prefix=url.path or None,
        config=_given(config),
        credential_provider=None if key else _google_chain(),
        client_options=_client(endpoint, silence),
    )


def _google_chain() -> Any:
    """Return what Google's own library makes of a credential file that only it understands."""
    named = _first(GOOGLE_KEY)
    if not named:
        logged_in = Path("~/.config/gcloud/application_default_credentials.json").expanduser()
        if not _first("GOOGLE_SKIP_SIGNATURE", "GOOGLE_BEARER_TOKEN") and not logged_in.exists():
            _in_a_cloud("gs", _first("GCE_METADATA_HOST") or "metadata.google.internal")
        return None
    try:
        kind = json.loads(Path(named).expanduser().read_text(encoding="utf-8"))["type"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"GOOGLE_APPLICATION_CREDENTIALS = {named}: is no credential file: {error}.",
            _HOW["gs"],
        ) from None
    if kind in NATIVE:
        return None
    try:
        from obstore.auth.google import GoogleCredentialProvider
    except ImportError:
        raise DependencyError(
            f"GOOGLE_APPLICATION_CREDENTIALS = {named}: credentials of the kind {kind!r} need "
            "google-auth, which is not installed.",
            "pip install 'training-orchestrator[gcp]'.",
        ) from None
    return GoogleCredentialProvider()


def _azure(
    url: StoreUrl, access: Access, kind: Callable[..., ObjectStore], silence: str
) -> ObjectStore:
    joined = {} if access.key_id else _connection(renewed("AZURE_STORAGE_CONNECTION_STRING"))
    account = access.key_id or joined.get("AccountName", "")
    account = account or _first("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
    endpoint = access.endpoint or joined.get("BlobEndpoint", "")
    endpoint = endpoint or _first("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
    given = access.secret or joined.get("AccountKey", "")
    key = renewed("AZURE_STORAGE_KEY", given)
    shared = joined.get("SharedAccessSignature", "") or renewed("AZURE_STORAGE_SAS_TOKEN")
    if key.startswith(("?", "sv=")):
        key, shared = "", key
    config = {
        "account_name": account,
        "endpoint": endpoint.rstrip("/"),
        "account_key": key,
        "sas_key": shared.lstrip("?"),
    }
    return kind(
        url.bucket,
        prefix=url.path or None,
        config=_given(config),
        credential_provider=None if key or shared else _azure_chain(),
        client_options=_client(endpoint, silence),
    )


def _azure_chain() -> Any:
    """Return what Microsoft's own library finds, unless the environment names something itself."""
    if any(os.environ.get(name) for name in _AZURE_OWN):
        return None
    try:
        from obstore.auth.azure import AzureCredentialProvider
    except ImportError:
        if not _first("AZURE_CLIENT_ID", "AZURE_STORAGE_CLIENT_ID", "AZURE_USE_AZURE_CLI"):
            _in_a_cloud("az", "169.254.169.254")
        return None  # the library knows the environment and managed identities
    return AzureCredentialProvider()


def _in_a_cloud(scheme: str, host: str) -> None:
    """Refuse to look for the identity of a machine in a cloud where there is none.

    The library would ask for minutes, and then say that nothing answers.

    Raises:
        StoreError: there is no such service here, so no credentials are set.
    """
    name, _, port = host.partition(":")
    try:
        socket.create_connection((name, int(port or 80)), timeout=METADATA_SECONDS).close()
    except OSError:
        raise _no_credentials(scheme) from None


def _no_credentials(scheme: str) -> StoreError:
    return StoreError(f"{scheme}://: no credentials are set.", _HOW[scheme])


_AZURE_OWN = (
    *("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_MASTER_KEY"),
    *("AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_TOKEN"),
    *("AZURE_STORAGE_USE_EMULATOR", "AZURE_SKIP_SIGNATURE"),
)


def _connection(text: str) -> dict[str, str]:
    """Return the parts of a connection string as the Azure portal shows it."""
    parts = dict(part.partition("=")[::2] for part in text.split(";") if "=" in part)
    if "AccountName" in parts and "BlobEndpoint" not in parts:
        scheme = parts.get("DefaultEndpointsProtocol", "https")
        suffix = parts.get("EndpointSuffix", "core.windows.net")
        parts["BlobEndpoint"] = f"{scheme}://{parts['AccountName']}.blob.{suffix}"
    return parts


def _client(endpoint: str, silence: str, bundle: str = "") -> dict[str, Any]:
    options: dict[str, Any] = {"connect_timeout": CONNECT, "timeout": WHOLE}
    if silence:
        options["read_timeout"] = silence
    if endpoint.startswith("http://"):
        options["allow_http"] = True
    if bundle and (path := os.environ.get(bundle)):
        try:
            options["root_certificate"] = Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{bundle} = {path}: cannot be read: {error.strerror}.", "Correct it."
            ) from None
    return options


def _first(*names: str) -> str:
    return next((value.strip() for name in names if (value := os.environ.get(name))), "")


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if value}


_HOW = {
    "file": "Name a folder that you may write to.",
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), and "
    "AWS_ENDPOINT_URL_S3 for a store that is not Amazon's.",
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS to a service account's key file, or run: "
    "gcloud auth application-default login.",
    "az": "Set AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY, or AZURE_STORAGE_CONNECTION_STRING.",
}
"""How a person gives a store's tools their credentials."""


def how_to_set_up(scheme: str) -> str:
    """Return the remedy for missing or wrong credentials."""
    return _HOW[scheme]
