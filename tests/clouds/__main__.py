"""Serve a cloud to try the product against: python -m tests.clouds runpod --port 9001."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
from importlib import import_module
from pathlib import Path

CLOUDS = {
    "aws": "tests.clouds.aws:AwsCloud",
    "aws-private": "tests.clouds.private:PrivateAws",
    "azure": "tests.clouds.azure:AzureCloud",
    "azure-private": "tests.clouds.private:PrivateAzure",
    "gcp": "tests.clouds.gcp:GoogleCloud",
    "gcp-private": "tests.clouds.private:PrivateGoogle",
    "lambda": "tests.clouds.lambda_cloud:LambdaCloud",
    "runpod": "tests.clouds.runpod:RunPodCloud",
    "sagemaker": "tests.clouds.sagemaker:SageMakerCloud",
    "slurm": "tests.clouds.slurm:SlurmCluster",
    "vast": "tests.clouds.vast:VastCloud",
}


def main() -> None:
    """Serve until Ctrl-C, then kill the machines."""
    parser = argparse.ArgumentParser(prog="python -m tests.clouds", description=__doc__)
    parser.add_argument("cloud", choices=sorted(CLOUDS))
    parser.add_argument("--port", type=int, default=0, help="of loopback; 0: any that is free")
    parser.add_argument("--boot-seconds", type=float, default=5.0)
    parser.add_argument("--folder", type=Path, help="for the machines; else a temporary one")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    module, _, name = CLOUDS[arguments.cloud].partition(":")
    kind = getattr(import_module(module), name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        try:
            cloud = kind(folder, arguments.port)
        except ModuleNotFoundError as error:
            sys.exit(str(error))
        with cloud:
            cloud.boot_seconds = arguments.boot_seconds
            values = " ".join(
                f"{name}={shlex.quote(value)}" for name, value in cloud.environ().items()
            )
            print(f"export {values}", flush=True)  # noqa: T201
            _wait()


def _wait() -> None:
    try:
        signal.pause()
    except KeyboardInterrupt:
        print()  # noqa: T201


if __name__ == "__main__":
    main()
