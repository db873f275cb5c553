"""Memory is predicted by tracing, without holding it."""

import pytest

from tests.trainer.jobs import TINY_LLAMA
from trainer.config import TrainingConfig
from trainer.engine import memory_prediction as memory
from trainer.engine.memory_prediction import memory_gb, on_a_gpu, predicted

pytestmark = pytest.mark.xdist_group("torch")


def config(**settings) -> TrainingConfig:
    given = {"model": str(TINY_LLAMA), "dataset": "d", "per_device_train_batch_size": 4}
    return TrainingConfig.model_validate(given | {"gradient_checkpointing": False} | settings)


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("peft", [{"r": 8}, pytest.param(None, marks=pytest.mark.thorough)])
def test_two_layers_tell_of_four(peft, checkpointing):
    job = config(peft=peft, gradient_checkpointing=checkpointing)

    one, two, four = (memory._trace(job, 4, 128, layers=count) for count in (1, 2, 4))

    assert four == pytest.approx(one + 3 * (two - one), rel=0.01)


def test_what_is_traced_is_what_pytorch_holds():
    """The tensors that autograd keeps for the backward pass are counted by PyTorch itself."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(TINY_LLAMA)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.ones(4, 128, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved = sum(size for place, size in kept.items() if place not in weights)

    traced = memory._trace(config(peft=None), 4, 128, layers=4)

    assert loss.requires_grad
    assert saved < traced < 1.6 * saved  # besides what is kept, some is passing


def traced_once():
    """Return what traces a pass of one job once for each way, which takes a second."""
    found: dict[tuple[bool, int, int], float | None] = {}
    trace = memory._traced

    def traced(job: TrainingConfig, rows: int, length: int) -> float | None:
        key = bool(job.gradient_checkpointing), rows, length
        if key not in found:
            found[key] = trace(job, rows, length)
        return found[key]

    return traced


@pytest.mark.thorough
def test_gradient_checkpointing_is_chosen_where_it_would_not_fit_otherwise(monkeypatch):
    monkeypatch.setattr(memory, "_traced", traced_once())
    job = config(gradient_checkpointing="auto", per_device_train_batch_size=64)
    plain, saving = (
        memory_gb(job.model_copy(update={"gradient_checkpointing": choice}), 512)["peak"]
        for choice in (False, True)
    )
    assert saving < plain

    def chosen(gb: float, **more) -> bool:
        monkeypatch.setattr(memory, "available_gb", lambda *args: ("cpu", gb))
        return predicted(job, 512, **more)[0].gradient_checkpointing

    assert chosen(2 * plain) is False
    assert chosen((plain + saving) / 2) is True
    assert chosen(2 * plain, divisor=2) is True  # memory ran out in spite of what was predicted


def test_a_model_that_cannot_be_traced_is_reckoned(monkeypatch):
    traced = memory_gb(config(), 128)

    monkeypatch.setattr(memory, "_trace", lambda *args, **kwargs: 1 / 0)
    reckoned = memory_gb(config(), 128)

    assert reckoned["weights"] == traced["weights"]
    assert traced["activations"] / 3 < reckoned["activations"] < 3 * traced["activations"]


@pytest.mark.thorough
def test_what_a_gpu_elsewhere_holds_is_predicted_without_one(monkeypatch):
    job = config(dtype="bfloat16")
    model = memory.empty_model(job)
    here, _ = memory._parts(job, 64, model, "cpu", divisor=1, processes=1)

    found = on_a_gpu(config(), 64)  # dtype auto

    late = here["activations"] * (1 - 1 / memory.CPU_SPARE)  # what a CPU gives back late
    context = memory.OVERHEAD_GB["cuda"] - memory.OVERHEAD_GB["cpu"]
    assert found["gb"] == pytest.approx(here["peak"] - late + context, abs=1e-3)
    assert found["sure"] == "computed"
    monkeypatch.setattr(memory, "_trace", lambda *args, **kwargs: 1 / 0)
    spared, whole, unsure = (
        on_a_gpu(config(gradient_checkpointing=choice), 512) for choice in (True, False, "auto")
    )
    assert spared["gb"] < whole["gb"]
    assert unsure == spared  # used where memory is short
    assert unsure["sure"] == "guessed"
