"""Whether a model's files can be there, judged without importing anything heavy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.config.store_urls import is_store_url
from trainer.contract.errors import ModelNotFound

MODEL = ("config.json",)
OF_CLASSIFIERS = (
    *("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
    *("ForMultipleChoice", "RewardModel"),
)
"""How the classes of models end that give scores."""


def check_model_files(
    model: str, field: str = "training.model", needed: tuple[str, ...] = MODEL
) -> None:
    """Refuse a model that cannot be there, without importing anything heavy.

    Args:
        model: as the user names it.
        field: where, for the error.
        needed: files of which one must be there.

    Raises:
        ModelNotFound: `model` is a path, and no folder with such a file is there.
    """
    path = Path(model).expanduser()
    # owner/name may be a repository or a folder: it is judged as a folder only if one is there.
    if (looks_like_path(model) or path.exists()) and not any(
        (path / name).is_file() for name in needed
    ):
        if needed == MODEL and (path / "adapter_config.json").is_file():
            raise ModelNotFound(
                f"{field}: {path} is an adapter, not a model.",
                "Name its base as training.model and the folder as training.adapter to train it "
                "further; or merge it (merge: true), and name the merged model.",
            )
        what = f"has no {' or '.join(needed)}" if path.is_dir() else "is not a folder"
        raise ModelNotFound(f"{field}: {path} {what}.")


def check_writes(model: str, architectures: Sequence[str]) -> None:
    """Refuse a classifier as a model that is to write text.

    With a head that is tied to the embedding it would load, and write by weights that were trained
    for something else.

    Args:
        model: as the user names it.
        architectures: of its config.

    Raises:
        ModelNotFound: it is one.
    """
    if kind := next((kind for kind in architectures if kind.endswith(OF_CLASSIFIERS)), None):
        raise ModelNotFound(
            f"training.model: {model} is a {kind}, which writes no text.",
            "Name the model that it was made from; or train it further by method classify or reward.",
        )


def looks_like_path(model: str) -> bool:
    """Return whether a name can only mean a folder, whether it is there or not."""
    if is_store_url(model):
        return False
    return model.startswith((".", "/", "~")) or model.count("/") > 1
