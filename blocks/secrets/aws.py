"""Secrets in AWS Secrets Manager."""

from __future__ import annotations

import os

from trainer.contract.errors import (
    ConfigError,
    ConnectionLost,
    CredentialsError,
    DependencyError,
    ProviderError,
)

SECONDS = 5.0  # of silence that the service is allowed
LOG_IN = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this machine a role."
)
MISSING = {"ResourceNotFoundException", "InvalidRequestException", "InvalidParameterException"}
UNKNOWN_US = {
    *("UnrecognizedClientException", "InvalidClientTokenId", "ExpiredTokenException"),
    *("InvalidSignatureException", "IncompleteSignature", "SignatureDoesNotMatch"),
}


def fetch(place: str, name: str) -> str:
    """Return a secret's current value; blocking.

    Args:
        place: its name or ARN.
        name: how errors call the secret.

    Raises:
        CredentialsError: there are no credentials, or they lack the right.
        ConfigError: there is no such secret, or no region is set.
        ConnectionLost: the service does not answer.
        DependencyError: boto3 is not installed.
    """
    what = f"{name} = secret://aws/{place}"
    try:
        import boto3
        from botocore import exceptions
        from botocore.config import Config
    except ImportError as error:
        raise DependencyError(
            f"{what}: reading it needs boto3.", "pip install 'training-orchestrator[aws]'"
        ) from error
    settings = Config(
        connect_timeout=SECONDS, read_timeout=SECONDS, retries={"total_max_attempts": 2}
    )
    # An ARN names its region: arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME.
    region = place.split(":")[3] if place.startswith("arn:") and place.count(":") > 3 else None
    try:
        client = boto3.session.Session().client(
            "secretsmanager", region_name=region or _region(), config=settings
        )
        answer = client.get_secret_value(SecretId=place)
    except exceptions.NoRegionError:
        raise ConfigError(f"{what}: no region is set.", "Set AWS_REGION.") from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError):
        raise CredentialsError(f"{what}: there are no credentials for AWS.", LOG_IN) from None
    except exceptions.ClientError as error:
        raise _refused(what, place, error.response.get("Error", {})) from None
    except (exceptions.HTTPClientError, exceptions.ConnectionError) as error:
        raise ConnectionLost(
            f"{what}: AWS Secrets Manager does not answer ({type(error).__name__}).",
            "Check the network and AWS_REGION.",
        ) from None
    except exceptions.BotoCoreError as error:
        raise CredentialsError(f"{what}: {error}.", LOG_IN) from None
    text = answer.get("SecretString")
    return str(text) if text is not None else answer["SecretBinary"].decode("utf-8", "replace")


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


def _refused(what: str, place: str, error: dict[str, str]) -> ProviderError | ConfigError:
    code = error.get("Code", "")
    if code in MISSING:
        return ConfigError(
            f"{what}: there is no such secret that can be read, in this region ({code}).",
            "Correct the name, or set AWS_REGION to where it is.",
        )
    if code in UNKNOWN_US:
        return CredentialsError(f"{what}: AWS does not take the credentials ({code}).", LOG_IN)
    if code == "AccessDeniedException":
        return CredentialsError(
            f"{what}: the credentials lack the right to read it.",
            f"Allow secretsmanager:GetSecretValue on {place} (and kms:Decrypt, where it has a key "
            "of its own).",
        )
    return ProviderError(f"{what}: AWS Secrets Manager says {code or 'nothing'}.")
