"""Models that see: on rows of text their language part learns, and nothing else is touched."""

import json
import math

import pytest

from trainer.contract.errors import DataError
from trainer.contract.job_directory import JobState

pytestmark = pytest.mark.xdist_group("torch")
TEXT = {
    "vocab_size": 2048,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
EYES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
MODELS = {
    # No causal models to transformers:
    "qwen2_vl": {
        "text_config": {k: v for k, v in TEXT.items() if k != "head_dim"}
        | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}},
        "vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2},
        "image_token_id": 2047,
        "video_token_id": 2046,
        "vision_start_token_id": 2045,
        "vision_end_token_id": 2044,
    },
    "llava": {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": {"model_type": "clip_vision_model", **EYES},
        "image_token_index": 2047,
    },
    # A causal one:
    "gemma3": {
        "text_config": {"model_type": "gemma3_text", **TEXT},
        "vision_config": {"model_type": "siglip_vision_model", **EYES},
        "image_token_index": 2047,
        "mm_tokens_per_image": 4,
    },
}


@pytest.fixture
def seeing(tmp_path):
    """Return a maker of tiny models that see, with random weights."""
    import torch
    import transformers

    from tests.trainer.jobs import TINY_LLAMA

    def make(kind):
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, **MODELS[kind])
        folder = tmp_path / kind
        transformers.AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(TINY_LLAMA).save_pretrained(folder)
        return folder

    return make


def weights_in(folder):
    from safetensors.torch import load_file

    [file] = folder.glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.thorough] * (k != "qwen2_vl")) for k in MODELS]
)
def test_adapters_are_put_on_the_language_part_alone_and_learn(kind, seeing, make_job, tmp_path):
    model = seeing(kind)
    job = make_job(
        tmp_path / "job",
        model=str(model),
        max_steps=2,
        learning_rate=0.01,
        peft={"r": 4},
        merge=True,
    )

    assert job.train() is JobState.COMPLETED

    assert math.isclose(job.metrics[1]["train_loss"], math.log(2048), rel_tol=0.1)
    found = weights_in(job.directory.output)
    assert not [name for name in found if "vision" in name or "visual" in name]
    assert len([name for name in found if "lora_B" in name]) == 2 * 7
    assert all(float(weight.abs().max()) > 0 for weight in found.values())
    before, after = weights_in(model), weights_in(job.directory.output / "merged")
    assert before.keys() == after.keys()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert len(changed) == 2 * 7
    assert not [name for name in changed if "vision" in name or "visual" in name]
    code = (job.directory.output / "README.md").read_text()
    assert ("AutoModelForImageTextToText" in code) is (kind != "gemma3")


@pytest.mark.parametrize("kind", ["qwen2_vl", pytest.param("gemma3", marks=pytest.mark.thorough)])
def test_all_weights_are_those_of_the_language_part(kind, seeing, make_job, tmp_path, capfd):
    model = seeing(kind)
    job = make_job(tmp_path / "job", model=str(model), max_steps=2, peft=None, weight_decay=0.1)

    assert job.train() is JobState.COMPLETED

    before, after = weights_in(model), weights_in(job.directory.output)
    still = {name for name in before if before[name].equal(after[name])}
    assert still == {n for n in before if "vis" in n or "projector" in n}


def test_rows_with_pictures_are_refused_and_told_what_is_learned(seeing, make_job, tmp_path):
    picture = {"type": "image", "image": "cat.png"}
    asked = {"role": "user", "content": [picture, {"type": "text", "text": "What is it?"}]}
    answer = {"role": "assistant", "content": "A cat."}
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"messages": [asked, answer]}) + "\n")
    job = make_job(tmp_path / "job", model=str(seeing("qwen2_vl")), data={"path": str(rows)})

    with pytest.raises(
        DataError, match=r"type 'image', and only text is learned from, of a model th"
    ):
        job.train()


def test_a_token_that_stands_for_a_picture_is_refused(seeing, make_job, tmp_path):
    model = seeing("qwen2_vl")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    name = tokenizer.convert_ids_to_tokens(2047)
    text = tokenizer.decode([2047]) * 3
    assert 2047 in tokenizer(text)["input_ids"], name
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": text + " and so on"}) + "\n")
    job = make_job(tmp_path / "job", model=str(model), data={"path": str(rows)})

    with pytest.raises(DataError, match="1 row holds a token that stands for a picture"):
        job.train()
