"""Predict what training holds in memory, without holding it.

    weights       bytes of every parameter, in the precision or the bits it is held in
    gradients     4 bytes per trained parameter (masters are float32)
    optimizer     its state per trained parameter, such as Adam's two moments in float32
    activations   what one forward and backward pass holds besides, at most

Activations are traced: PyTorch runs the pass on tensors that have shapes and no storage, and the
storages that would live at the same time are added up. That is done for one layer and for two; each
further layer adds what the second did. A model that cannot be traced is reckoned: per layer 34 ×
batch × length × hidden bytes in half precision, twice that in float32 (Korthikanti et al. 2022,
arXiv:2205.05198, equation 2, without the attention matrix, which fused attention does not keep); with
gradient checkpointing a layer's input each and one whole layer; and the logits about three times.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from trainer.config import TrainingConfig
from trainer.config.methods import METHODS
from trainer.contract.memory import ROOM
from trainer.engine.adapters import add_adapters
from trainer.engine.arguments import precision, split_batch
from trainer.engine.deprecations import deprecations_allowed
from trainer.engine.limits import longest_sequence
from trainer.engine.model import class_of, give_rows, load_architecture
from trainer.engine.parallelism import shares
from trainer.engine.quantization import weight_bytes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

GB = 1e9
OVERHEAD_GB = {"cuda": 0.8, "cpu": 0.6}
"""Python, torch and the libraries: CUDA's context on a GPU, main memory without one."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
GRADIENT_BYTES = 4
ACTIVATION_BYTES = 34  # per token, hidden unit and layer, in half precision
LOGIT_COPIES = 3  # the logits, their softmax and its gradient
CPU_SPARE = 1.75
"""Main memory that is freed is not given back at once: this factor on the activations was measured
on Llamas of 1 to 30 million parameters."""
UNKNOWN = ("yes", "no")
"""The classes where rows have not been read yet; transformers' number of them."""


def predicted(
    config: TrainingConfig,
    longest: int,
    *,
    divisor: int = 1,
    model: PreTrainedModel | None = None,
    processes: int = 1,
) -> tuple[TrainingConfig, dict[str, float]]:
    """Return the config with gradient checkpointing decided, and the memory it will take.

    auto: off where that fits into what is free, and where memory has not run out before.

    Args:
        config: the config.
        longest: tokens of the longest row, as `trainer.data.tally.Tally` has it.
        divisor: see `Status.batch_divisor`; above 1, memory ran out.
        model: see `memory_gb`.
        processes: see `memory_gb`.
    """
    length = longest_sequence(config, longest)
    wanted = config.gradient_checkpointing
    if config.peft and not config.peft.allows_gradient_checkpointing:
        wanted = False
    memory = None
    for choice in [False, True] if wanted == "auto" else [wanted]:
        if wanted == "auto" and not choice and divisor > 1:
            continue
        config = config.model_copy(update={"gradient_checkpointing": choice})
        # Checkpointing costs about a third more time, so it is tried without first.
        memory = memory_gb(config, length, divisor=divisor, model=model, processes=processes)
        # The remainder is for fragmentation and for what a prediction cannot know.
        if memory["peak"] <= ROOM * available_gb(processes)[1]:
            break
    assert memory  # noqa: S101 - for the type checker: at least one choice was looked at
    return config, memory


def memory_gb(
    config: TrainingConfig,
    length: int,
    *,
    divisor: int = 1,
    model: PreTrainedModel | None = None,
    processes: int = 1,
) -> dict[str, float]:
    """Return the parts of the peak in GB of 1e9 bytes, and their sum as `peak`.

    Args:
        config: the config; gradient_checkpointing is decided.
        length: tokens of a row.
        divisor: see `Status.batch_divisor`.
        model: the model, on whatever device; None: it is made without storage.
        processes: how many train together; all is of one of them.
    """
    model, kind = model or empty_model(config), available_gb()[0]
    return _parts(config, length, model, kind, divisor=divisor, processes=processes)[0]


def _parts(
    config: TrainingConfig,
    length: int,
    model: PreTrainedModel,
    kind: str,
    *,
    divisor: int,
    processes: int,
) -> tuple[dict[str, float], bool]:
    """Return what `memory_gb` returns, on a device of that kind, and whether it was traced."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    batch, accumulation = split_batch(
        config.per_device_train_batch_size, config.gradient_accumulation_steps, divisor
    )
    rows = batch * METHODS[config.method].sequences
    parts = {
        "weights": weight_bytes(model, config.quantization),
        "gradients": trained * GRADIENT_BYTES,
        "optimizer": trained * optimizer_bytes(config.optim),
    }
    # Models whose code cannot be traced get the formula: a rough answer is better than none.
    traced = _traced(config, rows, length)
    passing = traced or _reckoned(config, model, rows, length)
    # The first gradients come when most activations are gone; with accumulation they stay.
    kept = parts["gradients"] if accumulation > 1 else 0.0
    parts["activations"] = max(0.0, passing + kept - parts["gradients"])
    held = shares(config, processes)
    found = {name: held.get(name, 1.0) * size / GB for name, size in parts.items()}
    found["activations"] *= CPU_SPARE if kind == "cpu" else 1.0
    found["overhead"] = OVERHEAD_GB[kind]
    return {**found, "peak": sum(found.values())}, traced is not None


def on_a_gpu(config: TrainingConfig, longest: int, *, processes: int = 1) -> dict[str, Any]:
    """Return what each GPU of a machine elsewhere holds at the least, whatever there is here.

    Gradient checkpointing that is left to the trainer is counted in: it is used where memory is short.

    Returns:
        `gb` of 1e9 bytes; `sure`: computed, or guessed where the model cannot be traced.
    """
    length = longest_sequence(config, longest)
    checkpointing = bool(config.gradient_checkpointing)  # "auto" too
    if config.peft and not config.peft.allows_gradient_checkpointing:
        checkpointing = False
    # What auto stands for on every GPU of the last years.
    dtype = "bfloat16" if config.dtype == "auto" else config.dtype
    config = config.model_copy(update={"dtype": dtype, "gradient_checkpointing": checkpointing})
    model = empty_model(config)
    parts, is_traced = _parts(config, length, model, "cuda", divisor=1, processes=processes)
    return {"gb": round(parts["peak"], 4), "sure": "computed" if is_traced else "guessed"}


def available_gb(processes: int = 1) -> tuple[str, float]:
    """Return cuda or cpu, and the memory that is free there for each process."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return "cuda", torch.cuda.mem_get_info()[0] / GB
    return "cpu", psutil.virtual_memory().available / GB / processes


def optimizer_bytes(name: str) -> float:
    """Return what an optimizer of transformers keeps per trained parameter."""
    moments = {"sgd": 0, "adafactor": 0, "adagrad": 1, "rmsprop": 1, "lion": 1}
    count = next((n for kind, n in moments.items() if kind in name), 2)  # Adam and its kin: 2
    return count * (1 if "8bit" in name else 4)


def empty_model(config: TrainingConfig, layers: int | None = None) -> PreTrainedModel:
    """Return the model with its adapters on the meta device: shapes without storage.

    Args:
        config: the config.
        layers: how many layers to give it; None: all.

    Raises:
        ConfigError: there is no such model.
    """
    import torch

    architecture = load_architecture(config)
    if layers is not None:
        text = architecture.get_text_config()
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            # transformers refuses a config whose list is not as long as the model is deep.
            text.layer_types = text.layer_types[:layers]
    dtype = getattr(torch, precision(config)) if config.peft else torch.float32
    kind = class_of(config)
    with torch.device("meta"):
        model: PreTrainedModel = kind.from_config(
            architecture, dtype=dtype, trust_remote_code=config.trust_remote_code
        )
        new_tokens = give_rows(model, config)
        return add_adapters(model, config, new_tokens) if config.peft else model


def _traced(config: TrainingConfig, rows: int, length: int) -> float | None:
    """Return the bytes of one pass besides weights; None where the model cannot be traced."""
    try:
        layers: int = load_architecture(config).get_text_config().num_hidden_layers
        if layers <= 2:
            return _trace(config, rows, length, layers=layers)
        # Two layers, since the first shares the embeddings and the head with the rest: their
        # difference is what each further layer adds.
        one, two = (_trace(config, rows, length, layers=count) for count in (1, 2))
    except Exception:  # noqa: BLE001 - models are many, and most of their code is not ours
        return None
    return one + (two - one) * (layers - 1)


def _trace(config: TrainingConfig, rows: int, length: int, *, layers: int) -> float:
    """Return the most bytes that live at once in a forward and backward pass, without weights."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    half = BYTES[precision(config)] == 2
    model = empty_model(config, layers)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _give_shapes(model)
        model.train()
        if config.gradient_checkpointing is True:
            with deprecations_allowed():
                model.gradient_checkpointing_enable({"use_reentrant": False})
                model.enable_input_require_grads()
        tokens = torch.ones(rows, length, dtype=torch.long)
        autocast = torch.autocast("cpu", torch.bfloat16) if half else nullcontext()
        with living_storages() as living:
            with autocast:
                out = model(input_ids=tokens, use_cache=False, **_labels(config, tokens))
            if half:  # accelerate gives every output back in float32
                out.logits = out.logits.float()
            out.loss.backward()
        return float(living.most)


def _labels(config: TrainingConfig, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what makes the model compute a loss; a score's is over its row."""
    method = METHODS[config.method]
    if method.has_classes:  # a model of one score that is a number takes no whole ones
        outputs = len(config.labels or UNKNOWN)
        shape = (len(tokens), outputs)
        several = tokens.new_zeros(shape).float()
        return {"labels": several if config.several_labels else tokens[:, 0] * 0}
    return {"labels": tokens[:, 0].float() if method.is_classifier else tokens}


def _give_shapes(model: PreTrainedModel) -> None:
    """Move the model from the meta device to the fake CPU; tied weights stay tied."""
    import torch

    moved: dict[torch.Tensor, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, old in list(module._parameters.items()):
            if old is not None:
                new = moved.get(old)
                if new is None:
                    empty = torch.empty(old.shape, dtype=old.dtype)
                    new = moved[old] = torch.nn.Parameter(empty, requires_grad=old.requires_grad)
                module._parameters[name] = new
        for name, old in list(module._buffers.items()):
            if old is not None:
                module._buffers[name] = torch.empty(old.shape, dtype=old.dtype)


def living_storages() -> Any:
    """Return a mode under which the bytes of the storages that are made are counted: `most`."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.weak import WeakIdKeyDictionary

    # Most calls only ask where a tensor is.
    asks_device = torch.ops.prim.device.default

    class Living(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's own
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.now = self.most = 0
            self._seen = WeakIdKeyDictionary()

        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if function is asks_device:
                return function(*args)
            kwargs = kwargs or {}
            # What goes in was made outside, or is known already.
            for tensor in _tensors((*args, *kwargs.values())):
                self._seen.setdefault(tensor.untyped_storage(), 0)  # type: ignore[no-untyped-call]
            out = function(*args, **kwargs)
            for tensor in _tensors((out,)):
                self._count(tensor.untyped_storage())
            return out

        def _count(self, storage: Any) -> None:
            if storage in self._seen:
                return
            # By storage, not by tensor: views share one.
            size = self._seen[storage] = storage.nbytes()
            self.now += size
            self.most = max(self.most, self.now)
            # Called when the last tensor on it goes: what lives is what autograd keeps.
            weakref.finalize(storage, self._forget, size)

        def _forget(self, size: int) -> None:
            self.now -= size

    return Living()


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    import torch

    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _reckoned(config: TrainingConfig, model: PreTrainedModel, rows: int, length: int) -> float:
    """Return what `_traced` returns, by the formula at the top of this file."""
    from torch.nn import ModuleList

    tokens = rows * length
    # By what the model is made of: not every config says how wide and how deep it is.
    vocabulary, hidden = model.get_input_embeddings().weight.shape
    depth = max((len(part) for part in model.modules() if isinstance(part, ModuleList)), default=1)
    width = BYTES[precision(config)] / 2  # 34 bytes are for half precision
    layer = ACTIVATION_BYTES * width * hidden * tokens
    layers = depth * layer
    if config.gradient_checkpointing is True:
        layers = depth * 2 * width * hidden * tokens + layer
    outputs = len(config.labels or [1]) if METHODS[config.method].is_classifier else vocabulary
    logits = LOGIT_COPIES * 4 * outputs * tokens
    return float(layers + logits)
