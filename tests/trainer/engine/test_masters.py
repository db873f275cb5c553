"""What is trained is held in float32 beside a model of 16 bits, and steps are not rounded away."""

from __future__ import annotations

import json

import pytest

from trainer.config import TrainingConfig
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState

pytestmark = [
    pytest.mark.xdist_group("torch"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing:FutureWarning"),
]


def loaded(base_model, **settings):
    from trainer.engine.model import load_model

    return load_model(
        TrainingConfig(model=str(base_model), dataset="d", dtype="bfloat16", **settings)
    )


@pytest.mark.parametrize("layers", [["norm"], ["embed_tokens"], ["down_proj", "norm"]])
def test_whole_layers_take_small_steps_though_the_model_has_16_bits(base_model, layers):
    import torch

    model = loaded(
        base_model, peft={"r": 4, "modules_to_save": layers, "target_modules": ["q_proj"]}
    )
    trained = [p for n, p in model.named_parameters() if ".modules_to_save." in n]
    before = [p.detach().clone() for p in trained]
    tokens = torch.arange(20, 40)[None]

    out = model(input_ids=tokens, labels=tokens)
    out.loss.backward()
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    optimizer.step()

    assert out.logits.dtype == torch.bfloat16
    assert {p.dtype for p in trained} == {torch.float32}
    # In bfloat16 a step of a thousandth of the gradient changes next to nothing.
    for old, new in zip(before, trained, strict=True):
        learns = new.grad != 0
        assert (new != old)[learns].float().mean() > 0.5


def test_the_layers_around_them_get_what_they_had(base_model):
    import torch

    plain = loaded(base_model)
    held = loaded(base_model, peft={"r": 16, "modules_to_save": ["norm"]})
    tokens = torch.arange(20, 40)[None]

    with torch.no_grad():
        difference = plain(tokens).logits.float() - held(tokens).logits.float()

    assert difference.abs().max() < 0.02


def test_biases_in_their_place_and_heads_that_are_multiplied_by_are_refused(base_model, tmp_path):
    from tests.trainer.architectures.tiny import tiny_model_folder

    biased = tiny_model_folder(tmp_path / "model", "qwen2")

    with pytest.raises(ConfigError, match=r"training\.peft\.bias: .* 16 bits") as caught:
        loaded(biased, peft={"r": 4, "bias": "all"})
    assert caught.value.suggestion == "Set dtype: float32, or bias: none."
    with pytest.raises(ConfigError, match=r"modules_to_save: dpo multiplies by the head's weights"):
        loaded(base_model, method="dpo", peft={"r": 4, "modules_to_save": ["lm_head"]})


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["dpo", "grpo", "ppo"])
def test_a_whole_layer_learns_beside_16_bits(method, tmp_path, make_job):
    rows = [
        {"prompt": f"token {n}", "chosen": f" model {n}", "rejected": f" loss {n}"}
        for n in range(8)
    ]
    if method != "dpo":
        rows = [{"prompt": row["prompt"]} for row in rows]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = tmp_path / "code.py"
    code.write_text(
        "def score(completions, **_):\n    return [sum(map(ord, c)) for c in completions]\n"
    )
    answers = {"reward_functions": [f"{code}:score"], "max_completion_length": 4}
    job = make_job(
        tmp_path / "job",
        method=method,
        dtype="bfloat16",
        peft={"r": 4, "modules_to_save": ["norm"]},
        data={"path": str(path)},
        max_steps=2,
        **({} if method == "dpo" else answers),
        **({"num_generations": 2, "beta": 0.1} if method == "grpo" else {}),
    )

    assert job.train() is JobState.COMPLETED

    from safetensors.torch import load_file

    weights = load_file(job.directory.output / "adapter_model.safetensors")
    norms = [weight for name, weight in weights.items() if name.endswith("norm.weight")]
    assert norms
    assert {str(norm.dtype) for norm in norms} == {"torch.float32"}
    assert all(0 < (norm - 1).abs().max() < 0.01 for norm in norms)
