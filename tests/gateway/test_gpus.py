from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from gateway.cli import main
from tests.waiting import PATIENCE
from trainer.contract.gpu_files import mark_sick
from trainer.contract.gpu_locks import Allocation, Holder, holders, take


def trainctl(*words):
    with pytest.raises(SystemExit) as ended:
        main([*words])
    return ended.value.code


def test_gpus_are_shown_with_who_has_them(pretended_gpus, capsys):
    pretended_gpus.set_up(2, name="NVIDIA L4", utilisation=7, temperature=41)
    pretended_gpus.change("GPU-1", sick="it is lost")

    with take(Allocation(uuids=("GPU-0",)), Holder.here(run="0123456789", name="mine")):
        assert trainctl("gpus") == 0
        shown = capsys.readouterr().out.splitlines()
        assert trainctl("gpus", "--json") == 0
        record = json.loads(capsys.readouterr().out)

    assert shown[1].startswith(
        "0    GPU-0  NVIDIA L4  24.0 of 24.0 GiB  7 %  41 °C  taken by mine of "
    )
    assert shown[2].endswith("out of use: it is lost")
    assert record[0]["holders"][0]["run"] == "0123456789"
    assert [gpu["why_not"].partition(" ")[0] for gpu in record] == ["taken", "out"]


def test_without_a_gpu_that_is_said(monkeypatch, tmp_path, capsys):
    (tmp_path / "none.json").write_text('{"gpus": []}')
    monkeypatch.setenv("TRAINING_ORCHESTRATOR_PRETENDED_GPUS", str(tmp_path / "none.json"))

    assert trainctl("gpus") == 0

    assert "no NVIDIA GPU" in capsys.readouterr().out


@pytest.mark.usefixtures("pretended_gpus")
def test_a_program_has_its_gpus_to_its_end_and_the_signals_of_a_shell():
    line = 'sed -n "s/SigIgn:.//p" /proc/self/status; echo "$CUDA_VISIBLE_DEVICES"; read _'
    words = [sys.executable, "-m", "gateway", "gpus", "exec", "--count", "2", "--"]
    with (
        take(Allocation(uuids=("GPU-0",)), Holder.here(name="another")),
        subprocess.Popen(
            [*words, "sh", "-c", line],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        # What Python ignores, and `yes | head` needs.
        assert not int(process.stdout.readline(), 16) & 1 << signal.SIGPIPE - 1
        uuids = process.stdout.readline().strip().split(",")
        assert set(uuids) < {"GPU-1", "GPU-2", "GPU-3"}
        [holder] = holders(uuids[0])
        assert (holder.pid, holder.name) == (process.pid, "sh")

        process.communicate("\n", timeout=PATIENCE)
    assert [holders(uuid) for uuid in uuids] == [[], []]


@pytest.mark.usefixtures("pretended_gpus")
def test_a_program_that_cannot_have_its_gpus_is_not_started(capsys):
    assert trainctl("gpus", "exec", "--count", "5", "--", "true") == 1
    assert "--count asks for 5 GPUs" in (said := capsys.readouterr().err)
    assert "resources." not in said
    assert trainctl("gpus", "exec", "--", "no-such-program") == 1
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN  # a broken line ends nothing here
    assert "'no-such-program' cannot be started" in capsys.readouterr().err
    with take(Allocation(uuids=tuple(f"GPU-{n}" for n in range(4))), Holder.here(name="another")):
        assert trainctl("gpus", "exec", "--no-wait", "--", "true") == 1
    assert "is taken by another" in capsys.readouterr().err
    assert trainctl("gpus", "exec") == 2
    assert [holders(f"GPU-{n}") for n in range(4)] == [[]] * 4


@pytest.mark.usefixtures("pretended_gpus")
def test_a_gpu_is_put_to_use_again(capsys):
    mark_sick("GPU-2", "the driver reported Xid 79")

    assert trainctl("gpus", "heal", "GPU-2") == 0
    assert trainctl("gpus", "heal", "GPU-2") == 0
    assert trainctl("gpus", "heal", "GPU-") == 2
    assert trainctl("gpus", "heal", "") == 2

    said = capsys.readouterr()
    assert said.out.splitlines()[0] == "GPU-2 is in use again"
    assert "was not taken out of use" in said.out
    assert "'GPU-' is several GPUs" in said.err
