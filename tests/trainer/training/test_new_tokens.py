"""`new_tokens`: the tokenizer reads them, the model learns to write them, and whatever is shipped can."""

from __future__ import annotations

import json
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.trainer.jobs import TINY_LLAMA, Job, PausesAfter
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import Desired, JobState

pytestmark = [
    pytest.mark.xdist_group("torch"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing:FutureWarning"),
]
NEW = "<|sql|>"
SETTINGS = {
    "new_tokens": [NEW],
    "peft": {"r": 4, "lora_alpha": 8},
    "max_steps": 30,
    "learning_rate": 0.005,
    "lr_scheduler_type": "constant",
    "per_device_train_batch_size": 4,
}


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    turns = [(f"Colour {n}?", f"{NEW} colour number {n}.") for n in range(8)]
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in turns
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    return _model(tmp_path_factory.mktemp("models") / "untied", tie_word_embeddings=False)


def _model(folder, *, tokens=(), resized=False, **settings):
    """A small model with random weights; `tokens` are in its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(7)
    config = AutoConfig.from_pretrained(TINY_LLAMA, num_hidden_layers=2, **settings)
    tokenizer = AutoTokenizer.from_pretrained(TINY_LLAMA)
    tokenizer.add_tokens(list(tokens))
    model = AutoModelForCausalLM.from_config(config)
    if resized:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["tied", pytest.param("untied", marks=pytest.mark.thorough)])
def trained(request, tmp_path_factory, make_job, base_model, untied, colours) -> Job:
    model = base_model if request.param == "tied" else untied
    job = make_job(
        tmp_path_factory.mktemp("new") / "job",
        **SETTINGS,
        model=str(model),
        data={"path": str(colours)},
        merge=True,
        export=["gguf"],
        gguf_quantization="F32",
        save_steps=8,
    )
    assert job.train() is JobState.COMPLETED
    return job


def adapted(folder):
    from peft import AutoPeftModelForCausalLM

    return AutoPeftModelForCausalLM.from_pretrained(folder)


def logits(model, folder):
    """What comes after the beginning of an answer, and how likely the new token is there."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = [{"role": "user", "content": "Colour 3?"}]
    tokens = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        last = model.eval()(**tokens).logits[0, -1]
    return last, last.softmax(-1)[tokenizer.convert_tokens_to_ids(NEW)].item()


def test_a_new_token_that_no_row_has_is_named(tmp_path, make_config, write_rows, capsys):
    from trainer.data.tokenization import prepare_datasets
    from trainer.engine.model import load_tokenizer
    from trainer.training.settling import unlearned

    path = write_rows([{"text": f"{NEW} one"}, {"text": "two"}])
    config = make_config(path, model=str(TINY_LLAMA), new_tokens=["<|sqI|>", NEW, "two"])
    tokenizer = load_tokenizer(config)
    data = prepare_datasets(config, tokenizer, tmp_path / "cache")

    [said] = unlearned(config, data, tokenizer)
    assert said == "training.new_tokens: no row has '<|sqI|>', so nothing is learned of it."


def test_the_model_learns_to_write_it_and_the_merged_one_says_the_same(trained):
    import torch
    from transformers import AutoModelForCausalLM

    output = trained.directory.output
    ours, likely = logits(adapted(output), output)
    plain = AutoModelForCausalLM.from_pretrained(output / "merged")
    theirs, _ = logits(plain, output / "merged")
    read, _ = logits(
        AutoModelForCausalLM.from_pretrained(
            output / "gguf", gguf_file="model-F32.gguf", dtype=torch.float32
        ),
        output,
    )

    assert likely > 0.5
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(read, ours, atol=1e-4, rtol=1e-4)
    tied = plain.get_output_embeddings().weight is plain.get_input_embeddings().weight
    assert tied == plain.config.tie_word_embeddings
    assert tied == ("untied" not in trained.config["model"])


def test_only_its_rows_are_trained_and_shipped(trained):
    import torch
    from transformers import AutoModelForCausalLM

    weights = load_file(trained.directory.output / "adapter_model.safetensors")
    rows = [weight for name, weight in weights.items() if "token" in name]
    assert {tuple(weight.shape) for weight in rows} == {(1, 128)}
    base = AutoModelForCausalLM.from_pretrained(trained.config["model"])
    merged = AutoModelForCausalLM.from_pretrained(trained.directory.output / "merged")
    for layer in ("get_input_embeddings", "get_output_embeddings"):
        before, after = (getattr(model, layer)().weight.detach() for model in (base, merged))
        assert torch.equal(after[: len(before)], before)
        assert (after[len(before)] - before.mean(0)).abs().max() > 0.01
    assert r"| new tokens | `<\|sql\|>` |" in (trained.directory.output / "README.md").read_text()


def test_the_model_cards_own_words_load_it(trained, monkeypatch):
    from trainer.engine.deprecations import deprecations_allowed

    output = trained.directory.output
    code = (output / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(output)

    scope: dict[str, Any] = {}
    with deprecations_allowed():
        # What merges is loaded last; the adapter on its base is before it.
        exec(code.split("# Or the base model with")[0], scope)  # noqa: S102 - it is ours

    assert "PeftModel" in scope
    assert logits(scope["model"], output)[1] > 0.5


def test_it_resumes_exactly(trained, tmp_path, make_job):
    job = make_job(tmp_path / "job", **{**trained.config, "merge": False, "export": []})

    assert job.train(PausesAfter(job.directory, 5)) is JobState.PAUSED
    job.directory.request(Desired.RUN)
    assert job.train() is JobState.COMPLETED

    assert job.curve == trained.curve
    assert job.weights == trained.weights


@pytest.mark.thorough
def test_dpo_goes_on_with_it_from_where_it_was(trained, tmp_path, make_job):
    pairs = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"Colour {n}?", "chosen": f"{NEW} red {n}", "rejected": f" {NEW} no {n}"}
        for n in range(8)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = make_job(
        tmp_path / "job",
        method="dpo",
        model=trained.config["model"],
        adapter=str(trained.directory.output),
        data={"path": str(pairs), "eval_fraction": 0.25},
        max_steps=2,
        merge=True,
    )

    assert job.train() is JobState.COMPLETED

    # Against a reference whose rows are those that the training began with there is a margin.
    assert job.metrics[0]["eval_rewards/margins"] == 0
    assert job.metrics[2]["eval_rewards/margins"] != 0
    assert logits(adapted(job.directory.output), job.directory.output)[1] > 0.4
    weights = load_file(job.directory.output / "adapter_model.safetensors")
    assert not any(name.endswith("embed_tokens.weight") for name in weights)
    assert (job.directory.output / "merged" / "model.safetensors").is_file()


@pytest.mark.thorough
def test_all_weights_are_trained_with_it(tmp_path, make_job, colours):
    job = make_job(
        tmp_path / "job",
        **{**SETTINGS, "peft": None},
        data={"path": str(colours)},
    )
    assert job.train() is JobState.COMPLETED

    from transformers import AutoModelForCausalLM

    output = job.directory.output
    model = AutoModelForCausalLM.from_pretrained(output)
    assert logits(model, output)[1] > 0.5
    assert model.config.tie_word_embeddings
    assert "lm_head.weight" not in load_file(output / "model.safetensors")


@pytest.mark.thorough
def test_a_token_that_the_model_has_already_is_trained_further(tmp_path, make_job, colours):
    model = _model(tmp_path / "resized", tokens=[NEW], resized=True)
    job = make_job(
        tmp_path / "job",
        **{**SETTINGS, "max_steps": 2},
        model=str(model),
        data={"path": str(colours)},
    )
    assert job.train() is JobState.COMPLETED

    output = job.directory.output
    before = load_file(model / "model.safetensors")["model.embed_tokens.weight"][-1]
    weights = load_file(output / "adapter_model.safetensors")
    [after] = [weight for name, weight in weights.items() if "token" in name]
    assert 0 < (after[0] - before).abs().max() < 0.1


CHATML = """\
{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


@pytest.mark.thorough
def test_one_that_ends_a_turn_is_where_the_result_stops(tmp_path, make_job, colours):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (tmp_path / "chatml.jinja").write_text(CHATML)
    job = make_job(
        tmp_path / "job",
        **{**SETTINGS, "new_tokens": [NEW, "<|im_start|>", "<|im_end|>"], "max_steps": 40},
        chat_template=str(tmp_path / "chatml.jinja"),
        data={"path": str(colours)},
        merge=True,
    )
    assert job.train() is JobState.COMPLETED

    merged = job.directory.output / "merged"
    tokenizer = AutoTokenizer.from_pretrained(merged)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model = AutoModelForCausalLM.from_pretrained(merged)
    assert end in model.generation_config.eos_token_id
    written = tokenizer.encode(f"{NEW} colour<|im_end|>", add_special_tokens=False)
    assert written[-1] == end
    assert tokenizer.decode(written, skip_special_tokens=True) == f"{NEW} colour"


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["grpo", "kto", "reward"])
def test_it_is_trained_by_other_methods_too(method, tmp_path, make_job):
    rows = [
        {"prompt": f"Colour {n}?", "completion": f" {NEW} red {n}", "label": bool(n % 2)}
        for n in range(6)
    ]
    extra: dict[str, Any] = {}
    if method == "reward":
        rows = [
            {"prompt": f"Colour {n}?", "chosen": f" {NEW} {n}", "rejected": " no"} for n in range(6)
        ]
    if method == "grpo":
        rows = [{"prompt": f"{NEW} {n}?", "answer": "a"} for n in range(6)]
        extra = {"reward_functions": ["length"], "max_completion_length": 4, "beta": 0.1}
        extra |= {"num_generations": 2}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = make_job(
        tmp_path / "job",
        method=method,
        new_tokens=[NEW],
        data={"path": str(path)},
        max_steps=2,
        merge=True,
        **extra,
    )

    assert job.train() is JobState.COMPLETED


def test_tokens_that_the_model_has_no_embedding_for_are_named_with_the_remedy(
    tmp_path, make_job, colours, rows
):
    model = str(_model(tmp_path / "model", tokens=["<|other|>", NEW]))
    data = {"path": str(colours)}

    with pytest.raises(
        ConfigError, match=r"2,048 embeddings, and the rows need one for '<\|sql\|>'"
    ) as e:
        make_job(tmp_path / "used", model=model, data=data, max_steps=1).train()
    assert e.value.suggestion.endswith('new_tokens: ["<|other|>", "<|sql|>"]')
    with pytest.raises(ConfigError, match=r"further tokens .*, such as '<\|other\|>'") as e:
        make_job(tmp_path / "one", model=model, data=data, new_tokens=[NEW], max_steps=1).train()
    assert e.value.suggestion.endswith('new_tokens: ["<|sql|>", "<|other|>"]')
    # Not used by any row, they do no harm, though padding were one of them.
    path = tmp_path / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": "<|other|>"}))
    job = make_job(tmp_path / "unused", model=model, max_steps=1, padding_free=False)
    assert job.train() is JobState.COMPLETED


@pytest.mark.parametrize("name", ["東京🗼", "two words", "model", "<unk>"])
def test_any_text_is_one_token_or_is_refused(name, tokenizer):
    import copy

    from trainer.engine.vocabulary import extend

    tokenizer = copy.deepcopy(tokenizer)
    [number] = extend(tokenizer, [name]).named

    ids = tokenizer.encode(f"x {name} y", add_special_tokens=False)
    assert number in ids
    assert tokenizer.decode([number]) == name


@pytest.mark.thorough
@pytest.mark.parametrize(
    "layers",
    [
        ["lm_head"],
        pytest.param(["embed_tokens"], marks=pytest.mark.thorough),
        pytest.param(["embed_tokens", "lm_head"], marks=pytest.mark.thorough),
    ],
)
def test_layers_that_share_their_weights_are_trained_as_one(layers, tmp_path, make_job, colours):
    from transformers import AutoModelForCausalLM

    model = _model(tmp_path / "model", tokens=[NEW], resized=True)
    settings = {**SETTINGS, "new_tokens": [], "peft": {"r": 4, "modules_to_save": layers}}
    job = make_job(
        tmp_path / "job", **settings, model=str(model), data={"path": str(colours)}, merge=True
    )
    assert job.train() is JobState.COMPLETED

    output = job.directory.output
    plain = AutoModelForCausalLM.from_pretrained(output / "merged")
    assert plain.get_output_embeddings().weight is plain.get_input_embeddings().weight
    assert logits(plain, output / "merged")[1] > 0.5
    assert logits(adapted(output), output)[1] > 0.5
    assert plain.config.tie_word_embeddings
