"""Where else metrics go: TensorBoard, Weights & Biases, MLflow; by default files in reports/.

transformers' callbacks do the reporting. The environment says where to write and
which run to continue: a resumed job goes on with its run, even on another machine.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from trainer.config import TrainingConfig
from trainer.contract.errors import ConfigError
from trainer.contract.files import read_json, replace_text
from trainer.contract.job_directory import JobDirectory
from trainer.contract.manifest import write_manifest

PROJECT = "training-orchestrator"
TAG = "training_orchestrator.job"  # by which an MLflow run is found again: MLflow chooses its id
RUN_ID = "run-id"  # the file in reports/ where job.json names no run


def start_trackers(directory: JobDirectory, config: TrainingConfig) -> None:
    """Tell transformers' callbacks where to report to; call it before training.

    Of several processes only the first reports.

    Raises:
        ConfigError: MLflow's server, or its file, cannot be used.
    """
    if not config.report_to:
        return
    directory.reports.mkdir(exist_ok=True)
    name = str((read_json(directory.job) or {}).get("name") or directory.root.resolve().name)
    if "tensorboard" in config.report_to:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(directory.reports / "tensorboard")
    if "wandb" in config.report_to:
        _start_wandb(directory, name)
    if "mlflow" in config.report_to:
        _start_mlflow(directory, name)


def end_trackers(directory: JobDirectory, config: TrainingConfig) -> None:
    """Flush the trackers, and describe reports/ by a manifest."""
    if "wandb" in config.report_to:
        import wandb

        wandb.finish()
    if "mlflow" in config.report_to:
        import mlflow

        mlflow.flush_async_logging()
        while mlflow.active_run():
            mlflow.end_run()
    if directory.reports.is_dir():
        for path in directory.reports.rglob("*"):
            if path.is_symlink():  # wandb's latest-run: a manifest describes files only
                path.unlink()
        write_manifest(directory.reports)


def fail_trackers() -> None:
    """Make MLflow show a run as failed, which at our exit it would call finished; wandb notices."""
    mlflow = sys.modules.get("mlflow")
    with suppress(Exception):  # its server may be what failed
        while mlflow and mlflow.active_run():
            mlflow.end_run("FAILED")


def _start_wandb(directory: JobDirectory, name: str) -> None:
    mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
    defaults = {
        "WANDB_MODE": mode,
        "WANDB_PROJECT": PROJECT,
        "WANDB_NAME": name,
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",  # it would take our standard output for itself
    }
    for variable, value in defaults.items():
        os.environ.setdefault(variable, value)
    # Overrides the user, unlike the defaults above: a resumed job must find its own run.
    os.environ.update(
        WANDB_DIR=str(directory.reports),
        WANDB_RUN_ID=_run_id(directory),
        WANDB_RESUME="allow",
    )


def _start_mlflow(directory: JobDirectory, name: str) -> None:
    """Find or make the run of this job, for the callback to continue."""
    import mlflow

    store = directory.reports / "mlflow"
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        store.mkdir(exist_ok=True)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{(store / 'mlflow.db').resolve()}"
    # transformers reads this variable too, so both must agree on the experiment.
    experiment = os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", PROJECT)
    try:
        client = mlflow.MlflowClient()
        known = client.get_experiment_by_name(experiment)
        place = known.experiment_id if known else _new_experiment(client, experiment, store)
        ours = f"tags.`{TAG}` = '{_run_id(directory)}'"
        runs = client.search_runs([place], ours, max_results=1)
        if runs:
            os.environ["MLFLOW_MAX_LOG_PARAMS"] = "0"  # MLflow refuses a parameter that changed
        run = runs[0] if runs else client.create_run(place, None, {TAG: _run_id(directory)}, name)
    except mlflow.MlflowException as error:
        raise ConfigError(
            f"training.report_to: MLflow at {os.environ['MLFLOW_TRACKING_URI']} cannot be used: "
            f"{str(error).splitlines()[0]}.",
            "Correct MLFLOW_TRACKING_URI and its credentials, or leave mlflow out of report_to.",
        ) from error
    # transformers' MLflowCallback continues the run of this id.
    os.environ["MLFLOW_RUN_ID"] = run.info.run_id


def _new_experiment(client: object, name: str, store: Path) -> str:
    """Make an experiment; a local one keeps its artifacts beside its file."""
    local = os.environ["MLFLOW_TRACKING_URI"].endswith(str(store / "mlflow.db"))
    artifacts = (store / "artifacts").resolve().as_uri() if local else None
    created: str = client.create_experiment(name, artifacts)  # type: ignore[attr-defined] # MLflow ships no types here
    return created


def _run_id(directory: JobDirectory) -> str:
    """Return the id of this job: that of its flow run, or one of its own."""
    if given := (read_json(directory.job) or {}).get("run_id"):
        return str(given)
    file = directory.reports / RUN_ID
    if not file.exists():
        replace_text(file, uuid4().hex)
    return file.read_text(encoding="utf-8")
