"""What is changed of the product and of the local clouds, once, so that whole walks take milliseconds."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import prefect
import pytest

from blocks import registry
from blocks.providers import api, azure, boto, gcp, lambda_cloud, pace, sagemaker, vast
from blocks.providers.aws import prices as aws_prices
from blocks.providers.azure import network as azure_network
from blocks.providers.azure import prices as azure_prices
from blocks.providers.azure import reading as azure_reading
from blocks.providers.by_store import ByStore
from blocks.stores.access import Access
from flows import full_disk, reconcile, settling
from flows.renting import booting
from flows.renting.journal import Journal
from tests.clouds import aws_life, gcp_life
from tests.faults.ledger.clock import fast
from tests.faults.ledger.wire import MemoryBucket, connect, keep_apart
from tests.faults.ledger.world import Surroundings, World
from tests.faults.walks.accounts import ACCOUNTS
from trainer.config.store_urls import StoreUrl

IN_MIND: dict[Any, tuple[str, ...]] = {
    api: ("_shared",),
    pace: ("_known",),
    aws_prices: ("_known",),
    azure.Azure: ("_ended", "_due", "_spent"),
    azure_network: ("_made",),
    azure_prices: ("_known", "_away"),
    azure_reading.AzureReading: ("_reach", "_region"),
    ByStore: ("_boxes", "_let_go"),
    gcp.GoogleCloud: ("_full",),
    lambda_cloud.LambdaCloud: ("_ended", "_keys_of"),
    registry: ("_loaded",),
    full_disk: ("_unsaved", "_said"),
    sagemaker.SageMaker: ("_known", "_cleared"),
    vast.VastAI: ("_exited",),
}
"""What modules and classes remember: a process of ours knows nothing of another's."""
BOOT_LOOK_SECONDS = 2.0
TICK = 1.0
"""Seconds between two looks of a local cloud at what became of a machine."""


class Setting:
    """The changed product; as a context manager. Walks are taken one after the other."""

    def __init__(self) -> None:
        self._patch = pytest.MonkeyPatch()
        self._stack = ExitStack()
        self._surroundings: Surroundings
        self.said: list[str] = []
        """The log of the walk under way."""

    def __enter__(self) -> Setting:
        for name in registry.provider_names():
            registry.provider_class(name)
        self._stack.callback(self._patch.undo)
        loop = self._stack.enter_context(fast(self._patch))
        around = self._surroundings = Surroundings(loop)
        boto.forget()  # once: every call goes to the walk's cloud, whatever its address
        connect(self._patch, lambda: around.world.line)
        keep_apart(self._patch, IN_MIND)
        self._change(around)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def world(self, provider: str, folder: Path) -> World:
        """Begin a walk."""
        self.said.clear()
        made = self._surroundings.world = World(self._surroundings.loop, provider, folder)
        return made

    def _change(self, around: Surroundings) -> None:
        patch = self._patch
        patch.setattr(prefect, "get_client", around.client)
        patch.setattr(reconcile, "get_client", around.client)
        patch.setattr(reconcile, "revive", around.revived)
        told = SimpleNamespace(pass_on_rest=_nothing, stopped=_silent, failed=_silent)
        patch.setattr(reconcile, "milestones", told)
        patch.setattr(settling, "tell_rest", _nothing)
        patch.setattr(Journal, "publish", _nothing)
        for account in ACCOUNTS.values():
            patch.setattr(account.block, "workplace", around.workplace_of)

        def opened(url: StoreUrl, access: Access, endpoint: str) -> MemoryBucket:
            del access, endpoint
            return MemoryBucket(around.loop, around.world.mailboxes, url)

        patch.setattr(sagemaker, "_opened", opened)
        for name, module in list(sys.modules.items()):
            if name.startswith("tests.clouds.") and hasattr(module, "TICK"):
                patch.setattr(module, "TICK", TICK)
            if name.startswith("flows.") and hasattr(module, "get_run_logger"):
                patch.setattr(module, "get_run_logger", lambda: logging.getLogger("ledger"))
        patch.setattr(booting, "LOOK_SECONDS", BOOT_LOOK_SECONDS)
        patch.setattr(aws_life, "with_variable", lambda _: ())
        patch.setattr(gcp_life, "_run_script", lambda *_: None)
        handler = _Kept(self.said, around)
        logger = logging.getLogger("training_orchestrator")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


class _Kept(logging.Handler):
    def __init__(self, said: list[str], around: Surroundings) -> None:
        super().__init__(logging.INFO)
        self._said, self._around = said, around

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(
            f"{self._around.loop.time():.0f} {self._around.who()} {record.getMessage()}"
        )


async def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing."""


def _silent(*_: Any, **__: Any) -> None:
    """Say nothing."""
