"""Which Prefect API is configured, found where Prefect looks for it, without importing Prefect.

In this order: the environment, .env, prefect.toml and pyproject.toml of the working directory,
and the active profile. Importing Prefect for it would cost every command two seconds.
"""

from __future__ import annotations

import base64
import json
import os
import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trainer.contract.errors import ConfigError

CLOUD = "https://api.prefect.cloud/api"
TRUE = {"1", "true", "t", "yes", "y", "on"}
TEST_MODES = ("TEST_MODE", "UNIT_TEST_MODE", "TESTING_UNIT_TEST_MODE", "TESTING_TEST_MODE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What proves to the API who we are."""

    setting: str
    """The setting's name."""
    header: str
    """The value of the header Authorization."""


class PrefectSettings:
    """The settings of Prefect's client as they are at this moment."""

    @property
    def url(self) -> str | None:
        """The API's address without a slash at its end; None when none is configured."""
        return (self.text("PREFECT_API_URL") or "").strip().rstrip("/") or None

    @property
    def credential(self) -> Credential | None:
        """What is sent to be let in; like Prefect, the name and password before the key."""
        if basic := self.text("PREFECT_API_AUTH_STRING"):
            # As in HTTP's basic authentication: https://www.rfc-editor.org/rfc/rfc7617
            token = base64.b64encode(basic.encode()).decode()
            return Credential(setting="PREFECT_API_AUTH_STRING", header=f"Basic {token}")
        if key := self.text("PREFECT_API_KEY"):
            return Credential(setting="PREFECT_API_KEY", header=f"Bearer {key}")
        return None

    @property
    def certificates(self) -> str | bool:
        """The file of trusted authorities; True: the usual ones, False: no check at all."""
        if (self.text("PREFECT_API_TLS_INSECURE_SKIP_VERIFY") or "").lower() in TRUE:
            return False
        return self.text("PREFECT_API_SSL_CERT_FILE") or os.environ.get("SSL_CERT_FILE") or True

    @property
    def timeout(self) -> float:
        """Seconds that one request may take."""
        try:
            return float(self.text("PREFECT_API_REQUEST_TIMEOUT") or 60)
        except ValueError:
            return 60.0

    @property
    def headers(self) -> dict[str, str]:
        """Headers to send with every request."""
        given = self._value("PREFECT_CLIENT_CUSTOM_HEADERS")
        try:
            # Text in the environment, a table in TOML.
            given = json.loads(given) if isinstance(given, str) and given else given
        except ValueError:
            given = None
        headers = {str(k): str(v) for k, v in given.items()} if isinstance(given, dict) else {}
        if self.credential:
            headers["Authorization"] = self.credential.header
        return headers

    def page_of_run(self, run_id: object) -> str:
        """Return the address of a run's page in Prefect's UI."""
        ui = self.text("PREFECT_UI_URL") or self._ui_of(self.url)
        return f"{ui.rstrip('/')}/runs/flow-run/{run_id}" if ui else ""

    def _ui_of(self, api_url: str | None) -> str | None:
        if api_url is None:
            return None
        cloud = self.text("PREFECT_CLOUD_API_URL") or CLOUD
        if api_url.startswith(cloud):
            cloud_ui = self.text("PREFECT_CLOUD_UI_URL") or _cloud_ui(cloud)
            api_url = api_url.replace(cloud, cloud_ui)
        # The pages of the UI drop the plural: /account/… for the API's /accounts/….
        page = api_url.removesuffix("/api").replace("/api/", "/")
        return page.replace("/accounts/", "/account/").replace("/workspaces/", "/workspace/")

    def text(self, name: str) -> str | None:
        """Return a setting as text, or None when it is set nowhere."""
        value = self._value(name)
        return None if value is None else str(value)

    def place(self, name: str) -> str:
        """Return in words where a setting was found; it must be set."""
        return self._found(name)[1]

    def _value(self, name: str) -> Any:
        return self._found(name)[0]

    def _found(self, name: str) -> tuple[Any, str]:
        for variables, place in ((self._environment, "the environment"), (self._dotenv, ".env")):
            if name in variables:
                return variables[name], f"{name} in {place}"
        # PREFECT_API_URL is `url` in the table `api` of a TOML file; flat, as `api_url`, it is
        # accepted too.
        section, _, field = name.removeprefix("PREFECT_").lower().partition("_")
        for table, file in (
            (_toml("prefect.toml"), "prefect.toml"),
            (_toml("pyproject.toml", "tool", "prefect"), "pyproject.toml"),
        ):
            inner = table.get(section)
            if isinstance(inner, dict) and field in inner:
                return inner[field], f"{section}.{field} in {file}"
            if name.removeprefix("PREFECT_").lower() in table:
                key = name.removeprefix("PREFECT_").lower()
                return table[key], f"{key} in {file}"
        return self._profile.get(name), f"{name} in Prefect's active profile"

    @cached_property
    def _environment(self) -> dict[str, str]:
        # Prefect takes the names of its variables in any case.
        return {k.upper(): v for k, v in os.environ.items() if k.upper().startswith("PREFECT_")}

    @cached_property
    def _dotenv(self) -> dict[str, str]:
        if not Path(".env").is_file():
            return {}
        from dotenv import dotenv_values  # seldom needed

        return {k.upper(): v for k, v in dotenv_values(".env").items() if v is not None}

    @cached_property
    def _profile(self) -> dict[str, Any]:
        # Prefect leaves out profiles in its test modes, so that tests do not meet a developer's
        # server.
        if any(os.environ.get(f"PREFECT_{name}") for name in TEST_MODES):
            return {}
        known = _toml(self._profiles_path())
        active = os.environ.get("PREFECT_PROFILE") or known.get("active")
        profile = known.get("profiles", {}).get(active)
        return profile if isinstance(profile, dict) else {}

    def _profiles_path(self) -> Path:
        chosen = (
            os.environ.get("PREFECT_PROFILES_PATH")
            or self._dotenv.get("PREFECT_PROFILES_PATH")
            or _toml("prefect.toml").get("profiles_path")
            or _toml("pyproject.toml", "tool", "prefect").get("profiles_path")
        )
        if chosen:
            return Path(chosen)
        return Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect") / "profiles.toml"


def _cloud_ui(cloud: str) -> str:
    if re.match(r"^https://api[\.\w]*.prefect.[^\.]+/", cloud):
        cloud = cloud.replace("https://api", "https://app", 1)
    return cloud.removesuffix("/api")


def _toml(path: str | Path, *tables: str) -> dict[str, Any]:
    """Return a table of a TOML file; an empty one if there is none.

    Raises:
        ConfigError: the file is not TOML; Prefect refuses it too.
    """
    try:
        value: Any = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}.", "Correct the file.") from None
    for name in tables:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
