"""kohya's sd-scripts: adapters for image models, by its train_network.py or a sibling of it.

The dataset is a folder of images with a text of the same name beside each. The user says where the
script is, and by it which kind of model is trained: `command.run: [python, …/train_network.py]`.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from trainer.config import LoraConfig, TrainingConfig
from trainer.contract.checkpoints import step_of
from trainer.contract.errors import ConfigError, DataError
from trainer.presets.preset import FOLDER, NUMBER, OUT, Preset, Start

SETTINGS, DATASET = f"{FOLDER}/kohya.toml", f"{FOLDER}/dataset.toml"
NAME = "adapter"
RESULT = f"{OUT}/{NAME}.safetensors"
IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
CAPTION = ".txt"
REPEATED = re.compile(r"(\d+)_(.+)")
FOLDERS = ("image_dir", "metadata_file", "conditioning_data_dir")
RESOLUTION = 512  # pixels, where arguments.resolution does not say another
OPTIMIZERS = {
    "adamw_torch": "AdamW",
    "adamw_torch_fused": "AdamW",
    "adamw_bnb_8bit": "AdamW8bit",
    "adafactor": "AdaFactor",
}
PRECISION = {"auto": "no", "float32": "no", "bfloat16": "bf16", "float16": "fp16"}
SCHEDULES = {
    *("linear", "cosine", "cosine_with_restarts", "polynomial", "constant"),
    "constant_with_warmup",
}


def _files(start: Start) -> dict[str, str]:
    arguments = dict(start.config.arguments)
    general = {
        # By a folder alone kohya learns nothing of these, and its own defaults are others.
        "caption_extension": arguments.pop("caption_extension", CAPTION),
        "enable_bucket": arguments.pop("enable_bucket", True),
    }
    resolution = arguments.pop("resolution", RESOLUTION)
    path = Path(start.config.dataset.path).expanduser()
    return {
        DATASET: _own_dataset(path) if _is_config(path) else _dataset(start, general, resolution),
        SETTINGS: as_toml(_settings(start) | arguments),
    }


def _settings(start: Start) -> dict[str, Any]:
    config, warmup = start.config, start.config.warmup_steps
    steps, epochs = config.max_steps, int(config.num_train_epochs)
    half = "bf16" if start.has_gpu else "no"
    return {
        "pretrained_model_name_or_path": config.model,
        "dataset_config": str(start.root / DATASET),
        "output_dir": str(start.root / OUT),
        "output_name": NAME,
        "save_model_as": "safetensors",
        "network_module": "networks.lora",
        **_network(config),
        **({"max_train_steps": steps} if steps > 0 else {"max_train_epochs": epochs}),
        "gradient_accumulation_steps": start.accumulation,
        "learning_rate": start.config.initial_learning_rate,
        "lr_scheduler": config.lr_scheduler_type,
        "lr_warmup_steps": warmup if warmup < 1 else int(warmup),
        "optimizer_type": OPTIMIZERS[config.optim],
        # It has no setting of its own: these words go to the constructor of the optimizer.
        "optimizer_args": [f"weight_decay={config.weight_decay}"],
        "max_grad_norm": config.max_grad_norm,
        "mixed_precision": half if config.dtype == "auto" else PRECISION[config.dtype],
        "gradient_checkpointing": config.gradient_checkpointing is True,
        "seed": config.seed,
        "save_every_n_steps": config.save_steps,
        # The adapter alone cannot be resumed; the state has the optimizer too.
        "save_state": True,
        # Without skip_until_initial_step it would train on the first images of the epoch again.
        **(
            {"resume": str(start.resume_from), "skip_until_initial_step": True}
            if start.resume_from
            else {}
        ),
    }


def _network(config: TrainingConfig) -> dict[str, Any]:
    peft = config.peft
    if not isinstance(peft, LoraConfig):
        return {}
    return {
        "network_dim": peft.r,
        "network_alpha": peft.lora_alpha,
        "network_dropout": peft.lora_dropout or None,
    }


def _dataset(start: Start, general: dict[str, Any], resolution: Any) -> str:
    batches = {"resolution": _size(resolution), "batch_size": start.batch_size}
    folders = _subsets(Path(start.config.dataset.path).expanduser())
    return _dataset_toml(general, [(batches, folders)])


def _size(resolution: Any) -> Any:
    """Return a size as kohya's dataset file takes it: `512,768` is a pair of numbers there."""
    if not isinstance(resolution, str):
        return resolution
    sides = [int(side) for side in resolution.split(",")]
    return sides if len(sides) > 1 else sides[0]


def _subsets(folder: Path) -> list[dict[str, Any]]:
    """Return the folders of images: kohya's `10_name`, each repeated so often, or else this one."""
    named = [
        {"image_dir": str(path), "num_repeats": int(match[1]), "class_tokens": match[2]}
        for path in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if path.is_dir() and (match := REPEATED.fullmatch(path.name))
    ]
    return named or [{"image_dir": str(folder)}]


def _is_config(path: Path) -> bool:
    return path.suffix.lower() == ".toml"


def _own_dataset(path: Path) -> str:
    """Return a dataset file of kohya's, with its folders as they are from any working directory."""
    value = tomllib.loads(path.read_text(encoding="utf-8"))
    found = []
    for one in value.get("datasets", []):
        subsets = [
            {
                name: str(path.parent / Path(inner).expanduser()) if name in FOLDERS else inner
                for name, inner in subset.items()
            }
            for subset in one.get("subsets", [])
        ]
        found.append(({n: v for n, v in one.items() if n != "subsets"}, subsets))
    return _dataset_toml(value.get("general", {}), found)


def _dataset_toml(
    general: dict[str, Any], datasets: list[tuple[dict[str, Any], list[dict[str, Any]]]]
) -> str:
    parts = [f"[general]\n{as_toml(general)}"]
    for batches, subsets in datasets:
        parts.append(f"[[datasets]]\n{as_toml(batches)}")
        parts += [f"[[datasets.subsets]]\n{as_toml(subset)}" for subset in subsets]
    return "\n".join(parts)


def as_toml(settings: dict[str, Any]) -> str:
    """Return settings as TOML, which writes such values as JSON does; None is left out."""
    lines = (
        f"{n} = {json.dumps(v, ensure_ascii=False)}\n" for n, v in settings.items() if v is not None
    )
    return "".join(lines)


def _check(config: TrainingConfig) -> None:
    if not (config.command and config.command.run):
        raise ConfigError(
            "training.command.run: trainer: kohya needs to know where its script is.",
            "Set command: {run: [python, /opt/sd-scripts/train_network.py]}; for a TOML file of kohya's, the "
            "environment variable TRAINING_ORCHESTRATOR_KOHYA.",
        )
    folder = Path(config.dataset.path).expanduser()
    if _is_config(folder):
        _check_config(folder)
        return
    if not folder.is_dir():
        raise DataError(f"dataset.path = {config.dataset.path!r}: is not a folder of images.")
    found = _subsets(folder)
    images = [path for one in found for path in _images(Path(one["image_dir"]))]
    if not images:
        raise DataError(
            f"dataset.path = {config.dataset.path!r}: holds no image.",
            f"Put images there ({', '.join(sorted(IMAGES))}).",
        )
    caption = str(config.arguments.get("caption_extension", CAPTION))
    bare = [path.name for path in images if not path.with_suffix(caption).is_file()]
    # The name of a folder such as 10_name is the text of what has none.
    if bare and "class_tokens" not in found[0]:
        raise DataError(
            f"dataset.path: {bare[0]} and {len(bare) - 1} more of {len(images)} images have no text.",
            f"Write what an image shows into a file of its name that ends in {caption}.",
        )


def _images(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGES]


def _check_config(path: Path) -> None:
    """Refuse a dataset file that cannot be read, or whose folders are not there.

    Raises:
        DataError: naming it.
    """
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"dataset.path = {str(path)!r}: cannot be read: {error}.") from None
    subsets = [subset for one in value.get("datasets", []) for subset in one.get("subsets", [])]
    folders = [path.parent / Path(str(one.get("image_dir"))).expanduser() for one in subsets]
    gone = [str(folder) for folder in folders if not folder.is_dir()]
    if gone or not subsets:
        what = f"{gone[0]} is not a folder of images" if gone else "names no images"
        raise DataError(
            f"dataset.path = {str(path)!r}: {what}.",
            "Correct image_dir in its [[datasets.subsets]].",
        )


def _varies(start: Start) -> dict[str, Any]:
    """Return the offset of the steps: its progress bar counts from zero even after a resume."""
    return {"first_step": step_of(start.resume_from) if start.resume_from else 0}


PRESET = Preset(
    name="kohya",
    program="",
    arguments=("--config_file", "{job_directory}/" + SETTINGS),
    files=_files,
    translates=frozenset(
        {
            *("peft.r", "peft.lora_alpha", "peft.lora_dropout", "num_train_epochs", "max_steps"),
            *("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate"),
            *("lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim"),
            *("gradient_checkpointing", "dtype", "seed", "save_steps", "eval_on_start"),
        }
    ),
    command={
        "metrics": [
            r"^epoch (?P<epoch>\d+)/\d+",
            rf"^steps:\s+\d+%\|[^|]*\| (?P<step>\d+)/(?P<total_steps>\d+) \["
            rf"(?:.*avr_loss=(?P<train_loss>{NUMBER}))?",
        ],
        "checkpoints": f"{OUT}/{NAME}-step*-state",
        "output": RESULT,
    },
    varies=_varies,
    cannot={
        "method": lambda config: config.method != "sft",
        "num_train_epochs": lambda config: config.num_train_epochs % 1,
        "lr_scheduler_type": lambda config: config.lr_scheduler_type not in SCHEDULES,
        "optim": lambda config: config.optim not in OPTIMIZERS,
        "dataset.format": lambda config: config.dataset.format != "auto",
        "dataset.columns": lambda config: config.dataset.columns,
        "dataset.max_rows": lambda config: config.dataset.max_rows,
        "formatting": lambda config: config.formatting,
    },
    check=_check,
    reads_rows=False,
)
