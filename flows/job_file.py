"""Read a job file: YAML (or JSON, which is YAML) or TOML, checked, its paths made absolute."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from flows.batches.references import OUTPUT, has_reference, references
from flows.earlier_jobs import adapter_of, may_be_job
from trainer.config import TrainingJob
from trainer.config.adapter_files import base_of
from trainer.config.chat_templates import is_file
from trainer.config.explain import validated
from trainer.config.model_files import looks_like_path
from trainer.contract.errors import ConfigError
from trainer.data.reading import is_elsewhere
from trainer.presets.kohya_toml import is_kohya, job_of
from trainer.presets.kohya_toml import with_absolute_paths as with_paths_of_kohya

MAX_BYTES = 1 << 20  # a job file is written by hand; a larger one is a dataset named by mistake
EXAMPLES = "examples:"
"""The prefix of a path to one of the examples, wherever the job runs."""
REMEDY = "Start from the file that 'trainctl init' writes."


TOML = ".toml"
STANDARD_INPUT = Path("-")


def load_job(path: Path, name: str | None = None) -> TrainingJob:
    """Return the job in a file, or in standard input, for which the path is `-`.

    Relative paths in it are relative to the file's folder; in standard input to the working directory.

    Args:
        path: the file.
        name: the job's, instead of the one in the file.

    Raises:
        ConfigError: naming the file and the line, or the field, the value and the remedy.
    """
    value = parse_job(path)
    if isinstance(value, dict):
        if "jobs" in value and "training" not in value:
            raise ConfigError(
                f"{source_of(path)}: holds the jobs of a batch.",
                f"Hand them over: trainctl batch {path}",
            )
        value = as_job(value, path)
        folder = Path.cwd() if path == STANDARD_INPUT else path.expanduser().absolute().parent
        value = with_absolute_paths(value, folder)
        value = value if name is None else {**value, "name": name}
    job = validated(TrainingJob, value, source_of(path))
    if taken := next((one for one in references(value) if one[2] == OUTPUT), None):
        field, name, attribute = taken
        raise ConfigError(
            f"{source_of(path)}: {field} takes ${{{name}.{attribute}}}, and only a job of a batch can take "
            "something from another.",
            "Name a folder, or submit both as a batch: trainctl batch FILE.",
        )
    return job


def as_job(value: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what is in a file as a job: another project's configuration is translated."""
    if path.suffix.lower() != TOML or not is_kohya(value):
        return value
    job = job_of(value, str(path))
    folder = path.expanduser().absolute().parent
    return {**job, "training": with_paths_of_kohya(job["training"], folder)}


def source_of(path: Path) -> str:
    """Return the name of a job file for messages."""
    return "standard input" if path == STANDARD_INPUT else str(path)


def parse_job(path: Path) -> Any:
    """Return the value in a YAML file, or in one of TOML, whose name ends in .toml.

    Raises:
        ConfigError: it cannot be read, or is not valid YAML or TOML; duplicate keys are refused.
    """
    name = source_of(path)
    if path.suffix.lower() == TOML:
        return _parsed_toml(path)
    return parse_yaml(_text_of(path), name)


def parse_yaml(text: str, name: str) -> Any:
    """Return the value that a text of YAML holds.

    Args:
        text: YAML.
        name: where it comes from, for messages.

    Raises:
        ConfigError: it is not valid YAML, or holds nothing; duplicate keys are refused.
    """
    # "safe": a tag must not create objects. Pure Python, because the C loader reads YAML 1.1, in
    # which words such as `no` and `on` are booleans.
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except DuplicateKeyError as error:
        raise ConfigError(
            # ruamel says: found duplicate key "a" with value "2" (original value: "1"). Values stay
            # out of messages.
            f"{name}, line {_line(error)}: {str(error.problem).split(' with ')[0]} again.",
            "Keep one of the two.",
        ) from None
    except YAMLError as error:
        reason = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise ConfigError(
            f"{name}, line {_line(error)}: this is not valid YAML: {reason}.", "Correct that line."
        ) from None
    except RecursionError:
        raise ConfigError(f"{name}: is nested too deeply.", REMEDY) from None
    except (ValueError, TypeError, AttributeError) as error:  # such as a date of 30 February
        raise ConfigError(
            f"{name}: a value in it cannot be read: {error}.", "Put it in quotes, or correct it."
        ) from None
    if value is None:
        raise ConfigError(f"{name}: is empty.", REMEDY)
    return value


def _parsed_toml(path: Path) -> dict[str, Any]:
    try:
        value = tomllib.loads(_text_of(path).replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        reason = str(error).rstrip(".")
        raise ConfigError(
            f"{path}: this is not valid TOML: {reason}.", "Correct that line."
        ) from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply.", REMEDY) from None
    if not value:
        raise ConfigError(f"{path}: is empty.", REMEDY)
    return value


def _text_of(path: Path) -> str:
    """Return what is in a file, or in standard input.

    Raises:
        ConfigError: it cannot be read, is not UTF-8 or is too large.
    """
    name = source_of(path)
    try:
        if path == STANDARD_INPUT:
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with path.expanduser().open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{name}: is larger than 1 MiB; that is not a job file.", REMEDY)
        return data.decode("utf-8-sig")  # editors on Windows may begin a file with a mark
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{name}: byte {error.start} is not UTF-8.", "Save the file as UTF-8."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{name}: {error.strerror}.", "Name a job file; 'trainctl init' writes one."
        ) from None
    except (ValueError, RuntimeError) as error:  # a NUL in the path, or ~ of an unknown user
        raise ConfigError(f"{name!r}: {error}.", "Name a job file.") from None


def with_absolute_paths(value: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the job with its relative paths made absolute.

    A name that does not exist here and that the Hub could have stays as it is.
    """
    # The value is not validated yet, so anything may be of any type; what is wrong is passed on to
    # the validation, which names the field.
    training = value.get("training")
    if isinstance(training, dict):
        training = dict(training)
        _resolve(training, "model", folder, looks_like_path)
        _resolve(training, "reward_model", folder, looks_like_path)
        _resolve(training, "chat_template", folder, is_file)
        adapter = _resolve_adapter(training, folder)
        if "model" not in training and isinstance(adapter, str) and (base := base_of(adapter)):
            training["model"] = base
        for field in ("reward_functions", "callbacks", "formatting"):
            if field in training:
                training[field] = _with_code(training[field], folder)
        _resolve_dataset(training, "dataset", folder)
        command = training.get("command")
        if isinstance(command, dict) and isinstance(command.get("files"), list):
            files = [_absolute(f, folder) if isinstance(f, str) else f for f in command["files"]]
            training["command"] = {**command, "files": [str(file) for file in files]}
        value = {**value, "training": training}
    output = value.get("output_dir")
    if isinstance(output, str) and output:
        value = {**value, "output_dir": str(_absolute(output, folder))}
    store = value.get("store")
    if isinstance(store, str) and store and "://" not in store:
        value = {**value, "store": str(_absolute(store, folder))}
    return value


def _resolve(
    settings: dict[str, Any], name: str, folder: Path, is_path: Callable[[str], bool]
) -> None:
    text = settings.get(name)
    # What another job of a batch will have made has its place only when it starts.
    if isinstance(text, str) and text and not has_reference(text):
        path = _absolute(text, folder)
        if path.exists() or is_path(text):
            settings[name] = str(path)


def _resolve_adapter(training: dict[str, Any], folder: Path) -> Any:
    """Make the paths of adapters absolute, and put artifacts in the place of jobs; return the first.

    What cannot be resolved stays as it is: `flows.preflight` says why on the computer that executes the
    job. Here it is said only where the adapter has to name the model.
    """
    adapter = training.get("adapter")
    named = adapter if isinstance(adapter, list) else [adapter]
    entries = [{"adapter": each} for each in named]
    for entry in entries:
        _resolve(entry, "adapter", folder, looks_like_path)
        text = entry["adapter"]
        if isinstance(text, str) and may_be_job(text) and not has_reference(text):
            try:
                entry["adapter"] = str(adapter_of(text))
            except ConfigError:
                if "model" not in training:
                    raise
    found = [entry["adapter"] for entry in entries]
    if adapter is not None:
        training["adapter"] = found if isinstance(adapter, list) else found[0]
    return next(iter(found), None)


def _resolve_dataset(settings: dict[str, Any], name: str, folder: Path) -> None:
    """Make the paths of a data set absolute: of a path, of its settings, or of a list of them."""
    dataset = settings.get(name)
    if isinstance(dataset, list):
        entries: list[dict[str, Any]] = [{"each": each} for each in dataset]
        for entry in entries:
            _resolve_dataset(entry, "each", folder)
        settings[name] = [entry["each"] for entry in entries]
    elif isinstance(dataset, dict):
        settings[name] = dataset = dict(dataset)
        _resolve(dataset, "path", folder, _is_file)
        _resolve(dataset, "eval_path", folder, _is_file)
        if "sources" in dataset:
            _resolve_dataset(dataset, "sources", folder)
    else:
        _resolve(settings, name, folder, _is_file)


def _is_file(dataset: str) -> bool:
    return not is_elsewhere(dataset) and "://" not in dataset


def _with_code(value: Any, folder: Path) -> Any:
    """Return `path.py:name`, or a list of those, with absolute paths; other names stay."""
    if isinstance(value, list):
        return [_with_code(each, folder) for each in value]
    return str(_absolute(value, folder)) if isinstance(value, str) and ".py:" in value else value


def examples() -> Path:
    """Return the folder of the examples: the clone's, or the one in the installed package."""
    installed = Path(__file__).parent / "examples"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "examples"


def on_this_computer(job: TrainingJob) -> TrainingJob:
    """Return a job of a form with its paths as they are on the computer where it runs.

    Relative ones are relative to the user's home folder, because a worker may start anywhere.
    """
    # Without what was not set: filled-in defaults would count as set, and be checked as such.
    asked = job.model_dump(mode="json", exclude_unset=True)
    here = with_absolute_paths(asked, Path.home())
    return job if here == asked else TrainingJob.model_validate(here)


def _absolute(text: str, folder: Path) -> Path:
    if text.startswith(EXAMPLES):
        return examples() / text.removeprefix(EXAMPLES)
    path = Path(text).expanduser()
    return path if path.is_absolute() else folder / path


def _line(error: YAMLError) -> int:
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    return mark.line + 1 if mark else 1
