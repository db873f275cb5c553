"""Upload the artifact of a completed job to the Hub, for the first time or again."""

from __future__ import annotations

from pathlib import Path

from blocks.home import runs
from flows.setup.secrets import have_tokens
from flows.shown import ShownRun
from gateway.cli.download import report_of
from gateway.jobs import job_of
from trainer.config.explain import validated
from trainer.contract.errors import ConfigError, ProviderError
from trainer.results.hub import check_hub, push_output


def push(run: ShownRun, repository: str | None) -> str:
    """Upload and return the repository's name.

    Args:
        run: of the training flow.
        repository: owner/name, instead of what the job says.

    Raises:
        ConfigError: there is no artifact here, no repository is named, or the token does not suffice.
        ProviderError: the Hub did not take it.
    """
    report = report_of(run)
    job = job_of(run)
    config = job.training
    if repository is not None:
        # Through the job's own validation, so that --to is refused in the words in which the file
        # would be.
        settings = {**config.model_dump(), "push_to_hub": repository}
        config = validated(type(config), settings, "--to")
    if config.push_to_hub is None:
        raise ConfigError("The job names no repository.", "Name one: --to owner/name.")
    have_tokens()
    check_hub(config)
    warning = push_output(Path(report["path"]), config, runs() / str(run.id) / "uploaded.json")
    if warning:
        raise ProviderError(f"{warning}.", "Run the same command again later.")
    return config.push_to_hub
