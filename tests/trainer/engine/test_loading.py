"""What is loaded is the job's model as it is: nothing that its files lack is made up."""

import shutil

import pytest
from safetensors.torch import load_file, save_file

from tests.trainer.jobs import TINY_LLAMA
from trainer.contract.errors import ModelNotFound
from trainer.engine.model import load_model

pytestmark = pytest.mark.xdist_group("torch")


@pytest.fixture
def torn(tmp_path):
    """Return a model whose files lack what one layer learned."""
    folder = shutil.copytree(TINY_LLAMA, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layers.1.mlp" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("settings", [{}, {"peft": None}, {"method": "dpo"}])
def test_a_model_that_lacks_weights_is_refused(torn, make_config, settings):
    config = make_config("a", model=str(torn), **settings)

    with pytest.raises(
        ModelNotFound, match=r"lack 3 weights, such as model.layers.1.mlp.down_proj"
    ):
        load_model(config)

    assert load_model(make_config("a", model=str(torn), init="random", peft=None))


def test_a_trial_of_it_is_an_error_and_no_unknown_time(torn, make_config, write_rows, tmp_path):
    from trainer.training.estimate import probe

    config = make_config(write_rows([{"text": "a b"}]), model=str(torn), max_steps=1)

    with pytest.raises(ModelNotFound, match="lack 3 weights"):
        probe(config, 1, tmp_path)


@pytest.mark.parametrize("tied", [False, True])
def test_a_classifier_writes_no_text_and_gives_no_score(tmp_path, make_config, tied):
    from transformers import AutoModelForSequenceClassification

    from trainer.preflight.table import Subject, refuse
    from trainer.preflight.training import TRAINING

    of_two = AutoModelForSequenceClassification.from_pretrained(
        TINY_LLAMA, num_labels=2, tie_word_embeddings=tied
    )
    of_two.save_pretrained(tmp_path)

    for look in (load_model, lambda config: refuse(TRAINING[:1], Subject(config), ())):
        with pytest.raises(
            ModelNotFound, match="is a LlamaForSequenceClassification, which writes"
        ):
            look(make_config("a", model=str(tmp_path)))
    with pytest.raises(ModelNotFound, match="such as the head of a classifier of other classes"):
        load_model(make_config("a", model=str(tmp_path), method="reward"))
