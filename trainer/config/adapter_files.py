"""An adapter to go on with, as PEFT saves one; judged by its files without importing anything heavy."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from trainer.config.explain import validated
from trainer.config.model_files import check_model_files, looks_like_path
from trainer.config.peft import PeftSettings, kind_of
from trainer.contract.errors import ConfigError, ModelNotFound
from trainer.contract.files import read_json
from trainer.contract.manifest import MANIFEST

SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FIELD = "training.adapter"
WRITES, SCORES = "CAUSAL_LM", "SEQ_CLS"
"""What PEFT calls what an adapter is for."""
LISTS = {"target_modules", "exclude_modules", "feedforward_modules", "modules_to_save"}


def check_adapter(adapter: str, base: str, *, scores: bool) -> str:
    """Return what is known of an adapter in a few words; of one on the Hub, that it is there.

    Args:
        adapter: a folder or a repository of the Hub.
        base: the model that it is to be put on.
        scores: whether it is to give scores, or classes, and not to write text.

    Raises:
        ModelNotFound: there is no such adapter.
        ConfigError: it is not one that can be trained further.
    """
    check_model_files(adapter, FIELD, (SETTINGS,))
    settings = settings_here(adapter)
    if settings is None:
        return f"{adapter} on the Hub; it is fetched when the job starts"
    folder = Path(adapter).expanduser()
    if not goes_on(kind := str(settings.get("peft_type"))):
        raise ConfigError(
            f"{FIELD}: {folder} is an adapter of type {kind}; LoRA (DoRA, rsLoRA), IA3, LoHa, LoKr, "
            "OFT and VeRA can be trained further.",
            "Merge it into its base model and train that, or start a new adapter.",
        )
    check_task(adapter, settings.get("task_type"), scores=scores)
    if not (folder / WEIGHTS).is_file():
        raise ModelNotFound(
            f"{FIELD}: {folder} has no {WEIGHTS}: weights in other formats could run code.",
            "Load it once with PEFT and save it again with save_pretrained.",
        )
    named = str(settings.get("base_model_name_or_path") or "")
    other = f"; trained on {named}, here put on {base}" if is_another(named, base) else ""
    rank = f", rank {settings['r']}" if settings.get("r") else f", {kind}"
    return f"{adapter}{rank}{other}"


def check_task(adapter: str, task: str | None, *, scores: bool) -> None:
    """Refuse an adapter that was trained to give scores where one is to write.

    One that writes can learn to give scores: its layers go on, and the head is new.

    Raises:
        ConfigError: naming the task.
    """
    if task not in {WRITES, None, *({SCORES} if scores else ())}:
        raise ConfigError(
            f"{FIELD}: {adapter} was trained for {task}, and is to "
            f"{'give scores' if scores else 'write text'} here.",
            "Start a new adapter, or name one of a method that does the same.",
        )


def classes_of(adapter: str) -> tuple[list[str] | None, bool | None]:
    """Return the classes of an artifact of classify, and whether several fit; None: it does not say."""
    manifest = read_json(Path(adapter).expanduser() / MANIFEST) or {}
    made = manifest.get("training")
    labels = made.get("labels") if isinstance(made, dict) else None
    if not isinstance(made, dict) or not isinstance(labels, list):
        return None, None
    return [str(label) for label in labels], bool(made.get("several_labels"))


def settings_here(adapter: str) -> dict[str, Any] | None:
    """Return an adapter's own settings; None for one that is not on this computer."""
    return read_json(Path(adapter).expanduser() / SETTINGS)


def base_of(adapter: str) -> str | None:
    """Return the model that an adapter on this computer was trained on; None where it is unknown."""
    base = (settings_here(adapter) or {}).get("base_model_name_or_path")
    return str(base) if base else None


def goes_on(peft_type: str) -> bool:
    """Whether adapters of a kind can be trained further."""
    kind = kind_of(peft_type)
    return kind is not None and not kind.is_soft_prompt


def as_settings(settings: dict[str, Any]) -> PeftSettings:
    """Return an adapter's settings as ours: those that say how large it is, and how it computes.

    Args:
        settings: of a kind that `goes_on`.
    """
    name = str(settings["peft_type"]).lower()
    kind = kind_of(name)
    assert kind is not None  # noqa: S101 - for the type checker: callers have looked
    known = {name: settings[name] for name in kind.model_fields if name in settings}
    for field in LISTS & known.keys():
        # PEFT holds a set, writes it as a list in any order, and a pattern as a text.
        is_list = isinstance(known[field], Collection) and not isinstance(known[field], str)
        if is_list:
            known[field] = sorted(known[field])
        elif field != "target_modules":
            known[field] = None
    if not known.get("target_modules"):
        known["target_modules"] = "all-linear"
    given = {name: value for name, value in known.items() if value is not None}
    return validated(kind, {**given, "peft_type": name}, SETTINGS)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / SETTINGS).is_file() and not (folder / "config.json").is_file()


def is_another(named: str, base: str) -> bool:
    """Whether an adapter of one model is put on another; not where one of them is unknown."""

    # A folder may have been moved, so of paths only the last name counts.
    def name(model: str) -> str:
        return Path(model).name if looks_like_path(model) else model

    return bool(named) and name(named).rpartition("/")[2] != name(base).rpartition("/")[2]
