"""A job as it is understood, for people and for Prefect's own command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from flows.job_file import load_job
from gateway.exits import say_json


def show_job(file: Path, *, as_json: bool) -> None:
    """Print the job in a file with absolute paths and all defaults.

    Raises:
        ConfigError: the file cannot be read, or holds no job.
    """
    job = load_job(file)
    if as_json:
        say_json(job.model_dump(mode="json"))
        return
    yaml = YAML()
    # One line per value, so that lines can be compared and searched.
    yaml.width = 10_000
    yaml.representer.add_representer(type(None), _null)
    yaml.dump(_commented(job), sys.stdout)


def _commented(model: BaseModel) -> CommentedMap:
    """Return settings as YAML in which those that were not given are marked as defaults."""
    values: dict[str, Any] = model.model_dump(mode="json")
    shown = CommentedMap()
    for name in type(model).model_fields:
        value = getattr(model, name)
        shown[name] = _commented(value) if isinstance(value, BaseModel) else values[name]
        # A section has no mark of its own; the settings in it have.
        if name not in model.model_fields_set and not isinstance(value, BaseModel):
            shown.yaml_add_eol_comment("default", name)
    return shown


def _null(representer: Any, value: None) -> Any:
    """Write null as null, where a blank would look like something forgotten."""
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")
