"""`export: [gguf]`: read back by transformers' own reader, the model says the same."""

import json
from pathlib import Path

import pytest

from tests.trainer.jobs import TINY_LLAMA, Job
from trainer.config import TrainingConfig
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState
from trainer.contract.manifest import verify
from trainer.results.gguf.architectures import check_architecture, check_export, rope_factors
from trainer.results.gguf.vocabulary import check_vocabulary

pytestmark = pytest.mark.xdist_group("torch")
TEXT = "What is LoRA? It's a model of data, in 3 steps:\n\n  1234 tokens  at once – naïve 東京 <|user|><|eos|>"
SMALL = {
    "vocab_size": 2048,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def write_gguf(*arguments):
    """Write it, by a module that imports transformers: only where these tests run."""
    from trainer.results.gguf.writing import write_gguf

    write_gguf(*arguments)


def _difference(model: Path, folder: Path, file: str) -> float:
    """Return how much the logits differ, relative to their spread (root mean squares)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ours = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(TINY_LLAMA)(TEXT, return_tensors="pt")
    with torch.no_grad():
        before, after = ours(**tokens).logits, theirs(**tokens).logits
    return float((before - after).pow(2).mean().sqrt() / before.std())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, make_job) -> Job:
    job = make_job(
        tmp_path_factory.mktemp("exported") / "job",
        model=str(TINY_LLAMA),
        max_steps=2,
        learning_rate=0.01,
        export=["gguf"],
        gguf_quantization="q8_0",
    )
    assert job.train() is JobState.COMPLETED
    return job


def test_the_adapted_model_is_exported_and_nothing_else_is_left_of_the_merge(exported):
    output = exported.directory.output

    files = verify(output)["files"]

    assert [name for name in files if "/" in name] == ["gguf/model-Q8_0.gguf"]
    assert sorted(path.name for path in output.iterdir() if path.is_dir()) == ["gguf"]
    size = (TINY_LLAMA / "model.safetensors").stat().st_size
    assert files["gguf/model-Q8_0.gguf"]["bytes"] < 0.4 * size
    untrained = _difference(TINY_LLAMA, output / "gguf", "model-Q8_0.gguf")
    assert untrained > 0.1  # what was trained is in it


def test_the_tokenizer_is_the_same(exported):
    from transformers import AutoTokenizer

    ours = AutoTokenizer.from_pretrained(exported.directory.output)
    theirs = AutoTokenizer.from_pretrained(
        exported.directory.output / "gguf", gguf_file="model-Q8_0.gguf"
    )

    assert theirs(TEXT)["input_ids"] == ours(TEXT)["input_ids"]
    assert theirs.chat_template == ours.chat_template
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(theirs, name) == getattr(ours, name)


@pytest.mark.parametrize(
    ("quantization", "limit"),
    [
        ("F32", 1e-5),
        pytest.param("F16", 0.01, marks=pytest.mark.thorough),
        pytest.param("BF16", 0.05, marks=pytest.mark.thorough),
        pytest.param("Q8_0", 0.05, marks=pytest.mark.thorough),
        pytest.param("Q5_1", 0.3, marks=pytest.mark.thorough),
        ("Q4_0", 0.5),
    ],
)
def test_logits_are_as_close_as_the_quantisation_is(tmp_path, quantization, limit):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY_LLAMA)

    write_gguf(TINY_LLAMA, tokenizer, tmp_path / "m.gguf", quantization)

    assert _difference(TINY_LLAMA, tmp_path, "m.gguf") < limit


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"tie_word_embeddings": False}),
        pytest.param(
            "mistral", {"sliding_window": None, "head_dim": 32}, marks=pytest.mark.thorough
        ),
        pytest.param("qwen2", {"tie_word_embeddings": True}, marks=pytest.mark.thorough),
        ("qwen3", {"head_dim": 128}),  # which no file tells this reader
    ],
)
def test_every_architecture_is_read_back_as_it_was(tmp_path, kind, settings):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 50_000.0}
    config = AutoConfig.for_model(kind, **SMALL, rope_parameters=rope, **settings)
    model = AutoModelForCausalLM.from_config(config)
    for name, weights in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(weights)  # they begin as zeros, whose order nobody sees
    model.save_pretrained(tmp_path / "model", max_shard_size="500KB")
    tokenizer = AutoTokenizer.from_pretrained(TINY_LLAMA)

    write_gguf(tmp_path / "model", tokenizer, tmp_path / "m.gguf", "F32")

    assert _difference(tmp_path / "model", tmp_path, "m.gguf") < 1e-4


def test_biases_of_queries_and_keys_are_reordered_as_their_weights_are(tmp_path):
    import numpy as np
    import torch
    from gguf import GGUFReader
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**SMALL, attention_bias=True))
    for name, bias in model.named_parameters():
        if name.endswith(".bias"):
            weight = model.get_parameter(name.replace(".bias", ".weight"))
            bias.data = weight.data[:, 0].clone()
    model.save_pretrained(tmp_path / "model")

    tokenizer = AutoTokenizer.from_pretrained(TINY_LLAMA)
    write_gguf(tmp_path / "model", tokenizer, tmp_path / "m.gguf", "F32")

    found = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    for layer in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_array_equal(
            found[f"blk.1.{layer}.bias"], found[f"blk.1.{layer}.weight"][:, 0]
        )
    assert torch.equal(
        torch.from_numpy(found["blk.1.attn_q.weight"][:4].copy()),
        model.model.layers[1].self_attn.q_proj.weight.data[[0, 16, 1, 17]],
    )


def test_a_sentencepiece_tokenizer_is_the_same(tmp_path):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaTokenizer
    from transformers.tokenization_utils_sentencepiece import generate_merges

    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = ["▁m", "od", "▁mod", "el", "▁model", "at", "▁d", "▁dat", "▁data", "▁t", "ok", "en"]
    letters = sorted(set("▁" + "".join(words) + TEXT) - set(" \n東京<|>"))
    vocab = {token: i for i, token in enumerate([*special, *words, *letters])}
    scores = {token: -float(i) for token, i in vocab.items() if token not in special}
    merges = generate_merges({t: i for t, i in vocab.items() if t not in special}, scores)
    ours = LlamaTokenizer(vocab=vocab, merges=merges)
    ours.add_tokens(["<think>"])
    model = LlamaForCausalLM(LlamaConfig(**{**SMALL, "vocab_size": len(ours) + 3}))
    model.save_pretrained(tmp_path / "model")
    check_vocabulary(ours, "m")

    write_gguf(tmp_path / "model", ours, tmp_path / "m.gguf", "F32")

    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in ("model data tokens", "  data\n\nmodel <think>x", TEXT):
        assert theirs(text)["input_ids"] == ours(text)["input_ids"]


def test_llama_3_slows_its_low_frequencies_as_transformers_does():
    import numpy as np
    from transformers import LlamaConfig

    scaled = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = {"rope_type": "llama3", "rope_theta": 500_000.0, **scaled}
    rope["original_max_position_embeddings"] = 8192
    config = LlamaConfig(hidden_size=512, num_attention_heads=4, rope_parameters=rope)

    factors = rope_factors(config)

    assert factors.dtype == np.float32
    assert factors.shape == (64,)
    assert factors[0] == pytest.approx(1)
    assert factors[-1] == pytest.approx(8)
    assert rope_factors(LlamaConfig(**SMALL)) is None


def test_what_cannot_be_exported_is_told_before_training(tmp_path):
    from transformers import AutoTokenizer, LlamaConfig

    asked = TrainingConfig(model=str(tmp_path), dataset="d", export=["gguf"])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(ConfigError, match=r"training\.export: gguf: .* is of type 'mamba'.*merge"):
        check_export(asked)

    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 16}
    rope |= {"long_factor": [1.0] * 16, "factor": 2.0, "original_max_position_embeddings": 512}
    with pytest.raises(ConfigError, match=r"rotary embeddings of type 'longrope'"):
        check_architecture(asked, LlamaConfig(**SMALL, rope_parameters=rope))

    state = json.loads((TINY_LLAMA / "tokenizer.json").read_text())
    state["pre_tokenizer"] = {"type": "Whitespace"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    with pytest.raises(ConfigError, match=r"the tokenizer of .* is not supported"):
        check_vocabulary(AutoTokenizer.from_pretrained(tmp_path), str(tmp_path))
