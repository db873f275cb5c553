"""Every kind of adapter trains, resumes exactly, and loads where PEFT is all there is."""

import json
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.trainer.jobs import Job, PausesAfter
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import Desired, JobState
from trainer.engine.deprecations import deprecations_allowed

pytestmark = pytest.mark.xdist_group("torch")
LORA = {"r": 4, "lora_alpha": 8}
KINDS: dict[str, dict[str, Any]] = {
    "dora": {
        "peft": {**LORA, "use_dora": True, "use_rslora": True, "modules_to_save": ["norm"]},
        "learning_rate": 0.01,
    },
    "some_layers": {
        "peft": {
            **LORA,
            "target_modules": ["q_proj", "k_proj", "v_proj"],
            "exclude_modules": ["k_proj"],
            "layers_to_transform": [1],
            "rank_pattern": {"q_proj": 6},
            "alpha_pattern": {"q_proj": 12},
        },
        "learning_rate": 0.01,
    },
    "prompt_tuning": {
        "peft": {
            "peft_type": "prompt_tuning",
            "num_virtual_tokens": 8,
            "prompt_tuning_init": "text",
            "prompt_tuning_init_text": "Answer the question:",
        },
        "gradient_checkpointing": True,
    },
    "prefix_tuning": {
        "peft": {"peft_type": "prefix_tuning", "num_virtual_tokens": 8},
        "method": "cpt",
        "max_length": 32,
        "quantization": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    },
    "qdora_4bit": {
        "peft": {**LORA, "use_dora": True},
        "quantization": {"load_in_4bit": True},
        "gradient_checkpointing": True,
        "learning_rate": 0.01,
    },
    "lora_8bit": {
        # An optimizer's state is in 8 bits from 4096 weights on: this rank makes them.
        "peft": {"r": 32, "lora_alpha": 32, "lora_dropout": 0.1},
        "quantization": {"load_in_8bit": True},
        "optim": "adamw_8bit",
        "learning_rate": 0.01,
    },
}
SETTINGS = {"data": {"eval_fraction": 0.2}, "max_steps": 10, "save_steps": 4, "learning_rate": None}


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tmp_path_factory: pytest.TempPathFactory, make_job) -> Job:
    """A finished job of each kind."""
    job = _job(request.param, tmp_path_factory.mktemp(request.param) / "job", make_job)
    assert job.train() is JobState.COMPLETED
    return job


def _job(kind: str, root, make_job) -> Job:
    settings = {**SETTINGS, **KINDS[kind]}
    if settings.get("method") == "cpt":
        rows = root.parent / "texts.jsonl"
        text = "To train a model is to show it text. " * 3
        rows.write_text("".join(json.dumps({"text": f"{i}. {text}"}) + "\n" for i in range(40)))
        settings["data"] = {**settings["data"], "path": str(rows)}
    return make_job(root, **settings)


def test_what_is_trained_stays_in_float32(trained):
    from safetensors.torch import load_file

    (adapter,) = trained.checkpoint(10).glob("*.safetensors")

    assert {str(tensor.dtype) for tensor in load_file(adapter).values()} == {"torch.float32"}


def test_the_loss_falls_on_rows_that_were_not_trained_on(trained):
    losses = [trained.evaluations[step] for step in sorted(trained.evaluations)]

    assert losses[-1] < losses[0] - 0.01


def test_a_paused_job_goes_on_as_if_nothing_had_been(trained, tmp_path, make_job):
    kind = next(name for name in KINDS if KINDS[name].items() <= trained.config.items())
    paused = _job(kind, tmp_path / "job", make_job)

    assert paused.train(PausesAfter(paused.directory, 5)) is JobState.PAUSED
    paused.directory.request(Desired.RUN)

    assert paused.train() is JobState.COMPLETED
    assert paused.curve == trained.curve
    assert paused.weights == trained.weights


@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # PEFT's word to generate
def test_the_output_loads_in_peft_and_says_something_else_than_the_base(trained):
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    output = trained.directory.output
    tokens = torch.arange(20, 40)[None]
    with torch.no_grad(), deprecations_allowed():
        model = AutoModelForCausalLM.from_pretrained(trained.config["model"])
        base = model(tokens).logits[:, -1]
        model = peft.PeftModel.from_pretrained(model, output).eval()
        mask = torch.ones_like(tokens)
        answer = model.generate(input_ids=tokens, attention_mask=mask, max_new_tokens=1)
        logits = model(input_ids=tokens, attention_mask=mask).logits[:, -1]

    assert torch.isfinite(logits).all()
    assert (logits - base).abs().max() > 0.01
    assert answer[0, -1] == logits.argmax()
    assert str(trained.directory.root.parent) not in (output / "adapter_config.json").read_text()


def test_the_model_cards_own_words_load_it(trained, monkeypatch):
    output = trained.directory.output
    code = (output / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(output)

    scope: dict[str, Any] = {}
    with deprecations_allowed():
        exec(code, scope)  # noqa: S102 - it is ours

    quantised = getattr(scope["model"], "hf_quantizer", None) is not None
    assert quantised == ("quantization" in trained.config)
    assert scope["tokenizer"].vocab_size == scope["model"].config.vocab_size


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank_pattern": {"q_prj": 6}}, "rank_pattern: 'q_prj' matches no layer"),
        ({"alpha_pattern": {"lm_head": 6}}, "alpha_pattern: 'lm_head' matches no layer"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0, 7]}, "the model has no block 7"),
        ({"target_modules": ["nowhere"]}, "nowhere"),
    ],
)
def test_a_choice_of_layers_that_matches_none_is_refused(tmp_path, make_job, settings, words):
    with pytest.raises(ConfigError, match=words):
        make_job(tmp_path / "job", peft={**LORA, **settings}, max_steps=1).train()


def test_adapters_are_where_they_were_asked_for(tmp_path, make_job):
    job = make_job(
        tmp_path / "job",
        **{**SETTINGS, **KINDS["some_layers"]},
    )
    assert job.train() is JobState.COMPLETED

    weights = load_file(job.directory.output / "adapter_model.safetensors")

    assert all(".layers.1." in name for name in weights)
    assert not any("k_proj" in name for name in weights)
    ranks = {name.split(".")[-3]: w.shape[0] for name, w in weights.items() if "lora_A" in name}
    assert (ranks["q_proj"], ranks["v_proj"]) == (6, 4)
