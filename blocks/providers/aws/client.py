"""One region of an account at AWS: paced, with answers that all runs share."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from blocks.providers import api, boto
from blocks.providers.api import Api, T
from blocks.providers.aws.errors import error_of
from blocks.providers.aws.kinds import PRICING_REGION
from blocks.providers.boto import Amazon, Refusal
from blocks.providers.cloud import as_described
from trainer.contract.errors import CredentialsError, ProviderError, RateLimited

INTERVALS: Mapping[str, float] = {
    "": 0.05,
    "RunInstances": 0.5,
    "TerminateInstances": 0.2,
    "CreateTags": 0.1,
    "CreateSecurityGroup": 0.5,
}
"""Seconds between two calls of one kind in one region, as AWS refills its buckets."""
IDENTITY = ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_ROLE_ARN", "AWS_ENDPOINT_URL")
"""What changes with the account, and is no secret."""


class Aws(Api):
    """One region. Its pace and its shared answers are those of `Api`; its calls are botocore's."""

    def __init__(self, region: str, profile: str, intervals: Mapping[str, float]) -> None:
        """Prepare; nothing is imported or sent yet."""
        words = [profile, *(os.environ.get(name, "") for name in IDENTITY)]
        self.identity = hashlib.sha256("\n".join(words).encode()).hexdigest()
        super().__init__("AWS", region, {}, intervals, account=self.identity)
        self.region = region
        self._profile = profile

    async def shared(self, name: str, seconds: float, fetch: Callable[[], Awaitable[T]]) -> T:
        """See `Api.shared`; an answer of another shape than AWS describes is an error of ours."""

        async def described() -> T:
            with as_described("AWS", name):
                return await fetch()

        return await super().shared(name, seconds, described)

    async def ask(
        self,
        service: str,
        operation: str,
        request: Mapping[str, Any],
        *,
        once: bool = False,
        expected: Collection[str] = (),
    ) -> dict[str, Any]:
        """Call an operation and return what it answers.

        Args:
            service: as botocore names it, such as ec2.
            operation: as AWS names it, such as RunInstances.
            request: its parameters.
            once: it must not be sent again when its fate is unknown.
            expected: codes of refusals that the caller knows what to do about.

        Raises:
            Refusal: with one of those codes.
            OrchestratorError: of any other refusal what it means; or as `Amazon.call` has it.
        """
        region = PRICING_REGION if service == "pricing" else self.region
        amazon = Amazon(provider="aws", region=region, profile=self._profile)
        method = re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()
        waited = 0.0
        while True:
            waited += await self._turn(tuple({operation, ""}), waited)
            try:
                return await amazon.call(service, method, request, once=once)
            except RateLimited:  # nothing was done
                self.pace.hold(api.RATE_PAUSE, operation)
            except CredentialsError:
                # They may have been replaced by the next time.
                await asyncio.to_thread(boto.forget)
                raise
            except Refusal as refusal:
                if refusal.code in expected:
                    raise
                raise error_of(refusal, self.region) from refusal

    async def rows(
        self,
        operation: str,
        request: Mapping[str, Any],
        name: str,
        *,
        expected: Collection[str] = (),
    ) -> list[dict[str, Any]]:
        """Return the rows of all pages of a list of EC2; errors are those of `ask`.

        Raises:
            ProviderError: an answer has no such list: it could hold a machine.
        """
        rows: list[dict[str, Any]] = []
        token: str | None = None
        while True:
            more = {"NextToken": token} if token else {}
            answer = await self.ask("ec2", operation, {**request, **more}, expected=expected)
            found = answer.get(name)
            if not (isinstance(found, list) and all(isinstance(row, dict) for row in found)):
                raise ProviderError(
                    f"AWS's answer to ec2:{operation} in {self.region} has no list {name}."
                )
            rows += found
            # A token that comes again would go round for ever.
            token, before = answer.get("NextToken"), token
            if not token or token == before:
                return rows
