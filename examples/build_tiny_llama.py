"""Rebuild `examples/tiny-llama`, the base model of the quickstart.

    python examples/build_tiny_llama.py

First a byte-level BPE tokenizer is learned from the example texts and written beside the config of
a small Llama. Then the trainer makes the weights, as `tiny-llama.yaml` says: method `cpt` with
`init: random`. That takes about four minutes on one core.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from flows.job_file import load_job
from trainer.contract.files import replace_json
from trainer.contract.job_directory import JobDirectory
from trainer.contract.own_python import own_python

HERE = Path(__file__).resolve().parent
MODEL = HERE / "tiny-llama"

VOCABULARY = 2048  # tokens, the special ones and the 256 bytes included
MAX_LENGTH = 1024  # tokens
SPECIAL_TOKENS = ["<|pad|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|system|>"]

# The `generation` block marks the tokens that `assistant_only_loss` trains on. The end of the turn
# lies inside it, so that the model learns to stop.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def main() -> None:
    """Write config and tokenizer, then train the weights and put them beside."""
    write_skeleton(MODEL)
    with tempfile.TemporaryDirectory(prefix="tiny-llama-") as folder:
        job = JobDirectory(folder)
        train_weights(job)
        for name in ("model.safetensors", "generation_config.json"):
            shutil.copyfile(job.output / name, MODEL / name)
    size = sum(path.stat().st_size for path in MODEL.iterdir())
    print(f"{MODEL}: {size / 1e6:.1f} MB")


def write_skeleton(folder: Path) -> None:
    """Write all of a model but its weights to `folder`: config and tokenizer."""
    tokenizer = build_tokenizer(example_texts())
    tokenizer.save_pretrained(folder)
    build_config(tokenizer).save_pretrained(folder)


def example_texts() -> Iterator[str]:
    """Yield the texts of the corpus, then questions and answers of the quickstart."""
    for row in read_rows(HERE / "corpus.jsonl"):
        yield row["text"]
    for row in read_rows(HERE / "quickstart.jsonl"):
        yield from (message["content"] for message in row["messages"])


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the objects in a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def train_weights(job: JobDirectory) -> None:
    """Run the job in `tiny-llama.yaml` in the directory `job`, without the orchestrator."""
    wanted = load_job(HERE / "tiny-llama.yaml")
    record = {
        "config": wanted.training.model_dump(mode="json"),
        "limits": wanted.limits.model_dump(mode="json"),
    }
    replace_json(job.job, record)
    threads = wanted.resources.cpu_threads or os.cpu_count()
    command = own_python("-m", "trainer", str(job.root))
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})


def build_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909): no text is unknown to it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pad, bos, eos, *roles = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        additional_special_tokens=roles,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Describe a Llama with 1.1 million parameters: 4.5 MB in float32."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )


if __name__ == "__main__":
    main()
