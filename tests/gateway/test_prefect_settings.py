"""The settings are those that Prefect itself would read, wherever they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.prefect.settings import PrefectSettings
from trainer.contract.errors import ConfigError

PROFILES = """
active = "team"
[profiles.team]
PREFECT_API_URL = "https://team.example/api"
PREFECT_API_AUTH_STRING = "ada:secret"
[profiles.cloud]
PREFECT_API_URL = "https://api.prefect.cloud/api/accounts/1/workspaces/2"
PREFECT_API_KEY = "pnu_1"
[profiles.bare]
"""
TOML = '[api]\nurl = "https://toml.example/api/"\nrequest_timeout = 7\n'
PYPROJECT = '[tool.prefect.api]\nurl = "https://pyproject.example/api"\n'


@pytest.mark.parametrize(
    ("files", "variables"),
    [
        ({}, {}),
        ({}, {"PREFECT_API_URL": "http://127.0.0.1:4200/api"}),
        ({}, {"prefect_api_url": "http://lower.example/api"}),
        ({"prefect-home/profiles.toml": PROFILES}, {}),
        ({"prefect-home/profiles.toml": PROFILES}, {"PREFECT_PROFILE": "cloud"}),
        ({"prefect-home/profiles.toml": PROFILES}, {"PREFECT_PROFILE": "bare"}),
        ({"prefect-home/profiles.toml": PROFILES}, {"PREFECT_PROFILE": "absent"}),
        ({"prefect-home/profiles.toml": PROFILES}, {"PREFECT_API_URL": "http://e.example/api"}),
        ({"other.toml": PROFILES}, {"PREFECT_PROFILES_PATH": "other.toml"}),
        ({"other.toml": PROFILES, ".env": "PREFECT_PROFILES_PATH=other.toml"}, {}),
        ({"other.toml": PROFILES, "prefect.toml": 'profiles_path = "other.toml"'}, {}),
        ({".env": "PREFECT_API_URL='http://dotenv.example/api'\nX=1\n"}, {}),
        ({".env": "PREFECT_API_KEY=pnu_2\n", "prefect.toml": TOML}, {}),
        ({"prefect.toml": TOML, "pyproject.toml": PYPROJECT}, {}),
        ({"pyproject.toml": PYPROJECT, "prefect-home/profiles.toml": PROFILES}, {}),
        ({"pyproject.toml": "[tool.ruff]\nline-length = 1\n"}, {}),
        (
            {"prefect.toml": 'ui_url = "https://ui.example"\n[api]\nurl = "http://a.example/api"'},
            {},
        ),
        (
            {},
            {"PREFECT_API_URL": "http://a.example/sub/api", "PREFECT_UI_URL": "http://ui.example/"},
        ),
        ({}, {"PREFECT_API_URL": "http://h/api", "PREFECT_CLIENT_CUSTOM_HEADERS": '{"X-A": "b"}'}),
        ({}, {"PREFECT_API_URL": "https://h/api", "PREFECT_API_TLS_INSECURE_SKIP_VERIFY": "true"}),
        ({}, {"PREFECT_API_URL": "https://h/api", "PREFECT_API_SSL_CERT_FILE": "/ca.pem"}),
    ],
)
def test_a_setting_is_what_prefect_reads(
    files: dict[str, str],
    variables: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    from prefect.settings.models.root import Settings

    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect-home"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    ours, theirs = PrefectSettings(), Settings()

    key, auth = theirs.api.key, theirs.api.auth_string
    assert ours.url == (theirs.api.url.rstrip("/") if theirs.api.url else None)
    assert ours.text("PREFECT_API_KEY") == (key.get_secret_value() if key else None)
    assert ours.text("PREFECT_API_AUTH_STRING") == (auth.get_secret_value() if auth else None)
    assert ours.timeout == theirs.api.request_timeout
    assert ours.certificates == (
        not theirs.api.tls_insecure_skip_verify and (theirs.api.ssl_cert_file or True)
    )
    sent = {name: value for name, value in ours.headers.items() if name != "Authorization"}
    assert sent == theirs.client.custom_headers
    page = theirs.ui_url.rstrip("/") + "/runs/flow-run/7" if theirs.ui_url else ""
    assert ours.page_of_run(7) == page


def test_an_empty_address_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFECT_API_URL", "")

    assert PrefectSettings().url is None


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prefect.toml").write_text("[api\n")

    with pytest.raises(ConfigError, match=r"prefect\.toml: cannot be read"):
        _ = PrefectSettings().url
