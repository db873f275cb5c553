"""Where it happens: providers of machines, and the machines themselves.

A process that only wants `blocks.home` or `blocks.models` does not pay for importing Prefect.
"""

import sys

# Prefect finds our block types by importing this package (entry point prefect.collections).
if "prefect" in sys.modules:
    from blocks.providers.local import Local as Local
