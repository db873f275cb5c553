"""The client by the letter of the document, whatever the service and the network do meanwhile."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from gateway.client import (
    AsyncTrainingOrchestrator,
    JobNotFound,
    NotPermitted,
    RequestRejected,
    ServiceFailed,
    ServiceUnreachable,
    TrainingConfig,
    TrainingOrchestrator,
    TrainingState,
    stream,
    wire,
)
from tests.gateway.client.document_service import KEY, DocumentService
from trainer.contract.errors import IntegrityError

CONFIG = TrainingConfig(
    job_id="my_training_job",
    model_name="llama-2-7b",
    dataset_path="/data/my_dataset",
    output_dir="/output",
)


@pytest.fixture
def service(tmp_path, monkeypatch):
    monkeypatch.setattr(wire, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(stream, "FIRST_PAUSE", 0.0)
    found = DocumentService(tmp_path).start()
    yield found
    found.stop()


@pytest.fixture
def orchestrator(service):
    with TrainingOrchestrator(service.url, key=KEY, retries=2) as found:
        yield found


async def test_the_documents_own_example(service, orchestrator):
    """Its lines, with the job completed before it asks for the artifact."""
    job = orchestrator.create_job(CONFIG)

    orchestrator.start_training("my_training_job", provider="runpod")

    service.jobs["my_training_job"]["state"] = "completed"
    status = orchestrator.get_status("my_training_job")

    if status.state == TrainingState.COMPLETED:
        artifact = await orchestrator.download_artifact("my_training_job")

    assert job.state is TrainingState.CREATED
    assert job.config == {
        "job_id": "my_training_job",
        "model_name": "llama-2-7b",
        "dataset_path": "/data/my_dataset",
        "output_dir": "/output",
    }
    assert (status.provider, status.provider_job_id) == ("runpod", "theirs-1")
    assert status.started_at.isoformat() == "2024-01-15T10:30:00+00:00"
    assert status.current_metrics == {"step": 1000, "loss": 0.5}
    assert artifact.path.read_bytes() == b"weights"
    assert artifact.metadata["peft_method"] == "lora"


async def test_the_same_with_await(service):
    async with AsyncTrainingOrchestrator(service.url, key=KEY) as orchestrator:
        await orchestrator.create_job(CONFIG)
        await orchestrator.start_training("my_training_job", "local")
        artifact = await orchestrator.download_artifact("my_training_job")
        stopped = await orchestrator.cancel("my_training_job")

    assert artifact.size_bytes == 7
    assert stopped.state is TrainingState.STOPPED


def test_each_method_has_its_twin():
    def of(kind):
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert of(TrainingOrchestrator) == of(AsyncTrainingOrchestrator)


def test_jobs_of_all_pages_are_listed_and_filtered(orchestrator):
    for number in range(5):
        orchestrator.create_job({"job_id": f"job-{number}"})
    for number in (1, 3):
        orchestrator.start_training(f"job-{number}", "lambda")

    assert [job.job_id for job in orchestrator.list_jobs()] == [f"job-{n}" for n in range(5)]
    assert [job.job_id for job in orchestrator.list_jobs(provider="lambda")] == ["job-1", "job-3"]
    assert len(orchestrator.list_jobs(state=TrainingState.CREATED)) == 3
    assert len(orchestrator.list_jobs(limit=3)) == 3


def test_pause_resume_logs_errors_and_metrics(orchestrator):
    orchestrator.create_job(CONFIG)
    id = CONFIG.job_id

    assert orchestrator.pause(id).state is TrainingState.PAUSED
    assert orchestrator.resume(id).state is TrainingState.RUNNING
    assert orchestrator.logs(id) == [f"line {number}" for number in range(2500)]
    assert orchestrator.logs(id, after=-1200) == [f"line {n}" for n in range(1300, 2500)]
    assert orchestrator.errors(id) == [{"message": "nan", "suggestion": "!"}]
    assert orchestrator.metrics(id) == [{"step": 1}]


def test_a_create_whose_answer_was_lost_makes_one_job(service, orchestrator):
    service.next.extend(["lost", 503])
    job = orchestrator.create_job(CONFIG)

    keys = {headers["idempotency-key"] for _, _, headers in service.asked}
    assert (len(service.asked), len(keys), len(service.done)) == (3, 1, 1)
    assert job.state is TrainingState.CREATED


def test_two_creates_have_two_keys(service, orchestrator):
    for _ in range(2):
        orchestrator.create_job(CONFIG)

    assert len(service.done) == 2


def test_a_cancel_whose_answer_was_lost_has_cancelled(service, orchestrator):
    orchestrator.create_job(CONFIG)
    service.next.append("lost")

    assert orchestrator.cancel(CONFIG.job_id).state is TrainingState.STOPPED
    with pytest.raises(RequestRejected, match="nothing to cancel"):
        orchestrator.cancel(CONFIG.job_id)


def test_as_long_as_a_busy_service_asks_for_is_waited(service, orchestrator, monkeypatch):
    waited = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    orchestrator.create_job(CONFIG)
    monkeypatch.setattr(wire.asyncio, "sleep", sleep)
    service.next.append((429, {"Retry-After": "7"}))
    orchestrator.get_status(CONFIG.job_id)

    assert 7 * 0.75 <= waited[0] <= 7 * 1.25
    service.next.append((429, {"Retry-After": "3600"}))
    with pytest.raises(RequestRejected, match="as asked: 429"):
        orchestrator.get_status(CONFIG.job_id)


@pytest.mark.parametrize(
    ("answer", "error", "tries"),
    [
        (404, JobNotFound, 1),
        (401, NotPermitted, 1),
        (403, NotPermitted, 1),
        (409, RequestRejected, 1),
        (422, RequestRejected, 1),
        (500, ServiceFailed, 1),
        (503, ServiceFailed, 3),
    ],
)
def test_every_error_has_its_class_and_its_remedy(service, orchestrator, answer, error, tries):
    service.next.extend([answer] * 3)

    with pytest.raises(error) as caught:
        orchestrator.get_status("a/b")

    assert len(service.asked) == tries
    assert service.asked[0][1] == "/api/training/jobs/a/b/status"
    assert f"as asked: {answer}" in caught.value.message
    assert caught.value.suggestion


def test_a_service_that_is_slow_is_not_waited_for_longer_than_asked(service):
    service.next.extend(["slow"] * 2)
    with (
        TrainingOrchestrator(service.url, key=KEY, timeout=0.2, retries=1) as orchestrator,
        pytest.raises(ServiceUnreachable, match="ReadTimeout"),
    ):
        orchestrator.get_status("x")


def test_where_nobody_answers_the_remedy_is_said(service):
    url = service.url
    service.stop()
    with (
        TrainingOrchestrator(url, key=KEY, retries=1) as orchestrator,
        pytest.raises(ServiceUnreachable) as caught,
    ):
        orchestrator.get_status("x")

    assert "trainctl serve" in caught.value.suggestion


def test_the_key_comes_from_the_environment_and_is_never_shown(service, monkeypatch, tmp_path):
    file = tmp_path / "key"
    file.write_text(KEY)
    file.chmod(0o600)
    monkeypatch.setenv("TRAINING_ORCHESTRATOR_URL", service.url)
    monkeypatch.setenv("TRAINING_ORCHESTRATOR_API_KEY", f"secret://file{file}")
    with TrainingOrchestrator() as orchestrator:
        orchestrator.create_job(CONFIG)
        assert KEY not in repr(vars(orchestrator))
    with TrainingOrchestrator(key="to_wrong") as orchestrator, pytest.raises(NotPermitted):
        orchestrator.get_status("x")


def test_weights_that_are_not_what_was_trained_are_refused(service, orchestrator, tmp_path):
    orchestrator.create_job(CONFIG)
    copied = orchestrator.download_artifact(CONFIG.job_id, tmp_path / "to")
    assert copied.path == tmp_path / "to" / "adapter_model.safetensors"

    true = service._artifact

    def damaged(id: str) -> dict:
        answer = true(id)
        (tmp_path / "adapter_model.safetensors").write_bytes(b"weightz")
        return answer

    service._artifact = damaged
    with pytest.raises(IntegrityError, match="SHA-256"):
        orchestrator.download_artifact(CONFIG.job_id)


def said(id: int, kind: str, data: str) -> str:
    return f'id: {id}\nevent: {kind}\ndata: {{"type": "{kind}", "data": {data}}}\n\n'


def test_a_stream_that_breaks_off_goes_on_where_it_was(service, orchestrator):
    service.streams.extend(
        [
            [": hello\n\n", said(1, "metrics", '{"step": 1}'), "id: 2\ndata: {"],
            [said(2, "metrics", '{"step": 2}')],
            [said(3, "status", '{"state": "completed"}'), said(4, "metrics", "{}")],
        ]
    )

    found = list(orchestrator.events("x", after="0"))

    assert [(one.type, one.data) for one in found] == [
        ("metrics", {"step": 1}),
        ("metrics", {"step": 2}),
        ("status", {"state": "completed"}),
    ]
    cursors = [headers["last-event-id"] for _, _, headers in service.asked]
    assert cursors == ["0", "1", "2"]


def test_a_stream_of_a_job_that_is_not_there_is_an_error(service, orchestrator):
    service.next.append(404)

    with pytest.raises(JobNotFound):
        list(orchestrator.events("x"))


LIGHT = """
import sys, time
from gateway.client import TrainingOrchestrator
with TrainingOrchestrator("http://127.0.0.1:9", key="k") as one: pass
print([n for n in ("prefect", "fastapi", "pydantic", "torch", "sqlalchemy") if n in sys.modules])
"""


def test_a_client_of_a_service_imports_nothing_large():
    ended = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)

    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr
