"""A TOML file as kohya's users have it becomes a job that trains what the script would."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from flows.job_file import load_job
from trainer.contract.errors import ConfigError, DataError
from trainer.preflight.table import Subject, walk
from trainer.preflight.training import TRAINING
from trainer.presets import PRESETS, as_command
from trainer.presets.kohya import DATASET, SETTINGS
from trainer.presets.preset import Start, refuse

CONFIG = """
[model_arguments]
pretrained_model_name_or_path = "./model.safetensors"
v2 = false

[dataset_arguments]
train_data_dir = "images"
resolution = "512,768"
caption_extension = ".txt"
shuffle_caption = true

[training_arguments]
output_dir = "out"
output_name = "character lora v1"
max_train_epochs = 10
learning_rate = 1e-4
unet_lr = 1e-4
lr_scheduler = "cosine_with_restarts"
lr_warmup_steps = 100
optimizer_type = "AdamW8bit"
train_batch_size = 2
network_module = "networks.lora"
network_dim = 32
network_alpha = 16
mixed_precision = "bf16"
save_every_n_epochs = 1
save_model_as = "safetensors"
seed = 7
logging_dir = "logs"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with images as kohya wants them."""
    for name in ("10_luca", "3_style"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "a.png").write_bytes(b"x")
        (tmp_path / "images" / name / "a.txt").write_text("a boy")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "logs").mkdir()
    monkeypatch.setenv("TRAINING_ORCHESTRATOR_KOHYA", "/opt/sd-scripts")
    return tmp_path


def job_of(folder: Path, text: str = CONFIG):
    path = folder / "training_config.toml"
    path.write_text(text)
    return load_job(path, None)


def written(folder: Path, text: str = CONFIG) -> tuple[dict, dict]:
    """Return what the script gets: its settings, and the file of its dataset."""
    config = job_of(folder, text).training
    refuse(config, PRESETS["kohya"])
    as_command(PRESETS["kohya"], Start(config=config, root=folder / "job", has_gpu=True))
    files = [tomllib.loads((folder / "job" / name).read_text()) for name in (SETTINGS, DATASET)]
    return files[0], files[1]


def test_what_we_have_a_word_for_is_ours_and_the_rest_reaches_the_script(folder: Path):
    job = job_of(folder)

    training = job.training
    assert (job.name, training.trainer, training.seed) == ("character-lora-v1", "kohya", 7)
    assert (training.peft.r, training.peft.lora_alpha) == (32, 16)
    assert (training.num_train_epochs, training.per_device_train_batch_size) == (10, 2)
    assert training.command.run == ["python", "/opt/sd-scripts/train_network.py"]
    assert training.model == str(folder / "model.safetensors")
    assert job.output_dir == str(folder / "out" / "character-lora-v1")


def test_the_script_is_given_what_the_file_says_and_kohyas_own_defaults(folder: Path):
    settings, dataset = written(folder)

    assert {
        "learning_rate": 1e-4,
        "unet_lr": 1e-4,
        "network_dim": 32,
        "max_train_epochs": 10,
        "lr_scheduler": "cosine_with_restarts",
        "lr_warmup_steps": 100,
        "optimizer_type": "AdamW8bit",
        "optimizer_args": [],
        "mixed_precision": "bf16",
        "save_every_n_epochs": 1,
        "shuffle_caption": True,
        "v2": False,
        "logging_dir": str(folder / "logs"),
        "save_state": True,
    }.items() <= settings.items()
    assert "max_train_steps" not in settings
    assert dataset["general"] == {"caption_extension": ".txt", "enable_bucket": False}
    (images,) = dataset["datasets"]
    assert (images["resolution"], images["batch_size"]) == ([512, 768], 2)
    assert [(Path(s["image_dir"]).name, s["num_repeats"]) for s in images["subsets"]] == [
        ("10_luca", 10),
        ("3_style", 3),
    ]


def test_a_dataset_file_of_kohyas_is_taken_with_its_folders(folder: Path):
    (folder / "dataset.toml").write_text(
        "[general]\nshuffle_caption = true\n[[datasets]]\nresolution = 1024\n"
        '[[datasets.subsets]]\nimage_dir = "images/10_luca"\nnum_repeats = 4\n'
    )
    text = CONFIG.replace('train_data_dir = "images"', 'dataset_config = "dataset.toml"')

    _, dataset = written(folder, text)

    (subset,) = dataset["datasets"][0]["subsets"]
    assert subset == {"image_dir": str(folder / "images/10_luca"), "num_repeats": 4}
    (folder / "dataset.toml").write_text('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "gone"\n')
    with pytest.raises(DataError, match="gone is not a folder of images"):
        written(folder, text)


def test_a_single_file_and_a_folder_of_diffusers_are_models(folder: Path):
    for model in ("./model.safetensors", "./sdxl", "./nowhere"):
        (folder / "sdxl").mkdir(exist_ok=True)
        (folder / "sdxl" / "model_index.json").write_text("{}")
        job = job_of(folder, CONFIG.replace("./model.safetensors", model))
        (found,) = [one for one in walk(TRAINING, Subject(job.training), ()) if one.name == "model"]

        assert (found.error is None) is (model != "./nowhere"), found


def test_flat_settings_defaults_and_a_table_of_ours(folder: Path):
    text = (
        'pretrained_model_name_or_path = "org/model"\ntrain_data_dir = "images"\n'
        'optimizer_type = "Prodigy"\nlr_scheduler = "adafactor"\n'
        "[training_orchestrator]\npriority = 80\nresources = {gpu_count = 1, min_vram_gb = 16}\n"
        '[training_orchestrator.training.command]\nrun = ["python", "/x/flux_train_network.py"]\n'
    )

    job = job_of(folder, text)

    assert (job.name, job.priority, job.resources.min_vram_gb) == ("training_config", 80, 16)
    assert job.training.command.run[1] == "/x/flux_train_network.py"
    assert (job.training.max_steps, job.training.peft.r, job.training.peft.lora_alpha) == (
        1600,
        4,
        1,
    )
    settings, dataset = written(folder, text)
    assert (settings["optimizer_type"], settings["lr_scheduler"]) == ("Prodigy", "adafactor")
    assert dataset["general"]["caption_extension"] == ".caption"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"safetensors"', '"ckpt"'), "save_model_as = 'ckpt': only safetensors are kept"),
        (("seed = 7", 'reg_data_dir = "reg"'), "reg_data_dir = 'reg': is not read from here"),
        (('train_data_dir = "images"', ""), "names no images. Set train_data_dir"),
        (("seed = 7", "seed = = 7"), "this is not valid TOML: Invalid value"),
        (("network_dim = 32", "network_dim = 'a'"), "peft.r = 'a'"),
    ],
)
def test_what_cannot_be_kept_is_refused(change: tuple[str, str], message: str, folder: Path):
    with pytest.raises(ConfigError) as caught:
        job_of(folder, CONFIG.replace(*change))

    assert message in str(caught.value)
