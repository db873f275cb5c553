"""The examples to learn from: read, checked, and (in `trainer.data.tokenization`) made tokens.

What is exported here needs neither torch nor transformers, so that an orchestrator can check a
dataset before it hires a machine.
"""

from __future__ import annotations

from trainer.data.validation import DatasetReport, inspect_dataset

__all__ = ["DatasetReport", "inspect_dataset"]
