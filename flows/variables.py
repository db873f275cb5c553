"""Write a variable of Prefect."""

from __future__ import annotations

from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.exceptions import ObjectAlreadyExists


async def write_variable(client: PrefectClient, name: str, value: dict[str, Any]) -> None:
    """Give a variable a value, whether it exists or not."""
    try:
        await client.create_variable(VariableCreate(name=name, value=value))
    except ObjectAlreadyExists:
        await client.update_variable(VariableUpdate(name=name, value=value))
