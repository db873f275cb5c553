"""`push_to_hub` against a server that speaks the Hub's upload API: what arrives, and what if not."""

import json
from pathlib import Path

import huggingface_hub
import pytest

from tests.clouds.hub import TOKEN, running_hub
from tests.trainer.jobs import Job
from trainer.config import TrainingConfig
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState
from trainer.contract.manifest import MANIFEST, verify
from trainer.results import hub as uploading
from trainer.results.hub import check_hub, push_output

pytestmark = [
    pytest.mark.xdist_group("torch"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing:FutureWarning"),
]


@pytest.fixture(scope="module")
def environment():
    """Let this process reach the server below; the tests' own environment forbids the Hub."""
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(uploading, "PAUSES", (0.0,))
        patch.setenv("HF_TOKEN", TOKEN)
        yield patch


@pytest.fixture(scope="module")
def hub(environment):
    with running_hub() as server:
        environment.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture(scope="module")
def refused(hub, tmp_path_factory: pytest.TempPathFactory, make_job) -> Job:
    """A finished job whose result the Hub did not take: it had trouble to the end."""
    job = make_job(
        tmp_path_factory.mktemp("pushed") / "job",
        peft={"r": 4, "lora_alpha": 8},
        max_steps=2,
        merge=True,
        push_to_hub="lab/tiny",
    )
    hub.failures["/api/repos/create"] = 99
    assert job.main() == 0
    return job


@pytest.fixture(scope="module")
def pushed(hub, refused) -> Job:
    """The same job, run once more when the trouble was over but for one commit."""
    assert refused.status.state is JobState.COMPLETED
    assert "NOT uploaded to lab/tiny: HfHubHTTPError" in refused.status.warning
    assert "503" in refused.status.warning
    verify(refused.directory.output)
    assert hub.repositories == {}
    steps = refused.directory.metrics.read_bytes()

    hub.failures = {"/api/models/lab/tiny/commit": 1}
    assert refused.main() == 0

    assert refused.directory.metrics.read_bytes() == steps
    return refused


def test_a_result_that_was_not_uploaded_is_kept_and_uploaded_by_the_next_start(hub, pushed):
    assert pushed.status.state is JobState.COMPLETED
    assert pushed.status.warning == ""
    assert hub.failures == {"/api/models/lab/tiny/commit": 0}
    assert hub.commits == [f"Trained by sft on {Path(pushed.config['model']).name}"]
    assert hub.visibility == {"lab/tiny": "private"}
    asked = len(hub.asked)

    assert pushed.main() == 0

    assert hub.asked[asked:] == []


def test_every_file_arrives_as_it_is(hub, pushed):
    assert any("/v1/xorbs/" in request for request in hub.asked)  # as the Hub wants it by default
    _compare(hub.repositories["lab/tiny"], pushed.directory.output)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own
def test_without_xet_every_file_arrives_by_lfs(hub, pushed, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    config = TrainingConfig(**{**pushed.config, "push_to_hub": "ada/lfs"})

    warning = push_output(pushed.directory.output, config, pushed.directory.root / "lfs.json")

    assert warning == ""
    assert "POST /ada/lfs.git/info/lfs/objects/batch" in hub.asked
    _compare(hub.repositories["ada/lfs"], pushed.directory.output)


def _compare(arrived: dict[str, bytes], output: Path) -> None:
    anew = {"README.md", "adapter_config.json"}
    assert set(arrived) == set(verify(output)["files"])
    for name in set(arrived) - anew:
        assert arrived[name] == (output / name).read_bytes(), name
    assert {"merged/model.safetensors", "adapter_model.safetensors", "tokenizer.json"} < set(
        arrived
    )
    assert MANIFEST not in arrived  # it is of the files as they are here


def test_nothing_that_arrives_names_a_path_of_this_computer(hub, pushed):
    files = hub.repositories["lab/tiny"]

    for path in (pushed.config["model"], pushed.config["dataset"]["path"], pushed.directory.root):
        folder = str(Path(path).parent).encode()
        assert [name for name, content in files.items() if folder in content] == []
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "base"


def test_the_card_tells_what_a_stranger_needs(hub, pushed):
    card = hub.repositories["lab/tiny"]["README.md"].decode()

    assert "| base model | `base` |" in card
    assert "| dataset | `chats.jsonl` |" in card
    assert "base_model:" not in card.split("---")[1]  # no name of the Hub
    assert "pipeline_tag: text-generation" in card
    assert 'AutoPeftModelForCausalLM.from_pretrained("lab/tiny")' in card
    assert 'from_pretrained("lab/tiny", subfolder="merged")' in card
    assert "| train_loss (lower is better) | " in card
    assert "| per_device_train_batch_size | 2 |" in card


def _asked(**settings: str) -> TrainingConfig:
    return TrainingConfig(model="m", dataset="d", **settings)


@pytest.mark.parametrize(
    ("environment_says", "repository", "words"),
    [
        ({"HF_TOKEN": ""}, "ada/x", "there is no token to upload with.*Set HF_TOKEN"),
        ({"HF_TOKEN": "hf_expired"}, "ada/x", "does not accept the token.*may have expired"),
        ({}, "someone/x", "the token belongs to ada, lab, not to someone.*Write ada/x"),
    ],
)
def test_a_token_that_cannot_upload_is_told_before_training(
    hub, monkeypatch, environment_says, repository, words
):
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    for name, value in environment_says.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError, match=rf"training\.push_to_hub = '{repository}': .*{words}"):
        check_hub(_asked(push_to_hub=repository))


def test_the_stored_login_is_a_token_to_upload_with(hub, tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    asked = len(hub.asked)

    check_hub(_asked(push_to_hub="ada/x"))

    assert hub.asked[asked:] == ["GET /api/whoami-v2"]


def test_a_token_that_may_only_read_is_told_before_training(hub, monkeypatch):
    monkeypatch.setattr(hub, "role", "read")

    with pytest.raises(ConfigError, match="the token may only read"):
        check_hub(_asked(push_to_hub="ada/x"))


def test_a_hub_out_of_reach_before_training_is_a_warning(hub, monkeypatch, capsys):
    monkeypatch.setitem(hub.failures, "/api/whoami-v2", 99)

    check_hub(_asked(push_to_hub="ada/x"))

    assert "warning: http://127.0.0.1" in capsys.readouterr().out


def test_a_token_that_expires_meanwhile_is_not_tried_again(hub, pushed, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    config = TrainingConfig(**{**pushed.config, "push_to_hub": "ada/late"})
    asked = len(hub.asked)

    warning = push_output(pushed.directory.output, config, pushed.directory.root / "late.json")

    assert "NOT uploaded to ada/late" in warning
    assert "401" in warning
    assert hub.asked[asked:].count("POST /api/repos/create") == 1
