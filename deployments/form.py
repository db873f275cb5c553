"""The forms in Prefect's UI by which a job is described: all of it, or what most jobs need."""

from __future__ import annotations

from typing import Any

from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema

from blocks.registry import provider_names
from flows.train import train

JsonSchema = dict[str, Any]
SHORT = {
    "TrainingJob": ("name", "training", "provider", "priority", "project"),
    "TrainingConfig": ("method", "model", "dataset", "num_train_epochs", "learning_rate"),
    "DatasetConfig": ("path", "eval_fraction"),
}
"""What the short form asks for; every other field has its default."""


def form_of(flow: Flow[..., Any]) -> JsonSchema:
    """Return the form for all parameters of a flow, its fields in the order of the code."""
    schema = parameter_schema(flow).model_dump_for_openapi()
    # Prefect numbers a flow's parameters, but not the fields of models in them. PostgreSQL's jsonb
    # does not keep the order of keys (https://www.postgresql.org/docs/current/datatype-json.html);
    # the UI sorts by `position` where there is one.
    for definition in schema.get("definitions", {}).values():
        _number(definition)
    return schema


def short_form() -> JsonSchema:
    """Return a form of few fields for the same parameter, `job`.

    A job with more fields is accepted too, so that it refuses nothing that the flow understands.
    """
    # Cut from the full form: titles, types and limits of the fields have one source.
    schema = form_of(train)
    definitions = {name: _cut(schema["definitions"][name], keep) for name, keep in SHORT.items()}
    # A plain list to choose from. In the full form the field is a name or a list of names, for
    # which the UI shows tabs.
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


def _cut(definition: JsonSchema, keep: tuple[str, ...]) -> JsonSchema:
    """Return a definition with only some of its fields, in that order; others are accepted too."""
    properties = {name: definition["properties"][name] for name in keep}
    required = [name for name in definition.get("required", []) if name in keep]
    # A copy: the definition belongs to the schema of the full form.
    cut = {**definition, "properties": properties, "required": required}
    # Without it, any field is allowed; `false` would have the server refuse a complete job.
    cut.pop("additionalProperties", None)
    _number(cut)
    return cut


def _number(definition: JsonSchema) -> None:
    for position, field in enumerate(definition.get("properties", {}).values()):
        field["position"] = position
