"""What a service is configured by: environment variables TRAINING_ORCHESTRATOR_…."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.reading_settings import PREFIX, read_settings

if TYPE_CHECKING:
    from gateway.operations.creating import JobRequest

PORT = 8000


class ServiceSettings(BaseSettings):
    """How the service is hosted."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    """The address on which it listens: of this computer's own by default."""
    port: int = Field(default=PORT, ge=0, le=65535)
    """0: a free one."""
    deployment: str = "train/local"
    """FLOW/NAME of the deployment for jobs that train on a worker's own computer."""
    metrics_retention_days: float | None = Field(default=None, gt=0)
    """For how many days the metrics store keeps the points of a job after its last; None: for ever."""
    pairs: str | None = None
    """Where the pairs of an endpoint are, for trainings of document 001 that do not say it: a path or an
    address with {endpoint_id} and {version}."""
    cloud_deployment: str = "train/cloud"
    """FLOW/NAME of the deployment for jobs that train on rented machines."""

    @property
    def deployments(self) -> dict[bool, str]:
        """The deployments, by whether a job trains on the computer of its worker."""
        return {True: self.deployment, False: self.cloud_deployment}

    def filled(self, request: JobRequest) -> JobRequest:
        """Return a request with what this service adds where it says nothing: here, nothing."""
        return request

    @property
    def is_private(self) -> bool:
        """Whether it is reached from this computer only."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def service_settings(**given: Any) -> ServiceSettings:
    """Return the settings of the environment; what is given outweighs it, None does not.

    Raises:
        ConfigError: a value is not one that the setting can have.
    """
    return read_settings(ServiceSettings, **given)
