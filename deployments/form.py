"""The forms in Prefect's UI by which a job is described: all of it, or what most jobs need."""

from __future__ import annotations

from typing import Any

from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema

from blocks.registry import provider_names
from flows.train import train

Schema = dict[str, Any]
SHORT = {
    "TrainingJob": ("name", "training", "provider"),
    "TrainingConfig": ("model", "dataset", "method", "num_train_epochs", "learning_rate"),
    "DatasetConfig": ("path", "eval_fraction"),
}
"""What the short form asks for; every other field has its default."""


def form_of(flow: Flow[..., Any]) -> Schema:
    """Return the form for all parameters of a flow, its fields in the order of the code.

    A database that reorders keys, such as PostgreSQL, leaves it: Prefect's UI sorts by `position`.
    """
    schema = parameter_schema(flow).model_dump_for_openapi()
    for definition in schema.get("definitions", {}).values():
        _number(definition)
    return schema


def short_form() -> Schema:
    """Return a form of eight fields for the same parameter, `job`.

    A job with more fields is taken too, so that nothing is refused which the flow understands.
    """
    schema = form_of(train)
    definitions = {name: _cut(schema["definitions"][name], keep) for name, keep in SHORT.items()}
    providers = definitions["TrainingJob"]["properties"]["provider"]
    definitions["TrainingJob"]["properties"]["provider"] = {
        "title": "Where",
        "type": "string",
        "enum": ["local", *(n for n in provider_names() if n != "local"), "any"],
        "default": "local",
        "description": "local: the worker's computer. any: the cheapest machine for rent.",
        "position": providers["position"],
    }
    return {**schema, "definitions": definitions}


def _cut(definition: Schema, keep: tuple[str, ...]) -> Schema:
    """Return a definition with some of its fields only, in that order; others are taken too."""
    properties = {name: definition["properties"][name] for name in keep}
    required = [name for name in definition.get("required", []) if name in keep]
    cut = {**definition, "properties": properties, "required": required}
    cut.pop("additionalProperties", None)
    _number(cut)
    return cut


def _number(definition: Schema) -> None:
    for position, field in enumerate(definition.get("properties", {}).values()):
        field["position"] = position
