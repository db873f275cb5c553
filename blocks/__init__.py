"""Where it happens: providers of machines, the machines, and the places to train on them.

A process that only wants `blocks.home` or `blocks.models` does not pay for importing Prefect.
"""

import sys

# Prefect finds our block types by importing this package (entry point prefect.collections).
if "prefect" in sys.modules:
    from blocks.providers.gcp import GoogleCloud as GoogleCloud
    from blocks.providers.lambda_cloud import LambdaCloud as LambdaCloud
    from blocks.providers.local import Local as Local
    from blocks.providers.runpod import RunPod as RunPod
    from blocks.providers.ssh import SshHost as SshHost
    from blocks.providers.vast import VastAI as VastAI
    from blocks.stores.block import StoreBlock as StoreBlock
