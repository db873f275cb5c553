"""Which linear layers can carry an adapter: those that the model calls, and calls as linear layers.

PEFT wraps a layer, so an adapter counts only where the layer itself is called. A fused kernel that is
given the layer's weight passes the adapter by, without a word; and some layers are linear by their
class alone, such as routers that return more than a product.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from trainer.config import TrainingConfig
from trainer.config.peft import ALL_LINEAR
from trainer.contract.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

OURS_TO_READ = "transformers.models."
"""Where the models are whose code is read; classes of quantised layers stand elsewhere."""


def check_targets(model: nn.Module, wanted: str | list[str]) -> None:
    """Refuse layers that are named and cannot carry an adapter.

    Args:
        model: without adapters.
        wanted: see `named`.

    Raises:
        ConfigError: naming the layer and why.
    """
    for path, why in _unfit(model):
        if name := named(path, wanted):
            raise ConfigError(
                f"training.peft.target_modules: {name} cannot carry an adapter in "
                f"{type(model).__name__}: {why}.",
                "Remove it, or use target_modules: all-linear, which leaves it out.",
            )


def not_adapted(model: nn.Module, config: TrainingConfig, error: Exception) -> ConfigError:
    """Return in our words why PEFT puts no adapters on a model.

    Args:
        model: as PEFT has left it, with adapters on the layers before the one that it refuses.
        config: the job's settings.
        error: what PEFT has raised.
    """
    fields = ("target_modules", "layers_to_transform", "exclude_modules")
    given = {field: value for field in fields if (value := getattr(config.peft, field, None))}
    wanted = given.get("target_modules", ALL_LINEAR)
    kind = getattr(config.peft, "peft_type", "lora")
    paths = ((path, layer) for path, layer in model.named_modules() if path)
    meant = [(path, layer) for path, layer in paths if _is_meant(path, layer, wanted)]
    if not meant or "not found in the base" in str(error) or "No modules were" in str(error):
        which = ", ".join(f"{field} = {value!r}" for field, value in given.items())
        return ConfigError(
            f"training.peft: no layer of {config.model} gets an adapter: {which} fit none.",
            "Use target_modules: all-linear, or names of layers that this model has.",
        )
    if isinstance(error, TypeError) or "not supported" in str(error):
        path, layer = min(meant, key=lambda one: _is_plain(one[1]))
        is_named = wanted != ALL_LINEAR
        return ConfigError(
            f"training.peft.{'target_modules' if is_named else 'peft_type'}: {kind} cannot be put on "
            f"{path} of {config.model}, a {type(layer).__name__}.",
            f"{'Leave it out, or set' if is_named else 'Set'} peft_type: lora.",
        )
    return ConfigError(
        f"training.peft: {kind} cannot be put on {config.model}: {str(error).splitlines()[0]}",
        "Use target_modules: all-linear, or another peft_type.",
    )


def _is_meant(path: str, layer: nn.Module, wanted: str | list[str]) -> bool:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if wanted == ALL_LINEAR:
        return isinstance(layer, nn.Linear | Conv1D)
    return bool(named(path, wanted))


def _is_plain(layer: nn.Module) -> bool:
    from torch import nn

    # Those that PEFT has adapted before it came to the one that it refuses have a base layer.
    return isinstance(layer, nn.Linear) or hasattr(layer, "base_layer")


def named(path: str, wanted: str | list[str]) -> str:
    """Return by which name a layer is meant, as PEFT takes names; empty where it is not.

    Args:
        path: of the layer.
        wanted: the ends of layers' paths, or a regular expression of whole ones.
    """
    if isinstance(wanted, str):
        return path if re.fullmatch(wanted, path) else ""
    return next((name for name in wanted if path == name or path.endswith(f".{name}")), "")


def refuse_lost(adapted: PreTrainedModel) -> None:
    """Refuse adapters that PEFT would not find again by the names that it saves them under.

    transformers renames weights of older checkpoints when it loads them, and PEFT those of adapters
    with them. Where that hits a name of today, a checkpoint or a result has lost the weights.

    Raises:
        ConfigError: naming the layers.
    """
    import peft

    if adapted.active_peft_config.is_prompt_learning:
        return
    # Nothing of the Hub is asked for what an adapter holds besides.
    weights = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    missing = peft.set_peft_model_state_dict(adapted, weights).missing_keys
    lost = [name for name in missing if name.replace(".default", "") in weights]
    if not lost:
        return
    names = sorted({".".join(name.partition(".lora_")[0].split(".")[-2:]) for name in lost})
    raise ConfigError(
        f"training.peft: PEFT loses the adapters of {', '.join(names)} when it loads them, "
        "for it renames their weights.",
        f"Leave these layers out: peft: {{exclude_modules: [{', '.join(names)}]}}.",
    )


def unfit_targets(model: nn.Module) -> dict[str, str]:
    """Return the linear layers that cannot carry an adapter by their last two names, and why."""
    return {".".join(path.split(".")[-2:]): why for path, why in _unfit(model)}


def beside_text(model: PreTrainedModel) -> list[str]:
    """Return the linear layers that no text goes through, such as those of a vision tower.

    An adapter there has no gradient, for which several processes would wait.
    """
    from torch import nn

    if model.config.get_text_config() is model.config:
        return []
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    of_text = {id(module) for module in decoder.modules()} | {id(head)}
    return [
        path
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and id(layer) not in of_text
    ]


def _unfit(model: nn.Module) -> Iterator[tuple[str, str]]:
    from torch import nn

    for path, layer in model.named_modules():
        kind = type(layer)
        if not kind.__module__.startswith(OURS_TO_READ):
            continue
        if isinstance(layer, nn.Linear):
            if kind.forward is not nn.Linear.forward and _is_more(kind.forward):
                yield path, f"a {kind.__name__} is more than a product"
            continue
        linear = {name for name, child in layer.named_children() if isinstance(child, nn.Linear)}
        for name in linear & _read_past(kind):
            yield f"{path}.{name}", f"{kind.__name__} reads its weight past it"


def _is_more(forward: Callable[..., object]) -> bool:
    """Whether a forward of its own returns several things, or takes its weight for several."""
    source = textwrap.dedent(_source(forward))
    returned = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Return))
    is_parted = re.search(r"self\.weight\.(?:view|reshape|unflatten)|self\.weight\[", source)
    return bool(is_parted) or any(isinstance(value, ast.Tuple) for value in returned)


def _read_past(kind: type[nn.Module]) -> set[str]:
    """Return the names of layers whose weights a class computes with, instead of calling them."""
    uses = r"self\.(\w+)\.weight\b(?!\.(?:dtype|device|shape|requires_grad)|\[)"
    return set(re.findall(uses, _source(kind)))  # type: ignore[arg-type] # classes are hashable


@functools.cache
def _source(code: Callable[..., object]) -> str:
    """Return the code of a class or function; nothing where there is none to read."""
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):
        return ""
