"""Check everything for which a job can be refused before any money is spent."""

from __future__ import annotations

import asyncio

from prefect import get_run_logger

from flows.artifact_folder import check_artifact_folder
from flows.full_disk import save_anyway
from flows.on_completion import refuse_unfit
from flows.preflight import JOB, subject_of
from flows.renting.cost_estimate import (
    can_estimate,
    decides,
    estimated,
    refuse_risk,
    seconds_on,
)
from flows.renting.expected_cost import History, expected_on
from flows.renting.journal import Journal
from flows.renting.market import market, providers_of
from flows.run_folder import RunFolder
from flows.saved import saved_step
from flows.setup.secrets import have_tokens, named_in
from flows.setup.staging import staged_job
from flows.tasks.step import step
from trainer.config import TrainingJob
from trainer.contract.errors import ConfigError, TrainingFailed
from trainer.preflight.table import Needs, refuse
from trainer.preflight.training import TRAINING


@step
async def place(job: TrainingJob) -> None:
    """Check where the machine may come from and where the result shall go.

    Raises:
        ConfigError: there is no such provider, no provider is set up, on_completion names a deployment
            that does not exist or does not take its parameters, output_dir cannot take the result, the result could not be exported or uploaded, the limits cannot pay for the
            job, or a spot machine would lose too much.
    """
    run = RunFolder.of_this_run()
    journal = Journal.of(run)
    await asyncio.to_thread(have_tokens, named_in(job))
    await refuse_unfit(job)
    providers = await providers_of(job)
    labels = [provider.label for provider in providers]
    at_home = all(provider.is_home for provider in providers)
    # Not when the run had a machine: the files may be there, and gone from here meanwhile.
    if not journal.hires:
        # Read the rows before paying for a machine; at home the trainer reads them within seconds.
        have = {Needs.KEEPER, Needs.TRAINER if at_home else Needs.ROWS}
        here = await asyncio.to_thread(staged_job, job)
        subject = subject_of(here, for_worker=True)
        await asyncio.to_thread(refuse, (*JOB, *TRAINING), subject, have)
    check_artifact_folder(run.artifact(job.name, job.output_dir))
    if not at_home:
        await _refuse_waste(job, run, journal.cost())
    spent = f"; {journal.cost():.4g} USD spent so far" if journal.hires else ""
    get_run_logger().info("providers in order: %s%s", ", ".join(labels), spent)


async def _refuse_waste(job: TrainingJob, run: RunFolder, spent: float) -> None:
    """Refuse a job that its limits cannot pay for, and spot machines that would lose too much.

    Of a job that trained before, only what is left counts, against what is left of its money.

    Counting the steps takes a process with torch and some ten seconds, so it is done only where
    it decides something.
    """
    if not decides(job):
        return
    facts, found = None, await market(job)
    if can_estimate(job) and found.choices:
        try:
            facts = await asyncio.to_thread(estimated, job)
        except TrainingFailed as error:
            # An estimate that fails refuses nothing: the job may well train.
            get_run_logger().warning("no estimate: %s", error.message)
    # By it the offers are ranked, now and when a machine is lost.
    save_anyway(run.estimate, facts or {})
    if facts is None:
        refuse_risk(job, None, None)
        return
    seconds = [seconds_on(choice.offer, job, facts) for choice in found.choices]
    refuse_risk(job, facts, min((s for s in seconds if s is not None), default=None))
    left = 1.0 - min(1.0, saved_step(run) / max(1, facts["steps"]))
    history = History()
    costs = [
        expected_on(choice.provider, choice.offer, job, facts, history, share=left).usd
        for choice in found.choices
    ]
    cheapest = min((cost for cost in costs if cost is not None), default=None)
    if cheapest is None:
        return
    get_run_logger().info("about %.4g USD on the best offer", cheapest)
    if job.limits.max_cost and cheapest + spent > job.limits.max_cost:
        before = f" and {spent:.2f} are spent" if spent else ""
        what = "what is left of the job" if spent else "the job"
        raise ConfigError(
            f"limits.max_cost = {job.limits.max_cost:g}: {what} costs about {cheapest:.2f} USD on "
            f"the offer that is cheapest for it{before}.",
            "Raise limits.max_cost, train less, or allow cheaper machines in resources.",
        )
