"""Answers are scored as the model scores them, also where TRL's fused head would do otherwise."""

import json

import pytest

from tests.trainer.architectures.tiny import tiny_config, tiny_model_folder
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState

pytestmark = pytest.mark.xdist_group("torch")
PAIRS = [
    {"prompt": f"Say {word}.", "chosen": f"{word}, gladly", "rejected": f"not {word} but {word}"}
    for word in ("copper", "silver", "iron", "gold")
]
RATED = [
    {"prompt": f"Say {word}.", "completion": f"{word}, gladly", "label": number % 2 == 0}
    for number, word in enumerate(("copper", "silver", "iron", "gold"))
]


def job_of(make_job, folder, kind, method, rows):
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return make_job(
        folder / "job",
        method=method,
        model=str(tiny_model_folder(folder / "model", kind)),
        data={"path": str(data)},
        per_device_train_batch_size=2,
        max_steps=2,
    )


@pytest.mark.parametrize(
    ("method", "examples"), [("dpo", PAIRS), pytest.param("kto", RATED, marks=pytest.mark.thorough)]
)
def test_a_head_that_trl_passes_over_is_called(make_job, tmp_path, capsys, method, examples):
    """Between BERT's last states and its output weights there is a layer of its own."""
    job = job_of(make_job, tmp_path, "bert", method, examples)

    assert job.train() is JobState.COMPLETED

    line = "the loss is made of its logits: log-likelihoods of row 1 differ by "
    assert line in capsys.readouterr().out


@pytest.mark.thorough
def test_a_model_that_sees_what_comes_later_is_refused(make_job, tmp_path):
    job = job_of(make_job, tmp_path, "xlnet", "dpo", PAIRS)

    with pytest.raises(ConfigError, match=r"^training\.model: in XLNetLMHeadModel a token sees"):
        job.train()


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mixtral"])
def test_the_logits_score_as_trls_head_does_where_that_is_right(kind):
    import torch
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    from trainer.methods.likelihoods import score_by_logits

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(kind)).eval()
    ids = torch.randint(3, 2000, (3, 12))
    labels = ids.clone()
    labels[:, :5] = -100
    given = {"input_ids": ids, "labels": labels, "fused_lm_head": True, "use_cache": False}
    given |= {"output_router_logits": True} if kind == "mixtral" else {}
    fields = ("log_probs", "entropy", "mean_logits", "is_top1", "log_sum_sq_probs")
    add_fused_lm_head(model, outputs=fields)
    theirs = model(**given)

    score_by_logits(model)
    ours = model(**given)

    for name in (*fields, "label_mask"):
        torch.testing.assert_close(ours[name].float(), theirs[name].float(), rtol=1e-4, atol=1e-5)
    if kind == "mixtral":
        torch.testing.assert_close(ours.aux_loss, theirs.aux_loss)
