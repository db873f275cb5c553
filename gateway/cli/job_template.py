"""The job file that `trainctl init` writes, made from the settings' own defaults and docs.

As in sshd_config, `# Text` is a comment and `#name: value` is a default that may be changed.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from ruamel.yaml import YAML

from trainer.config import (
    DatasetConfig,
    Limits,
    LoraConfig,
    Resources,
    TrainingConfig,
    TrainingJob,
)
from trainer.contract.errors import ConfigError

WIDTH = 96
CHOSEN: dict[tuple[type[BaseModel], str], Any] = {
    (TrainingJob, "name"): "my-job",
    (TrainingConfig, "method"): "sft",
    (TrainingConfig, "model"): "Qwen/Qwen3-0.6B",
    (DatasetConfig, "path"): "train.jsonl",
    (DatasetConfig, "eval_fraction"): 0.1,
    (LoraConfig, "r"): 16,
    (LoraConfig, "lora_alpha"): 32,
    (TrainingConfig, "num_train_epochs"): 3.0,
    (TrainingConfig, "per_device_train_batch_size"): 8,
    (TrainingConfig, "max_length"): 1024,
    (Resources, "gpu_count"): None,
    (Limits, "max_runtime_minutes"): None,
}
"""What the author of every job should decide: these lines are not commented out. Each mapping has
one, because a mapping with nothing but comments would be null."""
HEAD = """\
# A training job. Check it with 'trainctl validate', run it with 'trainctl run'.
# A line '#name: value' shows a default: remove the # to change it. Relative paths start at the
# folder of this file.
"""


def job_template() -> str:
    """Return a commented job file that is valid as it is, and with any default uncommented."""
    return HEAD + "\n" + "\n".join(_settings(TrainingJob, 0)) + "\n"


def _settings(model: type[BaseModel], depth: int) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield from _comment(field, depth)
        kinds = _nested(field.annotation)
        if kinds and field.default is not None:  # one that is off is a line, not a section
            yield f"{'  ' * depth}{name}:"
            yield from _settings(kinds[0], depth + 1)
            for other in kinds[1:]:
                yield from _instead(other, depth + 1)
        else:
            yield from _setting(model, name, field, depth)
        if depth == 0:
            yield ""


def _instead(model: type[BaseModel], depth: int) -> Iterator[str]:
    """Yield another kind of settings in comments, with values that every field may have."""
    indent = "  " * depth
    about = (model.__doc__ or "").splitlines()[0]
    yield from _comment_lines(f"Instead of the lines above: {about}", depth)
    for name, field in model.model_fields.items():
        # A field without a default takes its first choice here, so that the comment is valid YAML.
        default = field.get_default(call_default_factory=True)
        value = _choices(field.annotation)[0] if default is PydanticUndefined else default
        words = " ".join((field.description or "").split())
        yield f"{indent}#   {name}: {one_line(value)}  # {words}"


def _setting(model: type[BaseModel], name: str, field: FieldInfo, depth: int) -> Iterator[str]:
    chosen = CHOSEN.get((model, name), PydanticUndefined)
    value = field.get_default(call_default_factory=True) if chosen is PydanticUndefined else chosen
    mark = "#" if chosen is PydanticUndefined else ""
    yield f"{'  ' * depth}{mark}{name}: {one_line(value)}"


def _comment(field: FieldInfo, depth: int) -> Iterator[str]:
    text = field.description or ""
    choices = _choices(field.annotation)
    if choices and not all(choice in text for choice in choices):
        text = f"{text} One of: {', '.join(choices)}.".strip()
    yield from _comment_lines(text, depth)


def _comment_lines(text: str, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for line in textwrap.wrap(text, WIDTH - len(indent)):
        yield f"{indent}# {line}"


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return []


def _nested(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings that a field may hold, the usual kind first."""
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    if get_origin(annotation) in {Union, UnionType, Annotated}:
        return [kind for part in get_args(annotation) for kind in _nested(part)]
    return []


def one_line(value: Any) -> str:
    """Return a value on one line, as YAML."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = True
    # One line per setting: a value that wraps would not be commented out as a whole.
    yaml.width = 10_000
    stream = StringIO()
    yaml.dump([value], stream)
    # Dumped as a list of one and cut out of its brackets, so that a scalar gets no "..." line.
    return stream.getvalue().strip()[1:-1]


def write_template(path: Path, *, force: bool) -> None:
    """Write the template to a file.

    Raises:
        ConfigError: the file is there already, or cannot be written.
    """
    try:
        # "x" refuses an existing file in the same step that creates it, so no other process can
        # slip in.
        with path.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(job_template())
    except FileExistsError:
        raise ConfigError(
            f"{path} already exists.", "Name another file, or replace it with --force."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}.", "Name a file that you may write.") from None
