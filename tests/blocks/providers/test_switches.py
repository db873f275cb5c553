"""Settings that several providers read alike: switches, and the port of sshd."""

import pytest

from blocks.providers.aws import AWS
from blocks.providers.azure import Azure
from blocks.providers.gcp import GoogleCloud
from blocks.providers.lambda_cloud import LambdaCloud
from trainer.contract.errors import ConfigError

SWITCHED = [AWS, Azure, GoogleCloud]
PORTS = {
    "AWS_SSH_PORT": AWS,
    "AZURE_SSH_PORT": Azure,
    "GCP_SSH_PORT": GoogleCloud,
    "LAMBDA_SSH_PORT": LambdaCloud,
}


@pytest.mark.parametrize("kind", SWITCHED)
def test_only_a_yes_switches_a_provider_on(kind, monkeypatch):
    for word in ("1", "true", "Yes", " on "):
        monkeypatch.setenv(kind.set_up_by, word)
        assert kind().is_configured()
    for word in ("", "0", "false", "no", "off", "disabled"):
        monkeypatch.setenv(kind.set_up_by, word)
        assert not kind().is_configured()


@pytest.mark.parametrize("variable", PORTS)
def test_a_port_that_is_none_is_named(variable, monkeypatch):
    for value in ("ssh", "0", "-1", "70000", "\u0662\u0662"):
        monkeypatch.setenv(variable, value)
        with pytest.raises(ConfigError, match=f"{variable} = '{value}' is not a port"):
            PORTS[variable]()._port()
    monkeypatch.setenv(variable, " ")
    assert PORTS[variable]()._port() == 22
    assert PORTS[variable](ssh_port=2222)._port() == 2222
