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
    "ia3_4bit": {
        "peft": {
            "peft_type": "ia3",
            "target_modules": ["k_proj", "v_proj", "down_proj"],
            "feedforward_modules": ["down_proj"],
        },
        "quantization": {"load_in_4bit": True},
        "learning_rate": 0.05,
    },
    "loha": {
        "peft": {"peft_type": "loha", "r": 4, "alpha": 8, "rank_dropout": 0.1},
        "learning_rate": 0.01,
    },
    "lokr": {
        "peft": {
            "peft_type": "lokr",
            "r": 4,
            "alpha": 8,
            "module_dropout": 0.1,
            "decompose_factor": 4,
            "rank_pattern": {"q_proj": 6},
        },
        "learning_rate": 0.01,
    },
    "oft": {
        "peft": {
            "peft_type": "oft",
            "oft_block_size": 16,
            "target_modules": ["q_proj", "v_proj"],
            "layers_to_transform": [1],
            "modules_to_save": ["norm"],
        },
        "learning_rate": 0.01,
    },
    "vera_8bit": {
        "peft": {"peft_type": "vera", "r": 32, "vera_dropout": 0.1, "projection_prng_key": 3},
        "quantization": {"load_in_8bit": True},
        "gradient_checkpointing": True,
        "learning_rate": 0.05,
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


RARE = KINDS.keys() - {"prompt_tuning"}
"""They stay in the long tests; see also `test_merging.py`."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(k, marks=pytest.mark.thorough) if k in RARE else k for k in KINDS],
)
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
        ({"target_modules": ["q_proj", "nowhere"]}, "target_modules: the model has no layer 'nowh"),
        (
            {"target_modules": ".*q_prj"},
            r"no layer of .* gets an adapter: target_modules = '.\*q_prj' fit none",
        ),
        (
            {"target_modules": ["q_proj", "input_layernorm"]},
            "target_modules: lora cannot be put on .*input_layernorm of .*, a LlamaRMSNorm",
        ),
        ({"target_modules": ".*lm_head"}, "an adapter on lm_head would never be trained"),
        ({"target_modules": ".*(embed_tokens|q_proj)"}, "embed_tokens of .* shares its weights"),
        ({"exclude_modules": ["nowhere"]}, "exclude_modules: the model has no layer 'nowhere'"),
        (
            {"peft_type": "ia3", "feedforward_modules": ["nowhere"]},
            "feedforward_modules: the model has no layer 'nowhere'",
        ),
        (
            {"peft_type": "lokr", "target_modules": ["q_proj"], "layers_to_transform": [7]},
            r"no layer of .* gets an adapter: target_modules = \['q_proj'\], layers_to_transform = \[7\]",
        ),
        ({"peft_type": "loha", "alpha_pattern": {"q_prj": 6}}, "alpha_pattern: 'q_prj' matches no"),
        ({"peft_type": "vera", "modules_to_save": ["lm_head"]}, "PEFT would train lm_head apart"),
        (
            {"peft_type": "oft", "oft_block_size": 24},
            "oft_block_size = 24 does not divide the 128 inputs",
        ),
    ],
)
def test_a_choice_of_layers_that_matches_none_is_refused(tmp_path, make_job, settings, words):
    peft = settings if "peft_type" in settings else {**LORA, **settings}
    with pytest.raises(ConfigError, match=words):
        make_job(tmp_path / "job", peft=peft, max_steps=1).train()


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("kind", ["loha", "oft"])
def test_layers_of_a_kind_that_is_not_adapted_are_refused(kind, tmp_path, make_job):
    from tests.trainer.architectures.tiny import tiny_model_folder

    model = tiny_model_folder(tmp_path / "model", "gpt2")
    job = make_job(tmp_path / "job", model=str(model), peft={"peft_type": kind})

    words = rf"training\.peft\.peft_type: {kind} cannot be put on .*attn.* of .*, a Conv1D"
    with pytest.raises(ConfigError, match=words):
        job.train()


def test_layers_are_named_by_a_regular_expression(tmp_path, make_job):
    peft = {**LORA, "target_modules": r".*layers\.1\..*(q|v)_proj"}
    job = make_job(tmp_path / "job", peft=peft, max_steps=1)
    assert job.train() is JobState.COMPLETED

    output = job.directory.output
    adapted = {name.split(".lora")[0] for name in load_file(output / "adapter_model.safetensors")}
    assert {name.partition("layers.")[2] for name in adapted} == {
        "1.self_attn.q_proj",
        "1.self_attn.v_proj",
    }
    assert r".*layers\.1\." in (output / "README.md").read_text()
    further = make_job(tmp_path / "further", adapter=str(output), max_steps=1)
    assert further.train() is JobState.COMPLETED


def test_layers_that_a_job_excludes_stay_out_of_all_linear(tmp_path, make_job):
    peft = {**LORA, "exclude_modules": ["down_proj"]}
    job = make_job(tmp_path / "job", peft=peft, max_steps=1)
    assert job.train() is JobState.COMPLETED

    weights = load_file(job.directory.output / "adapter_model.safetensors")

    assert any("up_proj" in name for name in weights)
    assert not any("down_proj" in name for name in weights)


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
