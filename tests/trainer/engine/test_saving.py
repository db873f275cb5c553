"""Saving beside training: what is written is what was so when the save was asked for."""

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.trainer.jobs import Job
from trainer.contract.errors import TrainingFailed
from trainer.contract.job_directory import JobState
from trainer.contract.manifest import verify
from trainer.contract.metrics import read_metrics

pytestmark = pytest.mark.xdist_group("torch")
WIDE = 1 << 30  # bytes; everything fits
PATIENCE = 60  # seconds


@pytest.fixture(scope="module")
def saving():
    """The module, which imports torch: only where these tests run."""
    from trainer.engine import saving

    return saving


def content():
    import torch

    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    return {"state": {0: {"step": torch.tensor(3.0), "mean": weight}}, "groups": [{"lr": 0.5}]}


def test_what_is_written_later_is_what_was_so_before(saving, tmp_path):
    import safetensors.torch
    import torch

    state, weights = content(), {"w": torch.ones(3)}
    with saving.writes_put_off(WIDE, saving.Copies()) as writes:
        torch.save(state, tmp_path / "optimizer.pt")
        safetensors.torch.save_file(weights, tmp_path / "w.safetensors", metadata={"a": "b"})
    assert list(tmp_path.iterdir()) == []

    with torch.no_grad():
        state["state"][0]["mean"].zero_()
    state["groups"][0]["lr"] = 0.1
    weights["w"].zero_()
    for write in writes:
        write()

    written = torch.load(tmp_path / "optimizer.pt")
    assert written["state"][0]["mean"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (written["state"][0]["step"], written["groups"]) == (3, [{"lr": 0.5}])
    assert safetensors.torch.load_file(tmp_path / "w.safetensors")["w"].tolist() == [1, 1, 1]


def test_what_only_the_optimizer_changes_is_copied_before_it_does(saving, tmp_path):
    import torch

    model = torch.nn.BatchNorm1d(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    model(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    expected = [{n: each.clone() for n, each in model.state_dict().items()}]
    expected += [each["exp_avg"].clone() for each in optimizer.state.values()]
    copies, steady = saving.Copies(), saving.steady_memory(model, optimizer)
    with saving.writes_put_off(WIDE, copies, steady) as writes:
        torch.save(model.state_dict(), tmp_path / "model.pt")
        torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")

    model(torch.randn(4, 3)).square().sum().backward()  # which changes what is no parameter
    copies.wait()
    optimizer.step()
    for write in writes:
        write()

    assert len(steady) == 8, "two parameters, and of each three of the optimizer's"
    written, state = (torch.load(tmp_path / f"{name}.pt") for name in ("model", "optimizer"))
    found = [written, *(each["exp_avg"] for each in state["state"].values())]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_copy_that_fails_is_told_to_who_waits_and_to_who_writes(saving, monkeypatch):
    import torch

    copies, weight = saving.Copies(), torch.ones(3)
    copied = copies.of([weight], {weight.untyped_storage().data_ptr()})
    monkeypatch.setattr(saving, "_copy_of", lambda _: 1 / 0)
    copies.start()

    for ask in (copies.wait, copied):
        with pytest.raises(ZeroDivisionError):
            ask()
    copies.wait()


def test_an_optimizer_that_may_change_weights_meanwhile_is_not_relied_on(saving):
    import torch

    class Layerwise(torch.optim.AdamW):
        """One of another library."""

    model = torch.nn.Linear(2, 2)

    assert saving.steady_memory(model, Layerwise(model.parameters())) == set()


def test_layers_that_change_their_weights_in_passing_are_not_relied_on(saving):
    import peft
    import torch

    plain = torch.nn.Sequential(torch.nn.Linear(8, 8))
    config = peft.OFTConfig(target_modules=["0"], oft_block_size=4, coft=True, eps=1e-3)
    rotated = peft.get_peft_model(plain, config)
    optimizer = torch.optim.AdamW([p for p in rotated.parameters() if p.requires_grad], lr=0.5)
    rotated(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    before = [p.detach().clone() for p in optimizer.param_groups[0]["params"]]
    steady = saving.steady_memory(rotated, optimizer)

    rotated(torch.ones(1, 8))

    after = optimizer.param_groups[0]["params"]
    assert any((a != b).any() for a, b in zip(after, before, strict=True)), "then it may be steady"
    assert steady == set()


@pytest.mark.parametrize(
    ("own_code", "steady"),
    [({}, 2), ({"callbacks": ["x.py:y"]}, 0), ({"trust_remote_code": True}, 0)],
    ids=["none", "callbacks", "of the model"],
)
def test_code_that_is_not_ours_may_change_weights_at_any_time(saving, own_code, steady):
    import torch

    from trainer.engine.job_trainer import JobTrainer

    model = torch.nn.Linear(2, 2)
    config = SimpleNamespace(**{"callbacks": [], "trust_remote_code": False, **own_code})
    optimizer = torch.optim.AdamW(model.parameters())
    trainer = SimpleNamespace(run=SimpleNamespace(config=config), model=model, optimizer=optimizer)

    assert len(JobTrainer._steady(trainer)) == steady


def test_a_file_written_later_is_the_same_to_the_last_bit(saving, tmp_path):
    import torch

    book, paged = torch.arange(256.0), torch.ones(9)
    paged.is_paged = True  # as bitsandbytes marks what may leave the GPU
    state = {"a": book, "b": [book, paged], "c": {"lr": 0.5}}
    (tmp_path / "at-once").mkdir()
    (tmp_path / "later").mkdir()

    torch.save(state, tmp_path / "at-once" / "optimizer.pt")
    with saving.writes_put_off(WIDE, saving.Copies()) as writes:
        torch.save(state, tmp_path / "later" / "optimizer.pt")
    writes[0]()

    at_once, later = (path.read_bytes() for path in sorted(tmp_path.glob("*/*")))
    assert at_once == later


def test_what_does_not_fit_or_cannot_be_copied_is_written_at_once(saving, tmp_path):
    import torch

    with saving.writes_put_off(100, saving.Copies()) as writes:
        torch.save(torch.zeros(20), tmp_path / "fits.pt")
        torch.save(torch.zeros(20), tmp_path / "no-longer-fits.pt")
        torch.save(torch.zeros(2, 2).to_sparse(), tmp_path / "sparse.pt")
        torch.save({"what": object}, tmp_path / "thing.pt")

    assert len(writes) == 1
    assert not (tmp_path / "fits.pt").exists()
    assert len(list(tmp_path.iterdir())) == 3


def test_afterwards_writers_are_what_they_were(saving, tmp_path):
    import torch

    before = torch.save
    with pytest.raises(ZeroDivisionError), saving.writes_put_off(WIDE, saving.Copies()):
        1 / 0  # noqa: B018

    assert torch.save is before


@pytest.mark.parametrize(
    ("values", "finite"),
    [
        ([[1.0, -2.0], [0.0]], True),
        ([[3e38, 3e38], [1.0]], True),  # their sum is infinite
        ([[1.0], [float("nan"), 1.0]], False),
        ([[float("inf"), float("-inf")]], False),
        ([[1.0], []], True),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_element_that_is_not_finite_is_found(saving, values, finite, dtype):
    import torch

    tensors = [torch.tensor(row, dtype=getattr(torch, dtype)) for row in values]

    assert saving.all_finite(tensors) is finite


def test_saves_are_done_one_at_a_time_and_in_order(saving):
    done, go = [], threading.Event()
    with saving.Saves() as saves:
        saves.begin(lambda: done.append(go.wait(PATIENCE)))
        saves.check()  # not over yet
        assert done == []
        threading.Timer(0.05, go.set).start()
        saves.begin(lambda: done.append("second"))
        assert done[0] is True

    assert done == [True, "second"]


def test_a_save_that_failed_is_told_once_and_hides_no_other_failure(saving):
    def fail() -> None:
        raise TrainingFailed("No.")

    saves = saving.Saves()
    with pytest.raises(TrainingFailed), saves:
        saves.begin(fail)
    saves.check()
    saves.begin(fail)
    with pytest.raises(ZeroDivisionError), saves:
        1 / 0  # noqa: B018


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, make_job, saving) -> tuple[Job, Job]:
    """The same job, with saves at once, and with saves that are held up until later steps."""
    root = tmp_path_factory.mktemp("saving")
    settings = {"peft": None, "max_steps": 8, "save_steps": 4, "save_total_limit": 9}
    at_once = make_job(root / "at-once", async_save=False, **settings)
    assert at_once.train() is JobState.COMPLETED
    beside = make_job(root / "beside", **settings)
    sync, training = os.fsync, threading.current_thread()

    def slow_sync(descriptor: int) -> None:
        if threading.current_thread() is not training and beside.saved_steps == []:
            went_on.wait(PATIENCE)
            held_up.append(6 in beside.metrics)
        sync(descriptor)

    went_on, held_up = threading.Event(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", slow_sync)
        _copy_as_late_as_can_be(saving, patch)
        watcher = threading.Thread(target=_tell_of_step, args=(beside, 6, went_on))
        watcher.start()
        assert beside.train() is JobState.COMPLETED
        watcher.join()
    assert held_up
    assert all(held_up), "training did not go on while the first checkpoint was written"
    return at_once, beside


def _copy_as_late_as_can_be(saving, patch: pytest.MonkeyPatch) -> None:
    """Let nothing be copied before the optimizer waits for it, or the training is over."""
    waited, start = threading.Event(), saving.Copies.start
    copy_into, wait, end = saving._copy_into, saving.Copies.wait, saving.Saves.__exit__

    def copy_late(*args):
        waited.wait(PATIENCE)
        waited.set()  # or each tensor would take as long
        copy_into(*args)

    patch.setattr(saving, "_copy_into", copy_late)
    patch.setattr(saving.Copies, "start", lambda self: waited.clear() or start(self))
    patch.setattr(saving.Copies, "wait", lambda self: waited.set() or wait(self))
    patch.setattr(saving.Saves, "__exit__", lambda self, *why: waited.set() or end(self, *why))


def _tell_of_step(job: Job, step: int, event: threading.Event) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and step not in read_metrics(job.directory.metrics)[0]:
        time.sleep(0.01)
    event.set()


def test_a_checkpoint_written_beside_training_is_the_same_to_the_last_bit(both):
    for step in (4, 8):
        at_once, beside = (verify(job.checkpoint(step))["files"] for job in both)
        for files in (at_once, beside):
            del files["trainer_state.json"]  # it holds times
        assert at_once == beside
        assert len(at_once) > 5


def test_saving_beside_training_changes_nothing(both):
    at_once, beside = both

    assert (at_once.curve, at_once.weights) == (beside.curve, beside.weights)


def test_an_error_of_the_writer_ends_the_training(tmp_path, make_job, monkeypatch):
    sync, training = os.fsync, threading.current_thread()

    def broken_sync(descriptor: int) -> None:
        if threading.current_thread() is not training:
            raise OSError(5, "Input/output error")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", broken_sync)
    job = make_job(tmp_path / "job", max_steps=500, save_steps=2)

    with pytest.raises(TrainingFailed, match="Input/output error"):
        job.train()

    assert max(job.metrics) < 100
    assert list(Path(job.directory.checkpoints).glob("**/*")) == []


def test_a_container_has_less_memory_than_its_computer(saving, tmp_path, monkeypatch):
    for name, text in {
        "memory.max": "1000",
        "memory.current": "900",
        "memory.stat": "anon 5\ninactive_file 300\n",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(saving, "CGROUP", tmp_path)

    assert saving.memory_for_copies() == 200

    (tmp_path / "memory.max").write_text("max\n")
    assert saving.memory_for_copies() > 1 << 20
