"""Rows that are longer than a model has positions for are refused, or told, before training."""

from __future__ import annotations

import json

import pytest

from tests.trainer.architectures.tiny import tiny_config, tiny_model_folder
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState

pytestmark = pytest.mark.xdist_group("torch")
LONG = {
    "messages": [
        {"role": "user", "content": "a model " * 50},
        {"role": "assistant", "content": "a token"},
    ]
}


def with_positions(folder, kind, **positions):
    tiny_model_folder(folder, kind)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | positions))
    return folder


@pytest.fixture
def long_rows(write_rows):
    return write_rows([LONG] * 4)


def test_a_table_of_positions_ends(tmp_path, make_job, long_rows):
    model = tmp_path / "model"
    settings = {
        "model": str(model),
        "data": {"path": str(long_rows)},
        "init": "random",
        "peft": None,
    }
    with_positions(model, "gpt2", n_positions=64)

    with pytest.raises(ConfigError, match=r"max_length = 256: rows have .* has 64 positions") as e:
        make_job(tmp_path / "job", **settings, max_length=256).train()
    assert e.value.suggestion == "Set max_length: 64."


def test_a_model_that_computes_its_positions_is_trained_beyond_them_with_a_warning(
    tmp_path, make_job, long_rows, capsys
):
    model = tmp_path / "model"
    with_positions(model, "llama", max_position_embeddings=64)
    settings = {"model": str(model), "data": {"path": str(long_rows)}, "init": "random"}
    job = make_job(tmp_path / "job", **settings, peft=None, max_length=256, max_steps=1)

    assert job.train() is JobState.COMPLETED

    assert "knows texts of up to 64: set max_length: 64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "places"),
    [
        ("gpt2", 512),
        ("opt", 512),
        ("roberta", 511),  # it counts on from its padding, of which the id here is 0
        ("bert", 512),
        ("gptj", 512),
        ("biogpt", 512),
        ("mpt", 512),
        ("whisper", 448),
        ("llama", None),
        ("gpt_neox", None),
        ("bloom", None),
    ],
)
def test_how_many_places_there_are_is_what_the_model_takes(kind, places):
    import torch
    from transformers import AutoModelForCausalLM

    from trainer.engine.limits import places_of

    model = AutoModelForCausalLM.from_config(tiny_config(kind)).eval()

    assert places_of(model) == places
    if places is not None:
        tokens = torch.full((1, places + 1), 7)
        with torch.no_grad():
            model(input_ids=tokens[:, 1:], use_cache=False)
        with torch.no_grad(), pytest.raises((IndexError, RuntimeError)):
            model(input_ids=tokens, use_cache=False)


@pytest.mark.parametrize(
    ("rope", "known"),
    [
        (None, 512),
        ({"rope_type": "default", "rope_theta": 1e4}, 512),
        (
            {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 512,
            },
            2048,
        ),
        ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, None),
    ],
)
def test_positions_that_are_stretched_reach_further(rope, known):
    from transformers import LlamaConfig

    from trainer.engine.limits import known_length

    given = {"rope_parameters": rope} if rope else {}
    assert known_length(LlamaConfig(max_position_embeddings=512, **given)) == known
