"""SageMaker's training jobs, as botocore's model and its users describe them.

Behind a job is a real process: what its order names as the entry point, which finds its channel and its
variables as in a container. The bucket is served too, and the jobs' log in CloudWatch.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.clouds.agents import AgentMachine
from tests.clouds.boto_models import ServiceContract
from tests.clouds.cloud import Cloud, Rented
from tests.clouds.machines import Profile, write_nvidia_smi
from tests.clouds.plain_s3 import PlainS3
from tests.clouds.rented import TICK, pass_time
from tests.clouds.s3 import KEY, SECRET
from tests.clouds.sagemaker_jobs import (
    KINDS,
    REGION,
    action_of,
    arn,
    described,
    error,
    missing,
    order_trouble,
    permitted,
    summary,
    tags_of,
)
from tests.clouds.shutdown import install_shutdown

ROLE = "arn:aws:iam::123456789012:role/training"
BUCKET = "models"
READS = ("Describe", "List", "Get")
ENDED = {"Completed", "Failed", "Stopped"}
POLL = "0.2 0.05"  # seconds between two looks of an agent
CAPACITY = (
    "CapacityError: Unable to provision requested ML compute capacity. Please retry using a "
    "different ML instance type."
)


class SageMakerCloud(Cloud):
    """An account in one region. The name of an instance is its tag; its id is the job's name."""

    name = "sagemaker"
    key_variable = "AWS_SECRET_ACCESS_KEY"
    url_variable = "AWS_ENDPOINT_URL_SAGEMAKER"
    states = (("Starting", 0.3), ("Downloading", 0.7), ("Training", 0.0))
    lost_word = "Interrupted"

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(folder, port)
        self.contract = ServiceContract("sagemaker", "logs")  # type: ignore[assignment]
        self.key = SECRET
        self.s3 = PlainS3(BUCKET)
        self._permitted = permitted()
        self.quota_exceeded = False
        self.role_trouble = ""
        """Why orders are refused because of their role."""
        self.stop_seconds = 120.0
        """From SIGTERM to SIGKILL."""
        self.stopping_seconds = 0.1
        """How long the end of a job takes that has no process."""
        self.log_delay = 0.0
        """Seconds from the first line of a job to its log stream."""
        self.page = 100
        """How many jobs a list shows at once."""

    def left_over(self) -> list[str]:
        """Return the keys of all objects in the bucket."""
        return self.s3.keys()

    def named(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[str, str]:
        """Return the operation as a path; what only reads is a GET."""
        action = headers.get("x-amz-target", "").rpartition(".")[2]
        return "GET" if action.startswith(READS) else method, f"/{action}"

    def routes(self) -> list[Route]:
        return [Route("/", self._do, methods=["POST"])]

    def environ(self) -> dict[str, str]:
        """Return the variables that point the product here."""
        return super().environ() | {
            **self.s3.environ(),
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "SAGEMAKER_ROLE": ROLE,
            "SAGEMAKER_BUCKET": f"s3://{BUCKET}/jobs",
        }

    def start(self) -> None:
        """Listen, and serve the bucket."""
        self.s3.__enter__()
        super().start()

    def stop(self) -> None:
        """Stop listening, and kill all jobs."""
        super().stop()
        self.s3.__exit__()

    async def gate(self, request: Request) -> Response | None:
        credential = re.search(r"Credential=([^/]+)/", request.headers.get("Authorization", ""))
        if credential is None or credential[1] != KEY or self.expired:
            return error("UnrecognizedClientException", "The security token is invalid.")
        service = request.headers.get("x-amz-target", "").partition(".")[0].partition("_")[0]
        action = f"{service.lower()}:{action_of(request)}"
        if action not in self._permitted:
            return error(
                "AccessDeniedException",
                f"User: arn:aws:iam::123456789012:user/me is not authorized to perform: {action}",
            )
        return None

    def leave_pool(self, id: str) -> None:
        """Let a job end as if it had been ordered with a warm pool."""
        rented = self.account[id]
        rented.status, rented.facts["pool"] = "Completed", "Available"

    def stopped_by_others(self, id: str) -> None:
        """Stop a job, as somebody does in the console; its own loop sees to it."""
        self.account[id].facts["asked to stop"] = True

    # A job's life.

    async def live(self, rented: Rented) -> None:
        for word, share in self.states[:-1]:
            if rented.ended is not None:
                return
            rented.status = word
            await pass_time(self, rented, share * self.boot_seconds)
        if rented.ended is not None or rented.facts.get("stopping"):
            return
        if self.sold_out(rented.offer):
            await self._failed(rented, CAPACITY)
            return
        channel = self._downloaded(rented)
        if channel is None:
            await self._failed(rented, "ClientError: Data download failed: NoSuchKey.")
            return
        rented.status, rented.started = self.states[-1][0], time.time()
        if not self.sshd_never:
            await pass_time(self, rented, self.sshd_delay)
            await self._run(rented, channel)

    def _downloaded(self, rented: Rented) -> Path | None:
        """Put a job's channel where its container finds it."""
        [channel] = rented.facts["asked"]["InputDataConfig"]
        prefix = channel["DataSource"]["S3DataSource"]["S3Uri"].removeprefix(f"s3://{BUCKET}/")
        folder = self._root(rented) / "opt/ml/input/data" / channel["ChannelName"]
        folder.mkdir(parents=True, exist_ok=True)
        for key in self.s3.keys():  # noqa: SIM118
            if key.startswith(prefix):
                (folder / key[len(prefix) :]).write_bytes(self.s3.content(key) or b"")
        return folder if any(folder.iterdir()) else None

    def _root(self, rented: Rented) -> Path:
        return self.folder / rented.id

    async def _run(self, rented: Rented, channel: Path) -> None:
        """Run a job's container to its end, and see that it ends in time."""
        if rented.ended is not None:
            return
        machine = await asyncio.to_thread(self._container, rented)
        asked = rented.facts["asked"]
        command = [
            self._inside(rented, word)
            for word in asked["AlgorithmSpecification"]["ContainerEntrypoint"]
        ]
        with rented.lock:
            if rented.ended is not None:
                return
            self.machines[rented.id] = machine  # type: ignore[assignment]
            self.made.append(machine)  # type: ignore[arg-type]
            machine.start(command)
        process = machine.process
        assert process
        until = time.time() + asked["StoppingCondition"]["MaxRuntimeInSeconds"] / self.clock_rate
        while process.poll() is None and rented.ended is None:
            if rented.facts.get("asked to stop"):
                self._begin_to_stop(rented)
            if time.time() > until and not rented.facts.get("stopping"):
                rented.facts["stopping"] = "MaxRuntimeExceeded"
                machine.signal(signal.SIGTERM)
            await asyncio.sleep(TICK)
        if rented.ended is None and not rented.facts.get("stopping"):
            if process.returncode == 0:
                await self.end(rented, "Completed")
            else:
                why = f"AlgorithmError: , exit code: {process.returncode}"
                await self._failed(rented, why)

    def _container(self, rented: Rented) -> AgentMachine:
        programs = self._root(rented) / "bin"
        programs.mkdir(parents=True, exist_ok=True)
        install_shutdown(self._root(rented))
        if rented.profile.gpus:
            write_nvidia_smi(programs / "nvidia-smi", rented.profile.gpus)
        given = rented.facts["asked"].get("Environment", {})
        environment = {name: self._inside(rented, text) for name, text in given.items()}
        return AgentMachine(
            self._root(rented),
            {
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                **self.s3.environ(),
                **self.profile.environment,
                "TRAINING_ORCHESTRATOR_POLL": POLL,
                "TRAINING_JOB_NAME": rented.id,
                **environment,
            },
            str(programs),
        )

    def _inside(self, rented: Rented, text: str) -> str:
        """Return a path of a container as one of this computer."""
        return re.sub(r"(?<![\w/])/(opt/ml|tmp)/", f"{self._root(rented)}/\\1/", text)

    async def _failed(self, rented: Rented, reason: str) -> None:
        rented.facts["reason"] = reason
        await self.end(rented, "Failed")

    def _begin_to_stop(self, rented: Rented) -> None:
        if rented.facts.get("stopping"):
            return
        rented.facts["stopping"] = "Stopped"
        task = asyncio.get_running_loop().create_task(self._stop(rented))
        self._boots.add(task)
        task.add_done_callback(self._booted)

    async def _stop(self, rented: Rented) -> None:
        """SIGTERM, some time to save, SIGKILL; billed until the process is gone."""
        rented.facts.setdefault("stopping", "Stopped")
        machine = self.machines.get(rented.id)
        if machine is None:
            await asyncio.sleep(self.stopping_seconds)
        else:
            process = machine.process  # type: ignore[attr-defined]
            machine.signal(signal.SIGTERM)  # type: ignore[attr-defined]
            since = time.monotonic()
            while process.poll() is None and time.monotonic() < since + self.stop_seconds:
                await asyncio.sleep(TICK)
        if rented.status not in ENDED:
            await self.end(rented, "Stopped")

    # The operations.

    async def _do(self, request: Request) -> Response:
        asked = json.loads(await request.body() or b"{}")
        action = action_of(request)
        doing = {
            "CreateTrainingJob": self._create,
            "DescribeTrainingJob": self._describe,
            "ListTrainingJobs": self._list,
            "StopTrainingJob": self._stop_asked,
            "UpdateTrainingJob": self._update,
            "DeleteTrainingJob": self._delete,
            "AddTags": self._add_tags,
            "ListTags": self._list_tags,
            "DescribeLogStreams": self._streams,
            "GetLogEvents": self._events,
        }
        if action not in doing:
            return error("UnknownOperationException", action)
        return doing[action](asked)

    def _create(self, asked: Mapping[str, Any]) -> Response:
        name = asked["TrainingJobName"]
        if wrong := order_trouble(asked) or self.role_trouble:
            return error("ValidationException", wrong)
        if self.quota_exceeded:
            kind = asked["ResourceConfig"]["InstanceType"]
            return error(
                "ResourceLimitExceeded",
                f"The account-level service limit '{kind} for training job usage' is 0 Instances.",
            )
        if name in self.account and not self.account[name].gone:
            return error("ResourceInUse", "Training job names must be unique within an AWS account")
        price, smi, count = KINDS[asked["ResourceConfig"]["InstanceType"]]
        self.rent(
            Rented(
                id=name,
                name=tags_of(asked).get("training-orchestrator", ""),
                offer=asked["ResourceConfig"]["InstanceType"],
                price_per_hour=price,
                status="",
                public_keys=(),
                profile=Profile(gpus=(smi,) * count),
                facts={"asked": asked, "tags": tags_of(asked)},
            )
        )
        return JSONResponse({"TrainingJobArn": arn(name)})

    def _describe(self, asked: Mapping[str, Any]) -> Response:
        rented = self.known(asked["TrainingJobName"])
        return JSONResponse(described(rented, self.word(rented))) if rented else missing()

    def _list(self, asked: Mapping[str, Any]) -> Response:
        rows = [summary(rented, self.word(rented)) for rented in self.listed()]
        if wanted := asked.get("StatusEquals"):
            known = wanted == "InProgress" and self.unknown_status is not None
            rows = [row for row in rows if known or row["TrainingJobStatus"] == wanted]
        if pool := asked.get("WarmPoolStatusEquals"):
            rows = [row for row in rows if row.get("WarmPoolStatus", {}).get("Status") == pool]
        begin = int(asked.get("NextToken") or 0)
        size = min(self.page, asked.get("MaxResults", 10))
        answer: dict[str, Any] = {"TrainingJobSummaries": rows[begin : begin + size]}
        if begin + size < len(rows):
            answer["NextToken"] = str(begin + size)
        return JSONResponse(answer)

    def _stop_asked(self, asked: Mapping[str, Any]) -> Response:
        rented = self.known(asked["TrainingJobName"])
        if rented is None:
            return missing()
        if rented.status in ENDED:
            return error(
                "ValidationException",
                f"The request was rejected because the training job is in status {rented.status}.",
            )
        if self.refuses():
            return error("ConflictException", "The job cannot be stopped now.")
        if not self.ignores():
            self._begin_to_stop(rented)
        return Response(status_code=200)

    def _update(self, asked: Mapping[str, Any]) -> Response:
        rented = self.known(asked["TrainingJobName"])
        if rented is None:
            return missing()
        if rented.facts.get("pool") == "Available":
            if asked["ResourceConfig"]["KeepAlivePeriodInSeconds"] == 0:
                rented.facts["pool"] = "Terminated"
                rented.ended = rented.ended or time.time()
            return JSONResponse({"TrainingJobArn": arn(rented.id)})
        return error("ValidationException", "The training job has no warm pool.")

    def _delete(self, asked: Mapping[str, Any]) -> Response:
        rented = self.known(asked["TrainingJobName"])
        if rented is None:
            return missing()
        if rented.status not in ENDED:
            return error("ResourceInUse", "The training job has not ended.")
        rented.gone = True
        return Response(status_code=200)

    def _add_tags(self, asked: Mapping[str, Any]) -> Response:
        rented = self.known(asked["ResourceArn"].rpartition("/")[2])
        if rented is None:
            return missing()
        rented.facts["tags"].update(tags_of(asked))
        rented.name = rented.facts["tags"].get("training-orchestrator", "")
        return JSONResponse({"Tags": asked["Tags"]})

    def _list_tags(self, asked: Mapping[str, Any]) -> Response:
        rented = self.known(asked["ResourceArn"].rpartition("/")[2])
        if rented is None:
            return missing()
        tags = {**rented.facts["tags"], "training-orchestrator": rented.name}
        return JSONResponse({"Tags": [{"Key": k, "Value": v} for k, v in tags.items()]})

    def _streams(self, asked: Mapping[str, Any]) -> Response:
        names = [
            f"{rented.id}/algo-1-{int(rented.started or 0)}"
            for rented in self.all
            if rented.started and rented.started + self.log_delay <= time.time()
        ]
        prefix = asked.get("logStreamNamePrefix", "")
        found = [{"logStreamName": name} for name in names if name.startswith(prefix)]
        return JSONResponse({"logStreams": found})

    def _events(self, asked: Mapping[str, Any]) -> Response:
        log = self.folder / asked["logStreamName"].partition("/")[0] / "agent.log"
        if not log.exists():
            return error("ResourceNotFoundException", "The specified log stream does not exist.")
        lines = log.read_text(errors="replace").splitlines()[-asked.get("limit", 10_000) :]
        events = [{"timestamp": int(time.time() * 1000), "message": line} for line in lines]
        return JSONResponse({"events": events, "nextForwardToken": "f/1"})
