"""What `new_tokens` is refused for: as a setting, and on models that would compute something else."""

from __future__ import annotations

import pytest

from tests.trainer.jobs import TINY_LLAMA
from trainer.config import TrainingConfig
from trainer.config.explain import validated
from trainer.contract.errors import ConfigError

pytestmark = pytest.mark.xdist_group("torch")
NEW = "<|sql|>"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"new_tokens": ["a", "a"]}, "'a' is there twice"),
        ({"new_tokens": [" a"]}, "must not begin or end with a space"),
        ({"new_tokens": [""]}, "at least 1"),
        ({"new_tokens": ["\ud800"]}, "unicode"),
        ({"new_tokens": "a"}, "new_tokens"),
        ({"new_tokens": ["a"], "adapter": "x"}, "new_tokens: an adapter that is gone on with"),
        (
            {"new_tokens": ["a"], "peft": {"peft_type": "prompt_tuning"}},
            "new_tokens: peft_type prompt_tuning leaves the embeddings alone",
        ),
        ({"new_tokens": ["a"], "parallelism": "fsdp"}, "new_tokens: fsdp would share out"),
    ],
)
def test_what_cannot_be_a_new_token_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        validated(TrainingConfig, {"model": "m", "dataset": "d", **settings}, "job.yaml")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"modules_to_save": ["wte"]}, "PEFT would train wte apart"),
        ({"target_modules": ["wte", "c_attn"]}, "wte of .* shares its weights with the head"),
    ],
)
def test_layers_that_would_be_parted_are_refused(settings, words, tmp_path, make_job):
    from tests.trainer.architectures.tiny import tiny_model_folder

    model = tiny_model_folder(tmp_path / "model", "gpt2")
    job = make_job(tmp_path / "job", model=str(model), peft={"r": 4, **settings})

    with pytest.raises(ConfigError, match=words) as caught:
        job.train()
    assert "new_tokens" in caught.value.suggestion


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gptj", "its head is more than a product with its weights"),  # it has a bias
        ("gemma3n_text", r"it has a second table of its tokens, model\.embed_tokens_per_layer\."),
        ("deepseek_v4", r"it has a second table of its tokens, .*gate"),
    ],
)
def test_a_model_that_would_compute_something_else_is_refused(kind, words):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tests.trainer.architectures.tiny import tiny_config
    from trainer.engine.adapters import add_adapters
    from trainer.engine.vocabulary import extend, widen

    config = TrainingConfig(model=kind, dataset="d", new_tokens=[NEW])
    vocabulary = extend(AutoTokenizer.from_pretrained(TINY_LLAMA), [NEW])

    def adapt():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(tiny_config(kind))
            widen(model, vocabulary, config)
            add_adapters(model, config, vocabulary.named)

    with pytest.raises(ConfigError, match=words):
        adapt()


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("modules_to_save", "embed_tokens"),
        ("modules_to_save", "lm_head"),
        ("target_modules", "embed_tokens"),
    ],
)
def test_rows_of_new_tokens_are_in_no_layer_that_is_trained_otherwise(field, name):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from trainer.engine.adapters import add_adapters

    peft = {"r": 4, field: [name]}
    config = TrainingConfig(model=str(TINY_LLAMA), dataset="d", new_tokens=[NEW], peft=peft)
    with torch.device("meta"):
        architecture = AutoConfig.from_pretrained(TINY_LLAMA, tie_word_embeddings=False)
        model = AutoModelForCausalLM.from_config(architecture)

    with pytest.raises(ConfigError, match=rf"peft\.{field}: {name} of .* holds the rows of"):
        add_adapters(model, config, [3])
