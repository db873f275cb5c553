"""The demo: fine-tune the tiny model, then ask it something before and after. See `make demo`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from blocks.home import runs

HERE = Path(__file__).resolve().parent
TRAINCTL = Path(sys.executable).with_name("trainctl")
PROMPT = "What is LoRA?"


def main() -> int:
    """Run the quickstart job as a user would, and show what it learnt; return the exit code."""
    trained = subprocess.run([TRAINCTL, "run", HERE / "quickstart.yaml"], check=False)
    if trained.returncode:
        return trained.returncode
    newest = max(runs().glob("*/report.json"), key=lambda path: path.stat().st_mtime)
    report = json.loads(newest.read_text())
    print("\nThe adapter, loaded in a fresh process:", flush=True)
    asked = subprocess.run(
        [sys.executable, HERE / "ask.py", HERE / "tiny-llama", report["path"], PROMPT],
        check=False,
    )
    print(f"\nartifact {report['file']}\nsha256 {report['sha256']}")
    return asked.returncode


if __name__ == "__main__":
    sys.exit(main())
