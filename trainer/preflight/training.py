"""The checks of a training config: its model, packages, code and data. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from trainer.config import FOREIGN_DATA
from trainer.config.adapter_files import FIELD, check_adapter
from trainer.config.chat_templates import template_text
from trainer.config.code_references import check_code, code_hashes, references
from trainer.config.extras import check_extras, check_trainer, extras_of
from trainer.config.methods import METHODS
from trainer.config.model_code import check_model_code
from trainer.config.model_files import check_model_files, check_writes
from trainer.contract.files import read_json
from trainer.data import inspect_dataset
from trainer.data.classes import check_classes, in_words
from trainer.data.problems import listed
from trainer.data.reading import is_elsewhere
from trainer.data.tally import ignored
from trainer.preflight.table import Check, Finding, Needs, Subject
from trainer.results.combining import check_addable, refused_as
from trainer.results.gguf import check_export
from trainer.results.hub import check_hub
from trainer.rewards.assembly import check_columns
from trainer.rewards.judge import check_key
from trainer.rewards.scorer import check_scorer


def _model(subject: Subject) -> Finding:
    config = subject.config
    if config.trainer in FOREIGN_DATA:
        # Image models are single files, or folders of diffusers.
        if config.trainer != "command" and not Path(config.model).expanduser().is_file():
            check_model_files(config.model, needed=("model_index.json", "config.json"))
        return Finding(f"{config.model}; the command loads it")
    check_model_files(config.model)
    check_export(config)
    code = check_model_code(config)
    own = f"; {code}" if code else ""
    folder = Path(config.model).expanduser()
    if not METHODS[config.method].is_classifier and config.init != "random":
        known = read_json(folder / "config.json") or {}
        check_writes(config.model, known.get("architectures") or ())
    if not folder.exists():
        text = f"{config.model} on the Hub; it is fetched when the job starts{own}"
        return Finding(text, {"on_hub": True})
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    weights = f"{size / 1e6:.1f} MB of weights" if size else "no weights"
    return Finding(f"{config.model}, {weights}{own}", {"path": str(folder), "weight_bytes": size})


def _adapter(subject: Subject) -> Finding:
    config = subject.config
    scores = METHODS[config.method].is_classifier
    known = [check_adapter(name, config.model, scores=scores) for name in config.adapters]
    here = [folder for name in config.adapters if (folder := Path(name).expanduser()).is_dir()]
    if len(here) > 1:
        with refused_as(FIELD):
            check_addable(here)
    return Finding(f"{' + '.join(known)}{', merged into one' if len(known) > 1 else ''}")


def _chat_template(subject: Subject) -> Finding:
    name = str(subject.config.chat_template)
    return Finding(f"{name}, {len(template_text(name)):,} characters")


def _packages(subject: Subject) -> Finding:
    config = subject.config
    found = check_trainer() if config.trainer == "builtin" else {}
    check_extras(config)
    shown = [f"{name} {found[name]}" for name in ("torch", "transformers", "trl") if name in found]
    return Finding(f"{', '.join([*shown, *extras_of(config)])}, here", {"versions": found})


def _code(subject: Subject) -> Finding:
    check_code(subject.config, elsewhere=set(subject.away.values()))
    # Files of another computer cannot be hashed here; that is done where they are.
    hashes = {} if subject.away else code_hashes(subject.config)
    return Finding(f"{', '.join(hashes)}; read, not run", {"sha256": hashes})


def _reward_model(subject: Subject) -> Finding:
    name = str(subject.config.reward_model)
    check_scorer(name)
    return Finding(name)


def _judge(subject: Subject) -> Finding:
    judge = subject.config.reward_judge
    assert judge is not None  # noqa: S101 - see `applies`
    check_key(judge)
    keyed = f"by the key in {judge.api_key_variable}" if judge.api_key_variable else "without a key"
    return Finding(f"{judge.model} at {judge.base_url}, {keyed}; it is not asked here")


def _dataset(subject: Subject) -> Finding:
    config = subject.config
    if config.trainer in FOREIGN_DATA:
        return Finding(f"{config.dataset.path}; the command knows how it is laid out")
    if later := _checked_later(subject):
        return Finding(f"{config.dataset.title} {later}; its rows are checked when it starts")
    report = inspect_dataset(config)
    bad = f"{report.bad_rows:,} that cannot be used: skipped" if report.bad_rows else "no bad rows"
    text = (
        f"{report.rows:,} row{'' if report.rows == 1 else 's'}, format {report.format}, {report.bytes / 1e6:.2f} MB, "
        f"{report.mean_characters:.0f} characters a row, {bad}"
    )
    if report.sources:
        each = zip(config.dataset.names(), report.sources, strict=True)
        text = f"{', '.join(f'{name} {one.rows:,}' for name, one in each)}; together {text}"
    if METHODS[config.method].has_classes:
        text += f"; {in_words(report.labels)}"
        held_out = report.evaluation.labels if report.evaluation else None
        check_classes(config, report.labels, report.rows - report.bad_rows, held_out)
    if METHODS[config.method].generates:
        check_columns(config, report.columns)
    if config.dataset.streaming:
        text = f"a stream; of its first rows {text}; the others are checked as they are read"
    if report.evaluation:
        text += f"; {report.evaluation.rows:,} rows to evaluate on"
    evaluated = report.evaluation.files if report.evaluation else ()
    if unread := [name for name in report.unread_files if name not in evaluated]:
        text += f"; files not read: {listed(unread)}"
    if report.unread:
        text += f"; not read by anything: {ignored(report.unread)}"
    return Finding(text, asdict(report))


def _checked_later(subject: Subject) -> str:
    """Return why only the trainer can look at the rows; it can look at all of them."""
    if subject.job is None:
        return ""
    dataset = subject.config.dataset
    if subject.config.formatting:  # the user's code, which nothing runs here
        return "is formatted by the trainer"
    on_hub = [
        p for _, p in dataset.files() if is_elsewhere(p) and not Path(p).expanduser().exists()
    ]
    return "is not on this computer" if on_hub else ""


def _hub(subject: Subject) -> Finding:
    check_hub(subject.config)
    return Finding(str(subject.config.push_to_hub))


TRAINING = (
    Check(name="model", look=_model, reads=("training.model",)),
    Check(
        name="adapter",
        look=_adapter,
        applies=lambda s: s.config.adapter is not None,
        after="earlier",
        reads=("training.adapter",),
    ),
    Check(
        name="chat_template",
        look=_chat_template,
        applies=lambda s: s.config.chat_template is not None,
        # A well-known one is TRL's own, which may not be here.
        needs=frozenset({Needs.TRAINER}),
        reads=("training.chat_template",),
    ),
    Check(
        name="packages",
        look=_packages,
        applies=lambda s: s.config.trainer == "builtin" or bool(extras_of(s.config)),
        needs=frozenset({Needs.TRAINER}),
    ),
    Check(name="code", look=_code, applies=lambda s: any(references(s.config))),
    Check(
        name="reward_model",
        look=_reward_model,
        applies=lambda s: bool(s.config.reward_model),
        reads=("training.reward_model",),
    ),
    Check(
        name="reward_judge",
        look=_judge,
        applies=lambda s: s.config.reward_judge is not None,
        # Where the key is: the trainer's machine gets it from there.
        needs=frozenset({Needs.KEEPER}),
    ),
    Check(
        name="hub",
        look=_hub,
        applies=lambda s: s.config.push_to_hub is not None,
        needs=frozenset({Needs.HUB}),
    ),
    Check(
        name="dataset",
        look=_dataset,
        needs=frozenset({Needs.ROWS}),
        reads=("training.dataset",),
        notice="reading the dataset",
    ),
)
"""Cheap ones first. Adding a check is a row here, or in `flows.preflight` if it is about a job."""
