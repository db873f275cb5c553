"""A reward model scores a whole row, and a batch as each of its rows alone; orpo what it computes."""

import pytest

from tests.trainer.methods.test_likelihoods import PAIRS, job_of
from tests.trainer.methods.test_rollouts_proven import built
from trainer.contract.errors import ConfigError

pytestmark = [
    pytest.mark.xdist_group("torch"),
    pytest.mark.filterwarnings("ignore:You are importing from 'trl.experimental'"),
]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")  # PEFT's, of GPT-2's layers
@pytest.mark.parametrize(
    "kind", ["llama", *(pytest.param(k, marks=pytest.mark.thorough) for k in ("gpt2", "mixtral"))]
)
@pytest.mark.parametrize("method", ["reward", "orpo"])
def test_what_is_learned_from_is_what_the_model_computes(make_job, tmp_path, capsys, method, kind):
    built(job_of(make_job, tmp_path, kind, method, PAIRS))

    assert "rows of a batch: padded, as each alone to " in capsys.readouterr().out


@pytest.mark.thorough
def test_a_reward_model_that_reads_the_first_token_of_what_looks_back_is_refused(
    make_job, tmp_path
):
    """As BERT does, once its tokens see only those before them: it would score nothing but that."""
    job = job_of(make_job, tmp_path, "bert", "reward", PAIRS)

    with pytest.raises(ConfigError, match=r"BertForSequenceClassification scores a row by its fir"):
        built(job)


def test_a_reward_model_that_reads_the_padding_is_refused(make_job, tmp_path):
    job = job_of(make_job, tmp_path, "xlnet", "reward", PAIRS)

    with pytest.raises(
        ConfigError, match=r"XLNetForSequenceClassification scores a row in a batch"
    ):
        built(job)


def test_orpo_refuses_a_model_that_sees_what_comes_later(make_job, tmp_path):
    job = job_of(make_job, tmp_path, "xlnet", "orpo", PAIRS)

    with pytest.raises(ConfigError, match=r"^training\.model: in XLNetLMHeadModel a token sees"):
        built(job)
