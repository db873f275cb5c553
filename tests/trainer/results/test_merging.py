"""`merge: true`: a plain model beside the adapter, that says what the adapted model says."""

import json
from typing import Any

import pytest

from tests.trainer.jobs import Job
from trainer.config import TrainingConfig
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState
from trainer.contract.manifest import verify
from trainer.results import merging, output
from trainer.results.merging import let_go, refuse_quantised_base

pytestmark = [
    pytest.mark.xdist_group("torch"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied"),
]


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory, make_job) -> Job:
    """One finished run on 4-bit weights, of DoRA and a whole layer, merged into several shards."""
    job = make_job(
        tmp_path_factory.mktemp("merged") / "job",
        peft={"r": 4, "lora_alpha": 8, "use_dora": True, "modules_to_save": ["embed_tokens"]},
        quantization={"load_in_4bit": True},
        learning_rate=0.02,
        max_steps=4,
        merge=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "SHARD", "500KB")
        patch.setattr(output, "let_go", lambda trainer: let_go_and_note(job, trainer))
        assert job.train() is JobState.COMPLETED
    return job


def let_go_and_note(job: Job, trainer: Any) -> None:
    let_go(trainer)
    job.held = sum(weights.numel() for weights in trainer.model.parameters())
    job.optimizers = [trainer.optimizer, *trainer.accelerator._optimizers]


def test_what_training_held_in_memory_is_free_when_the_merge_begins(merged):
    assert merged.held == 0
    assert merged.optimizers == [None]


def test_the_merged_model_says_what_the_adapted_one_says(merged):
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    output = merged.directory.output
    plain = AutoModelForCausalLM.from_pretrained(output / "merged")
    adapted = AutoPeftModelForCausalLM.from_pretrained(output)
    base = AutoModelForCausalLM.from_pretrained(merged.config["model"])

    tokens = AutoTokenizer.from_pretrained(output / "merged")(
        "a model of data", return_tensors="pt"
    )
    with torch.no_grad():
        said = [model(**tokens).logits for model in (plain, adapted, base)]
    torch.testing.assert_close(said[0], said[1], atol=1e-5, rtol=1e-5)
    assert (said[0] - said[2]).abs().max() > 0.01


def test_shards_and_sub_folders_are_in_the_manifest(merged):
    files = verify(merged.directory.output)["files"]

    shards = [name for name in files if name.startswith("merged/model-000")]
    assert len(shards) > 1
    assert {"adapter_model.safetensors", "merged/config.json", "merged/tokenizer.json"} <= set(
        files
    )
    assert "merged/model.safetensors.index.json" in files


def test_the_card_tells_how_to_load_either(merged):
    card = (merged.directory.output / "README.md").read_text()

    assert 'AutoPeftModelForCausalLM.from_pretrained(".")' in card
    assert 'AutoModelForCausalLM.from_pretrained(".", subfolder="merged")' in card


def test_quantised_weights_are_refused_before_training(tmp_path, base_model):
    folder = tmp_path / "quantised"
    folder.mkdir()
    config = json.loads((base_model / "config.json").read_text())
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantised}))
    job = {"model": str(folder), "dataset": "rows.jsonl"}

    refuse_quantised_base(TrainingConfig(**job))
    with pytest.raises(ConfigError, match=r"training\.merge: the weights of .* are quantised"):
        refuse_quantised_base(TrainingConfig(**job, merge=True))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "peft",
    [
        {"peft_type": "ia3", "feedforward_modules": ["down_proj"]},
        pytest.param({"peft_type": "loha", "r": 4}, marks=pytest.mark.thorough),
        pytest.param(
            {"peft_type": "lokr", "r": 4, "decompose_both": True}, marks=pytest.mark.thorough
        ),
        pytest.param({"peft_type": "oft", "oft_block_size": 16}, marks=pytest.mark.thorough),
        pytest.param({"peft_type": "vera", "r": 32}, marks=pytest.mark.thorough),
    ],
    ids=lambda peft: peft["peft_type"],
)
def test_every_kind_is_merged_and_gone_on_with(peft, tmp_path, make_job):
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    held_out = {"eval_fraction": 0.2}
    rate = {"learning_rate": 0.02, "max_steps": 3}
    job = make_job(tmp_path / "job", peft=peft, merge=True, data=held_out, **rate)
    assert job.train() is JobState.COMPLETED

    output = job.directory.output
    plain = AutoModelForCausalLM.from_pretrained(output / "merged")
    adapted = AutoPeftModelForCausalLM.from_pretrained(output)
    base = AutoModelForCausalLM.from_pretrained(job.config["model"])
    tokens = torch.arange(20, 40)[None]
    with torch.no_grad():
        said = [model(tokens).logits for model in (plain, adapted, base)]
    torch.testing.assert_close(said[0], said[1], atol=1e-4, rtol=1e-4)
    assert (said[0] - said[2]).abs().max() > 0.005
    card = (output / "README.md").read_text()
    assert " adapter for " in card
    assert peft["peft_type"] in card

    further = make_job(tmp_path / "further", adapter=str(output), data=held_out, **rate)
    assert further.train() is JobState.COMPLETED
    assert further.evaluations[0] == pytest.approx(job.evaluations[3], abs=1e-5)
    assert further.evaluations[3] != further.evaluations[0]
    made = json.loads((further.directory.output / "adapter_config.json").read_text())
    assert made["peft_type"] == peft["peft_type"].upper()
