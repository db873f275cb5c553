"""What the login must be allowed to do, and what the subscription must have switched on."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from blocks.providers.api import Api
from blocks.providers.azure.answers import (
    RIGHTS,
    data_of,
    is_absent,
    text,
    unregistered,
)
from blocks.providers.azure.resources import Group, pages, version
from blocks.providers.cloud import as_described
from trainer.contract.errors import CredentialsError

NAMESPACES = ("Microsoft.Compute", "Microsoft.Network", "Microsoft.DevTestLab")
IN_GROUP = (
    "Microsoft.Compute/disks/delete",
    "Microsoft.Compute/disks/read",
    "Microsoft.Compute/disks/write",
    "Microsoft.Compute/virtualMachines/delete",
    "Microsoft.Compute/virtualMachines/read",
    "Microsoft.Compute/virtualMachines/write",
    "Microsoft.DevTestLab/schedules/delete",
    "Microsoft.DevTestLab/schedules/read",
    "Microsoft.DevTestLab/schedules/write",
    "Microsoft.Network/networkInterfaces/delete",
    "Microsoft.Network/networkInterfaces/join/action",
    "Microsoft.Network/networkInterfaces/read",
    "Microsoft.Network/networkInterfaces/write",
    "Microsoft.Network/networkSecurityGroups/join/action",
    "Microsoft.Network/networkSecurityGroups/read",
    "Microsoft.Network/networkSecurityGroups/write",
    "Microsoft.Network/publicIPAddresses/delete",
    "Microsoft.Network/publicIPAddresses/join/action",
    "Microsoft.Network/publicIPAddresses/read",
    "Microsoft.Network/publicIPAddresses/write",
    "Microsoft.Network/virtualNetworks/read",
    "Microsoft.Network/virtualNetworks/subnets/join/action",
    "Microsoft.Network/virtualNetworks/write",
    "Microsoft.Resources/subscriptions/resourceGroups/read",
)
"""What is needed in the resource group."""
IN_ACCOUNT = (
    "Microsoft.Authorization/permissions/read",
    "Microsoft.Compute/locations/usages/read",
    "Microsoft.Compute/skus/read",
    "Microsoft.Resources/subscriptions/providers/read",
)
"""What is needed in the subscription, because a group has none of it. All of it only reads."""
MAKE_GROUP = "Microsoft.Resources/subscriptions/resourceGroups/write"
"""In the subscription, unless the group is there."""


async def check_account(api: Api, group: Group) -> None:
    """See that every resource provider is registered, and every right is there; spends nothing.

    Raises:
        ConfigError: a resource provider is not registered; it is named.
        CredentialsError: a right is missing; it is named.
    """
    for namespace in NAMESPACES:
        path = f"{group.account}/providers/{namespace}"
        found = data_of(await api.call("GET", path, params=version("resourceGroups")))
        with as_described("Azure", f"GET {path}"):
            if text(found, "registrationState") not in {"Registered", "Registering"}:
                raise unregistered(namespace)
    await _check_rights(api, group.account, IN_ACCOUNT)
    answer = await api.call("GET", group.path, params=version("resourceGroups"))
    if is_absent(answer):
        await _check_rights(api, group.account, (*IN_GROUP, MAKE_GROUP))
        return
    data_of(answer)
    await _check_rights(api, group.path, IN_GROUP)


async def _check_rights(api: Api, scope: str, needed: Collection[str]) -> None:
    path = f"{scope}/providers/Microsoft.Authorization/permissions"
    rows = await pages(api, path, version("permissions"))
    with as_described("Azure", f"GET {path}"):
        missing = [one for one in needed if not any(_allows(row, one) for row in rows)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CredentialsError(
            f"Azure: the login lacks the right {missing[0]}{more} on {scope}.", RIGHTS
        )


def _allows(row: Mapping[str, Any], action: str) -> bool:
    return _named(row.get("actions"), action) and not _named(row.get("notActions"), action)


def _named(patterns: Any, action: str) -> bool:
    """Whether one of Azure's patterns, in which only * is special, is an action's."""
    return any(
        re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), action, re.IGNORECASE)
        for pattern in patterns or ()
    )
