"""Several adapters are one whose layers add up what each of them adds."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.trainer.jobs import TINY_LLAMA, PausesAfter
from trainer.contract.errors import ConfigError
from trainer.contract.files import sha256_of
from trainer.contract.job_directory import Desired, JobState
from trainer.engine.deprecations import deprecations_allowed
from trainer.results.combining import combine, main

pytestmark = pytest.mark.xdist_group("torch")
FIRST = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
SECOND = {
    "r": 3,
    "lora_alpha": 5,
    "use_rslora": True,
    "target_modules": ["v_proj", "down_proj"],
    "rank_pattern": {"down_proj": 2},
    "alpha_pattern": {r"layers\.0\.mlp\.down_proj": 7},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return two adapters with random weights, as if they had been trained."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    folders = []
    for number, settings in enumerate((FIRST, SECOND)):
        folders.append(tmp_path_factory.mktemp(f"adapter{number}"))
        torch.manual_seed(number)
        model = AutoModelForCausalLM.from_pretrained(TINY_LLAMA)
        config = peft.LoraConfig(task_type="CAUSAL_LM", **settings)
        with deprecations_allowed():
            model = peft.get_peft_model(model, config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        model.save_pretrained(folders[-1])
    return folders


def test_one_adapter_adds_what_several_add(made, tmp_path):
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    assert main([str(tmp_path / "both"), *map(str, made)]) == 0

    base = [AutoModelForCausalLM.from_pretrained(TINY_LLAMA) for _ in range(3)]
    tokens = torch.arange(20, 40)[None]
    merged = base[0]
    with deprecations_allowed(), torch.no_grad():
        for folder in made:
            merged = peft.PeftModel.from_pretrained(merged, folder).merge_and_unload()
        both = peft.PeftModel.from_pretrained(base[1], tmp_path / "both").eval()
        expected, found, plain = (model(tokens).logits for model in (merged, both, base[2]))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert (found - plain).abs().max() > 0.1
    manifest = json.loads((tmp_path / "both" / "MANIFEST.json").read_text())
    assert [part["adapter"] for part in manifest["combines"]] == [str(f) for f in made]


@pytest.mark.thorough
def test_it_is_gone_on_with(made, tmp_path, make_job):
    combine(made, tmp_path / "both")

    job = make_job(
        tmp_path / "job", model=str(TINY_LLAMA), adapter=str(tmp_path / "both"), max_steps=1
    )

    assert job.train() is JobState.COMPLETED
    settings = json.loads((job.directory.output / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (4, 4)
    assert sorted({*settings["rank_pattern"].values()}) == [2, 7]


@pytest.mark.thorough
def test_a_job_that_names_several_goes_on_with_their_sum_and_resumes_exactly(
    made, tmp_path, make_job, capsys
):
    combine(made, tmp_path / "both")
    settings = {"model": str(TINY_LLAMA), "max_steps": 2, "learning_rate": 0.01}
    whole = make_job(tmp_path / "whole", adapter=str(tmp_path / "both"), **settings)
    parts = [str(folder) for folder in made]
    paused = make_job(tmp_path / "paused", adapter=parts, **settings)

    assert whole.train() is JobState.COMPLETED
    assert paused.train(PausesAfter(paused.directory, 1)) is JobState.PAUSED
    paused.directory.request(Desired.RUN)
    # As on another machine, where the parts have other places and nothing is merged so far.
    moved = [str(shutil.copytree(folder, tmp_path / folder.name)) for folder in made]
    shutil.rmtree(paused.directory.adapter)
    named = {"model": str(TINY_LLAMA), "dataset": None, "adapter": parts}
    paused.write(
        config=paused.config | {"adapter": moved}, named=named, continues=[None, "its-job"]
    )
    assert paused.train() is JobState.COMPLETED

    assert paused.weights == whole.weights
    said = capsys.readouterr().out
    assert f"goes on with {parts[0]}, rank 4 + {parts[1]}, rank 3, merged into one" in said
    manifest = json.loads((paused.directory.output / "MANIFEST.json").read_text())
    continued = manifest["continues"]
    assert (continued["adapter"], continued["job"]) == (parts, [None, "its-job"])
    weights = [sha256_of(folder / "adapter_model.safetensors") for folder in made]
    assert continued["combines_sha256"] == weights


def test_a_job_refuses_what_cannot_be_added_up_before_it_trains(made, tmp_path, make_job):
    other = shutil.copytree(made[1], tmp_path / "other")
    settings = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(settings | {"use_dora": True}))
    job = make_job(tmp_path / "job", model=str(TINY_LLAMA), adapter=[str(made[0]), str(other)])

    with pytest.raises(ConfigError, match=r"^training\.adapter: .*other has use_dora = True, and"):
        job.train()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_dora": True}, "has use_dora = True, and only plain LoRA can be added up"),
        ({"peft_type": "LOHA"}, "is of type LOHA"),
        ({"init_lora_weights": "pissa"}, "began by pissa, which changes the base"),
        ({"base_model_name_or_path": "org/other"}, "is an adapter of org/other, and"),
        ({"task_type": "SEQ_CLS"}, "has task_type = 'SEQ_CLS'"),
    ],
)
def test_what_cannot_be_added_up_is_refused(made, tmp_path, changes, words):
    other = tmp_path / "other"
    other.mkdir()
    for path in made[1].iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    settings = json.loads((other / "adapter_config.json").read_text()) | changes
    (other / "adapter_config.json").write_text(json.dumps(settings))

    with pytest.raises(ConfigError, match=words):
        combine([made[0], other], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_a_command_that_names_too_little_ends_with_2(made, tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert main([str(tmp_path), *map(str, made)]) == 2

    said = capsys.readouterr().err
    assert "usage: python -m trainer.results.combining" in said
    assert "is there already. Name a folder that is not, or remove it." in said
