"""Bring automations from files to a Prefect server: `trainctl deploy --automations PATH`.

A file is what `prefect automation create --from-file` takes, but an action may name its deployment,
`deployment: FLOW/NAME`, and the block by which it tells people, `block: TYPE/NAME`. Prefect knows both by
ids that no file can know before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from flows.job_file import parse_job
from trainer.contract.errors import ConfigError

ENDINGS = {".yaml", ".yml", ".json"}
FILLED_IN = {"actions_on_trigger", "actions_on_resolve", "owner_resource"}
"""What no file says, and Prefect fills in."""


async def deploy_automations(client: PrefectClient, path: Path, say: Callable[[str], None]) -> None:
    """Make the automations of a file, or of all files in a folder; one of the same name is changed.

    Whether it is switched on stays as its administrator has it.

    Args:
        client: of the server.
        path: the file or folder.
        say: takes a line about each.

    Raises:
        ConfigError: naming the file and what is wrong with it; those before it are made.
    """
    for file in _files(path):
        ours = await _read(client, file)
        found = await client.read_automations_by_name(ours.name)
        if len(found) > 1:
            raise ConfigError(
                f"{file}: Prefect has {len(found)} automations named {ours.name!r}.",
                "Delete all but one of them.",
            )
        if not found:
            await client.create_automation(ours)
            say(f"created  automation {ours.name}")
        elif _content(found[0]) == _content(ours):
            say(f"kept     automation {ours.name}: unchanged")
        else:
            ours.enabled = found[0].enabled
            await client.update_automation(found[0].id, ours)
            say(f"updated  automation {ours.name}")


def _files(path: Path) -> list[Path]:
    try:
        files = [path] if not path.is_dir() else sorted(path.iterdir())
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}.", "Name a folder that you may read."
        ) from None
    found = [file for file in files if file.suffix in ENDINGS or file == path]
    if not found:
        raise ConfigError(f"{path}: holds no .yaml file.", "Name a folder of automations.")
    return found


async def _read(client: PrefectClient, file: Path) -> AutomationCore:
    value = parse_job(file)
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: is not an automation.", "Start from examples/automations.")
    actions = value.get("actions")
    if isinstance(actions, list):
        value = {**value, "actions": [await _resolved(client, file, each) for each in actions]}
    try:
        return AutomationCore.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{file}: {field}: {first['msg']}.", "Correct it.") from None


async def _resolved(client: PrefectClient, file: Path, action: Any) -> Any:
    """Return an action with the ids of the deployment and of the block that it names."""
    if not isinstance(action, Mapping):
        return action
    rest = {key: value for key, value in action.items() if key not in {"deployment", "block"}}
    if "deployment" in action:
        name = str(action["deployment"])
        try:
            found = await client.read_deployment_by_name(name)
        except ObjectNotFound:
            raise ConfigError(
                f"{file}: deployment = {name!r}: Prefect has no such deployment.",
                "Name one of 'prefect deployment ls', as FLOW/NAME.",
            ) from None
        rest |= {"source": "selected", "deployment_id": str(found.id)}
    if "block" in action:
        name = str(action["block"])
        kind, _, given = name.partition("/")
        try:
            block = await client.read_block_document_by_name(given, kind)
        except ObjectNotFound:
            raise ConfigError(
                f"{file}: block = {name!r}: Prefect has no such block.",
                "Name one of 'prefect block ls', as TYPE/NAME, such as slack-webhook/team.",
            ) from None
        rest["block_document_id"] = str(block.id)
    return rest


def _content(automation: Automation | AutomationCore) -> dict[str, Any]:
    """Return what a file says of an automation."""
    content = automation.model_dump(mode="json", exclude=FILLED_IN | {"id", "enabled"})
    for name in ("created", "updated"):
        content.pop(name, None)
    return content
