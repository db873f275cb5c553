"""Upload a whole output to the Hub. A failed upload never loses the output."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import TrainingConfig
from trainer.config.code_references import is_reference, split_reference
from trainer.contract.errors import ConfigError
from trainer.contract.files import read_json, replace_json
from trainer.contract.manifest import verify
from trainer.results.model_card import is_on_hub, model_card
from trainer.results.summary import Summary

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

FIELD = "training.push_to_hub"
PAUSES = (5.0, 30.0, 120.0)  # seconds between two attempts; each request is tried again by itself
REFUSED = range(400, 429)  # what another attempt does not change; 429 is: too many requests
BIG = 10 << 20  # bytes; to bring a bigger file there takes a while
BASES = ("base_model_name_or_path", "tokenizer_name_or_path")
CARD, ADAPTER_CONFIG = "README.md", "adapter_config.json"


def check_token(config: TrainingConfig) -> None:
    """Check that there is a token to upload with, without asking whether it is valid.

    Raises:
        ConfigError: there is none.
    """
    if config.push_to_hub is None:
        return
    from huggingface_hub import get_token  # a third of a second, for those who upload

    if not get_token():
        raise ConfigError(
            f"{FIELD} = {config.push_to_hub!r}: there is no token to upload with.",
            "Set HF_TOKEN in the environment to a token that may write, or run: hf auth login",
        )


def check_hub(config: TrainingConfig) -> None:
    """Ask the Hub, before training, whether the token may write there; warn if it is out of reach.

    Raises:
        ConfigError: the token is missing, expired or read-only, or belongs to another owner.
    """
    if config.push_to_hub is None:
        return
    check_token(config)
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.is_offline_mode():
        raise ConfigError(
            f"{FIELD} = {config.push_to_hub!r}: HF_HUB_OFFLINE does not allow access to the Hub.",
            "Unset HF_HUB_OFFLINE, or leave push_to_hub out.",
        )
    api = _api()
    try:
        _refuse_others(config.push_to_hub, api.whoami())
    except HfHubHTTPError as error:
        if _status(error) in {401, 403}:
            raise ConfigError(
                f"{FIELD} = {config.push_to_hub!r}: {api.endpoint} does not accept the token.",
                "It may have expired: make one that may write, and set HF_TOKEN to it.",
            ) from error
        _say(f"warning: {api.endpoint} cannot be asked about the token now: {_sentence(error)}")
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - without a network it can still train
        _say(f"warning: {api.endpoint} cannot be reached now: {_sentence(error)}")


def push_output(folder: Path, config: TrainingConfig, done: Path) -> str:
    """Upload an output, a few times if need be; return a warning for a person, if there is one.

    Args:
        folder: a whole output.
        config: the job's settings as its user gave them.
        done: the file that records the upload; a resumed job does not upload again.
    """
    repository = config.push_to_hub
    # Also after a restart between the upload and the end of the job.
    if repository is None or (read_json(done) or {}).get("repository") == repository:
        return ""
    for pause in (*PAUSES, None):
        try:
            url = _push(folder, config, repository)
        except Exception as error:  # noqa: BLE001 - whatever it is, the output is there
            reason = _sentence(error)
            # Refused is refused: waiting changes nothing about a missing permission.
            if pause is None or _status(error) in REFUSED:
                break
            _say(f"warning: not uploaded to {repository}: {reason}; again in {pause:g} s")
            time.sleep(pause)
        else:
            replace_json(done, {"repository": repository, "url": url})
            _say(f"uploaded to {url}")
            return ""
    warning = f"the result was NOT uploaded to {repository}: {reason}"
    _say(f"warning: {warning}")
    return warning


def published(config: TrainingConfig) -> TrainingConfig:
    """Return the settings as others may read them: names instead of paths of this computer."""
    dataset = config.dataset.with_files(lambda _, path: _name(path))
    return config.model_copy(
        update={
            "model": _name(config.model),
            "dataset": dataset,
            "reward_model": _name(config.reward_model),
            # Its address may be one of a network that is nobody else's business.
            "reward_judge": config.reward_judge
            and config.reward_judge.model_copy(update={"base_url": "…"}),
            "reward_functions": [_name(text) for text in config.reward_functions],
            "callbacks": [_name(text) for text in config.callbacks],
            "formatting": _name(config.formatting),
        }
    )


def _push(folder: Path, config: TrainingConfig, repository: str) -> str:
    api = _api()
    # exist_ok: a second run adds a commit to the same repository.
    api.create_repo(repository, private=config.hub_private_repo, exist_ok=True)
    # One commit for all files, so that nobody downloads half a result.
    operations = list(_operations(folder, config))
    for operation in operations:  # one by one: a line for each is a sign of life
        api.preupload_lfs_files(repository, [operation], free_memory=False)
        if operation.upload_info.size > BIG:
            _say(f"uploaded {operation.path_in_repo}, {operation.upload_info.size / 1e6:.0f} MB")
    title = f"Trained by {config.method} on {published(config).model}"
    commit = api.create_commit(repository, operations, commit_message=title)
    return str(commit.commit_url)


def _operations(folder: Path, config: TrainingConfig) -> list[CommitOperationAdd]:
    """Return what to upload: the files of the manifest, those that name paths written anew."""
    from huggingface_hub import CommitOperationAdd

    manifest = verify(folder)
    public = published(config)
    summary = Summary(
        config=public,
        metrics=manifest.get("metrics", {}),
        data=manifest.get("data", {}),
        made=manifest.get("training", {}),
    )
    anew: dict[str, str] = {CARD: model_card(summary, place=config.push_to_hub or ".")}
    if adapter := read_json(folder / ADAPTER_CONFIG):
        named = {key: public.model for key in BASES if adapter.get(key)}
        # PEFT writes where the base was loaded from; a path of ours would be published.
        anew[ADAPTER_CONFIG] = json.dumps(adapter | named, indent=2, sort_keys=True) + "\n"
    contents: dict[str, Any] = {name: folder / name for name in manifest["files"]}
    contents |= {name: text.encode() for name, text in anew.items()}
    return [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        for name, content in contents.items()
    ]


def _name(text: Any) -> Any:
    """Return a name of the Hub or of ours as it is, and only the last part of a path."""
    if text is None:
        return None
    if is_reference(text):
        path, name = split_reference(text, "formatting")
        return f"{path.name}:{name}"
    return text if is_on_hub(text) or "/" not in text else Path(text).expanduser().absolute().name


def _refuse_others(repository: str, who: dict[str, Any]) -> None:
    owner = repository.split("/")[0]
    owners = [str(who.get("name")), *(str(group.get("name")) for group in who.get("orgs") or [])]
    if owner not in owners:
        raise ConfigError(
            f"{FIELD} = {repository!r}: the token belongs to {', '.join(owners)}, not to {owner}.",
            f"Write {owners[0]}/{repository.split('/')[1]}, or use a token of {owner}.",
        )
    token = (who.get("auth") or {}).get("accessToken") or {}
    # Fine-grained tokens have another role, and only the upload shows what they may do.
    if token.get("role") == "read":
        raise ConfigError(
            f"{FIELD} = {repository!r}: the token may only read.",
            "Make one that may write, and set HF_TOKEN to it.",
        )


def _api() -> HfApi:
    from huggingface_hub import HfApi, get_token

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=get_token())


def _sentence(error: BaseException) -> str:
    cause = _cause(error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0] if lines else 'no reason given'}".rstrip(".")[:300]


def _status(error: BaseException) -> int:
    return int(getattr(getattr(_cause(error), "response", None), "status_code", 0))


def _cause(error: BaseException) -> BaseException:
    """Return the error that has an HTTP response, else the first of the chain."""
    while error.__cause__ and not hasattr(error, "response"):
        error = error.__cause__
    return error


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - standard output is the job's log
