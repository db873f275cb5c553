"""The result says where it stops: at what ends a turn in its chat template, too."""

import json
import shutil

import pytest

from trainer.contract.job_directory import JobState
from trainer.results.generation import write_generation_config

pytestmark = pytest.mark.xdist_group("torch")
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|pad|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""It ends turns with a token that is not the tokenizer's eos."""


def ends(folder):
    return json.loads((folder / "generation_config.json").read_text())["eos_token_id"]


def test_the_output_stops_where_turns_end(tmp_path, make_job, base_model):
    from transformers import AutoTokenizer

    shutil.copytree(base_model, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "base")
    job = make_job(tmp_path / "job", model=str(tmp_path / "base"), max_steps=1, merge=True)

    assert job.train() is JobState.COMPLETED

    wanted = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|pad|>")]
    output = job.directory.output
    assert ends(output) == ends(output / "merged") == wanted
    assert "generation_config.json" in json.loads((output / "MANIFEST.json").read_text())["files"]


def test_samplers_that_contradict_each_other_leave_the_ends(tmp_path, base_model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base_model)
    model.generation_config.do_sample = False
    model.generation_config.temperature = 0.5
    model.generation_config.top_p = 0.5
    tokenizer = AutoTokenizer.from_pretrained(base_model)

    write_generation_config([tmp_path], model, tokenizer, "<|user|>")

    assert ends(tmp_path) == [
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids("<|user|>"),
    ]
