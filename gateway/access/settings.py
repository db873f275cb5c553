"""How callers are let in: environment variables TRAINING_ORCHESTRATOR_…."""

from __future__ import annotations

import ipaddress
from functools import cached_property
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.access.callers import scopes_of
from gateway.reading_settings import PREFIX
from trainer.contract.errors import ConfigError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
CLIENT_SECRET = f"{PREFIX}OIDC_CLIENT_SECRET"
"""The variable of the secret by which an OpenID provider knows this service."""


class AccessSettings(BaseSettings):
    """How callers are let in."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    public_url: str = ""
    """Where people find the service, such as https://train.example.org."""
    trusted_proxies: str = ""
    """Addresses and networks of proxies, with commas: their X-Forwarded-For is believed."""
    proxy_user_header: str = ""
    """The header in which those proxies name who has signed in there; empty: they do not."""
    oidc_issuer: str = ""
    """The OpenID provider at which people sign in; empty: none."""
    oidc_client_id: str = ""
    oidc_claim: str = "email"
    """What of a person's token is the name here."""
    new_user_scopes: str = ""
    """What somebody may do who signs in there and is no user here yet; empty: is not let in."""
    session_hours: float = Field(default=12, gt=0, le=24 * 30)
    requests_per_second: float = Field(default=500, gt=0)
    """Of one key, session or job; twice as many may come at once."""
    most_body_bytes: int = Field(default=2**20, ge=1024)

    @field_validator("public_url", "oidc_issuer")
    @classmethod
    def _is_web(cls, url: str) -> str:
        if url and (urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname):
            raise ValueError("this is no http:// or https:// address")
        return url.rstrip("/")

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        _networks(text)
        return text

    @field_validator("new_user_scopes")
    @classmethod
    def _are_scopes(cls, text: str) -> str:
        try:
            return ",".join(sorted(scopes_of(text))) if text.strip() else ""
        except ConfigError as error:
            raise ValueError(error.suggestion) from None

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.proxy_user_header and not self.trusted_proxies:
            raise ValueError(
                f"{PREFIX}PROXY_USER_HEADER is set and {PREFIX}TRUSTED_PROXIES is not: anybody "
                "could send that header. Name the addresses of the proxy"
            )
        if self.oidc_issuer and not (self.oidc_client_id and self.public_url):
            raise ValueError(
                f"{PREFIX}OIDC_ISSUER needs {PREFIX}OIDC_CLIENT_ID, and {PREFIX}PUBLIC_URL for the "
                "way back"
            )
        return self

    @cached_property
    def proxies(self) -> tuple[Network, ...]:
        """The trusted proxies."""
        return _networks(self.trusted_proxies)

    @property
    def signs_in_elsewhere(self) -> bool:
        """Whether people are told by somebody else than this database."""
        return bool(self.oidc_issuer or self.proxy_user_header)


def _networks(text: str) -> tuple[Network, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    return tuple(ipaddress.ip_network(name, strict=False) for name in names)
