"""A chat template of the user's own is what rows are rendered by, and goes along with the result."""

from __future__ import annotations

import pytest

from trainer.config import TrainingConfig
from trainer.config.chat_templates import names, template_text
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState

pytestmark = pytest.mark.xdist_group("torch")
MINE = (
    "{% for message in messages %}### {{ message['role'] }}: {{ message['content'] }}"
    "{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}### assistant: {% endif %}"
)


def test_a_file_renders_the_rows_and_goes_along(tmp_path, make_job):
    path = tmp_path / "mine.jinja"
    path.write_text(MINE)
    own = make_job(tmp_path / "own", chat_template=str(path), max_steps=1)
    usual = make_job(tmp_path / "usual", max_steps=1)

    assert own.train() is usual.train() is JobState.COMPLETED

    assert own.curve[1]["train_loss"] != usual.curve[1]["train_loss"]
    assert (own.directory.output / "chat_template.jinja").read_text() == MINE


def test_a_well_known_one_goes_by_its_name(base_model):
    from trainer.engine.model import load_tokenizer

    config = TrainingConfig(model=str(base_model), dataset="d", chat_template="llama3")

    rendered = load_tokenizer(config).apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False
    )

    assert "<|start_header_id|>user<|end_header_id|>" in rendered
    assert {"llama3", "qwen3"} <= set(names())


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("qwen33", "there is no template of that name"),
        ("./none.jinja", "No such file"),
        ("{folder}/empty.jinja", "never reads `messages`"),
        ("{folder}/bytes.jinja", "is not UTF-8"),
    ],
)
def test_what_is_no_template_is_refused(tmp_path, template, words):
    (tmp_path / "empty.jinja").write_text("{{ text }}")
    (tmp_path / "bytes.jinja").write_bytes(b"\xff\xfe messages")

    with pytest.raises(ConfigError, match=words):
        template_text(template.format(folder=tmp_path))
