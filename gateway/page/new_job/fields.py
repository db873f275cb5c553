"""The fields of the form, from the model of a job, in the order in which a person fills them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gateway.cli.job_template import one_line
from trainer.config import TrainingJob

Schema = dict[str, Any]
OPEN: dict[str, tuple[str, ...]] = {
    "Name": ("name",),
    "What to train": (
        *("training.method", "training.model", "training.dataset.path"),
        *("training.dataset.eval_fraction", "training.num_train_epochs"),
        *("training.per_device_train_batch_size", "training.learning_rate", "training.max_length"),
    ),
    "What it runs on": ("provider", "resources.gpu_count", "resources.gpu_types"),
    "Limits": ("limits.max_runtime_minutes", "limits.max_cost", "limits.max_price_per_hour"),
}
"""What everybody decides, by the parts of the form; all else is folded away under `FOLDED`."""
FOLDED: dict[str, dict[str, str]] = {
    "What to train": {
        "training.dataset.": "The data, in detail",
        "training.peft.": "The adapters",
        "training.": "The training, in detail",
    },
    "What it runs on": {"resources.": "The machine, in detail"},
    "Limits": {"limits.": "The limits, in detail"},
    "The rest": {"": "Queue, store, notifications and more"},
}
"""By part, the prefix of its fields and what they are called together; the longest prefix counts."""

NOTHING = {"null", "[]", "{}", "-1"}
"""Defaults that say nothing by themselves: the model has a sentence about them."""
WORDS = {"true", "false", "null"}
"""What a choice may be beside texts and numbers."""


class FieldKind(StrEnum):
    """How a field is filled in."""

    TEXT = "text"
    NUMBER = "number"
    CHOICE = "choice"
    LINES = "lines"
    """A list of texts, one on each line."""
    YAML = "yaml"
    """Anything else, written as in a job file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of the form."""

    path: str
    """Where it is in a job, such as training.dataset.path."""
    kind: FieldKind
    help: str
    choices: tuple[str, ...] = ()
    default: str | None = None
    """What it is where it is left out, as the form shows it; None: it cannot be."""
    may_be_list: bool = False

    @property
    def about(self) -> str:
        """What it is, and what holds where it is left empty."""
        if self.default in {None, "''"}:
            return self.help
        said = f"{self.default}: "
        if (
            self.default in NOTHING and said in self.help
        ):  # the model's own words of it, in the form's
            before, _, after = self.help.partition(said)
            is_sentence = not before or before.rstrip().endswith((".", ")"))
            return f"{before}{'Left' if is_sentence else 'left'} empty: {after}"
        left = "none" if self.default in NOTHING else self.default
        return f"{self.help} Left empty: {left}.".strip()

    @property
    def label(self) -> str:
        """What it is called within its part of the form."""
        return self.path.partition(".")[2] or self.path

    @property
    def id(self) -> str:
        """Its id in the page."""
        return "f-" + self.path.replace(".", "-").replace("_", "-")

    def shown(self, value: Any) -> str:
        """Return a value of the job file as the form shows it."""
        if isinstance(value, str) and self.kind is not FieldKind.YAML:
            return value
        if self.kind is FieldKind.LINES and _is_texts(value):
            return "\n".join(value)
        return one_line(value)

    def value(self, text: str) -> Any:
        """Return what somebody filled in as a value for the job file; what is not of its kind as it is."""
        text = text.strip()
        if self.kind is FieldKind.LINES and text != "null" and not text.startswith("["):
            return [line for line in map(str.strip, text.splitlines()) if line]
        if self.kind is FieldKind.TEXT and text != "null":
            if not self.may_be_list or not text.startswith("["):
                return text
        elif self.kind is FieldKind.CHOICE and text not in WORDS and not text.isdecimal():
            return text
        try:
            return YAML(typ="safe", pure=True).load(text)
        except (YAMLError, ValueError, TypeError, AttributeError, RecursionError):
            return text  # and the model says what is wrong with it


@dataclass(frozen=True, slots=True, kw_only=True)
class FormPart:
    """A part of the form."""

    title: str
    fields: tuple[Field, ...]
    folded: tuple[tuple[str, tuple[Field, ...]], ...]
    """Those that few need, under what they are called together."""


@cache
def fields() -> dict[str, Field]:
    """Return every field of a job by its path, in the model's order."""
    schema = TrainingJob.model_json_schema()
    return {field.path: field for field in _fields(schema, schema["$defs"], "")}


@cache
def parts() -> tuple[FormPart, ...]:
    """Return the parts of the form, in the order in which a person fills them."""
    return tuple(
        FormPart(
            title=title,
            fields=tuple(fields()[path] for path in OPEN.get(title, ())),
            folded=tuple(
                (name, tuple(field for field in fields().values() if _is_under(field.path, prefix)))
                for prefix, name in FOLDED.get(title, {}).items()
            ),
        )
        for title in (*OPEN, "The rest")
    )


def _is_under(path: str, prefix: str) -> bool:
    """Whether a field is folded away under a prefix, and under no longer one."""
    prefixes = [one for folded in FOLDED.values() for one in folded if path.startswith(one)]
    is_open = any(path in paths for paths in OPEN.values())
    return not is_open and max(prefixes, key=len) == prefix


def _fields(schema: Schema, definitions: dict[str, Schema], prefix: str) -> Iterator[Field]:
    for name, given in schema["properties"].items():
        path = f"{prefix}{name}"
        kinds = [_resolved(one, definitions) for one in given.get("anyOf", [given])]
        nested = [one for one in kinds if "properties" in one]
        # Settings that are off are a line of YAML; of several kinds the usual one has fields.
        if nested and ("default" not in given or given["default"] is not None):
            for field in _fields(nested[0], definitions, f"{path}."):
                tags = [one for other in nested for one in _tags(other, field.path)]
                is_tag = len(nested) > 1 and len(tags) == len(nested)
                yield (
                    replace(field, kind=FieldKind.CHOICE, choices=tuple(tags)) if is_tag else field
                )
            continue
        kind, choices = _kind(kinds)
        yield Field(
            path=path,
            kind=kind,
            help=" ".join(given.get("description", "").split()),
            choices=choices,
            default=_default(given, is_required=name in schema.get("required", ())),
            may_be_list=any(one.get("type") == "array" for one in kinds),
        )


def _tags(schema: Schema, path: str) -> list[str]:
    """Return the name of a kind of settings, if the field at the path is what holds it."""
    tag = schema["properties"].get(path.rpartition(".")[2], {}).get("const")
    return [str(tag)] if tag else []


def _resolved(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    name = schema.get("$ref", "").rpartition("/")[2]
    return definitions[name] if name else schema


def _default(schema: Schema, *, is_required: bool) -> str | None:
    if is_required:
        return None
    empty: Any = {"array": [], "object": {}}.get(schema.get("type", ""))
    return one_line(schema.get("default", empty))


def _kind(kinds: list[Schema]) -> tuple[FieldKind, tuple[str, ...]]:
    choices = [choice for one in kinds for choice in _choices(one)]
    if all(_choices(one) for one in kinds) and len(choices) > 1:
        return FieldKind.CHOICE, tuple(choices)
    types = {one.get("type") for one in kinds} - {"null"}
    if types <= {"number", "integer"}:
        return FieldKind.NUMBER, ()
    if "string" in types and types <= {"string", "array"}:
        return FieldKind.TEXT, ()
    items = [one.get("items", {}).get("type") for one in kinds if one.get("type") == "array"]
    return (FieldKind.LINES if types == {"array"} and items == ["string"] else FieldKind.YAML), ()


def _choices(schema: Schema) -> list[str]:
    match schema.get("type"):
        case "boolean":
            return ["true", "false"]
        case "null":
            return ["null"]
        case _:
            found = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
            return [str(one) for one in found]


def _is_texts(value: Any) -> bool:
    # A text with a line break in it, such as a script of setup, would become two.
    return isinstance(value, list) and all(
        isinstance(one, str) and one.strip() == one and "\n" not in one for one in value
    )
