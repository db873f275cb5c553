"""A reward model as a reward function: a sequence classifier with one score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config.model_files import check_model_files
from trainer.contract.errors import ConfigError, ModelNotFound
from trainer.contract.job_directory import MERGED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER = "adapter_config.json"
BATCH = 16  # answers scored at once
FIELD = "training.reward_model"


def model_in(path: str) -> str:
    """Return where in an artifact a reward model is loaded from: merged/, where there is one."""
    merged = Path(path).expanduser() / MERGED
    # A merged model spares looking for the base of the adapter.
    return str(merged) if (merged / "config.json").is_file() else path


def check_scorer(path: str) -> None:
    """Refuse a model whose files here show that it cannot be a reward model.

    Raises:
        ModelNotFound: it is a path, and no model is there.
        ConfigError: it is not a sequence classifier with one score.
    """
    path = model_in(path)
    check_model_files(path, FIELD, ("config.json", ADAPTER))
    folder = Path(path).expanduser()
    for name, fits in ((ADAPTER, _is_scoring_adapter), ("config.json", _is_scoring_model)):
        if (folder / name).is_file():
            if not fits(json.loads((folder / name).read_text(encoding="utf-8"))):
                raise ConfigError(
                    f"{FIELD}: {path} is not a sequence classifier with one score.",
                    "Train one with method: reward, and name its output folder.",
                )
            return


def _is_scoring_adapter(config: dict[str, Any]) -> bool:
    return config.get("task_type") == "SEQ_CLS"


def _is_scoring_model(config: dict[str, Any]) -> bool:
    kinds = config.get("architectures") or []
    labels = len(config.get("id2label") or "12")  # transformers writes labels unless there are two
    return any("ForSequenceClassification" in kind for kind in kinds) and labels == 1


class Scorer:
    """Scores answers by a model; an adapter is merged into its base in memory."""

    def __init__(self, path: str, device: Any) -> None:
        from trainer.data.endings import turn_end

        self.__name__ = "reward_model"
        self._model, self._tokenizer = _load(path)
        self._model.to(device).eval()
        self._device = device
        self._end = turn_end(self._tokenizer)

    def __call__(self, prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
        """Return the score of each prompt with its answer.

        Args:
            prompts: texts, or lists of messages.
            completions: the same, one for each prompt.
        """
        ids = [self._tokens(*pair) for pair in zip(prompts, completions, strict=True)]
        scores: list[float] = []
        for start in range(0, len(ids), BATCH):
            scores += self._scores(ids[start : start + BATCH])
        return scores

    def _tokens(self, prompt: Any, completion: Any) -> list[int]:
        """Return a prompt with its answer as the tokens that method reward learns to score."""
        from trainer.data.templates import ChatTemplate
        from trainer.data.texts import answered, tokens_of

        if isinstance(prompt, str):
            [(ids, _)] = answered(self._tokenizer, [(prompt, str(completion))])
            return ids
        text = ChatTemplate(self._tokenizer).render(prompt + completion, [])
        tokens = tokens_of(self._tokenizer, [text])
        ids, offsets = tokens["input_ids"][0], tokens["offset_mapping"][0]
        return self._end.added_to(text, ids, offsets)

    def _scores(self, rows: list[list[int]]) -> list[float]:
        import torch

        # Right padding: transformers looks for the last token that is not padding.
        batch = self._tokenizer.pad(
            {"input_ids": rows}, return_tensors="pt", padding_side="right"
        ).to(self._device)
        with torch.inference_mode():
            logits = self._model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits
        return [float(score) for score in logits[:, 0].float()]


def _load(path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer.

    Raises:
        ModelNotFound: it, or the base of an adapter, cannot be loaded.
    """
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from trainer.data.templates import ensure_chat_template

    check_scorer(path)
    path = model_in(path)
    source = str(Path(path).expanduser()) if Path(path).expanduser().exists() else path
    try:
        if (Path(source) / ADAPTER).is_file():
            kind = AutoPeftModelForSequenceClassification
            # Merged, since the adapter's extra products would be paid for at every answer.
            model = kind.from_pretrained(source, num_labels=1).merge_and_unload()
        else:
            model = AutoModelForSequenceClassification.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelNotFound(f"{FIELD}: {path} cannot be loaded: {reason}.") from error
    if model.config.num_labels != 1:
        raise ConfigError(f"{FIELD}: {path} has {model.config.num_labels} scores, not one.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id  # the score is that of the last other token
    ensure_chat_template(tokenizer)
    return model, tokenizer
