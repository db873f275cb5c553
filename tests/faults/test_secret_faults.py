"""Secrets are where they belong alone."""

from __future__ import annotations

import asyncio
import stat
from uuid import uuid4

import pytest

from blocks.home import keys
from tests.clouds.vaults import Vaults
from tests.faults.canaries import TOKENS, Canaries
from tests.waiting import until


@pytest.mark.thorough
@pytest.mark.fault(44, "secrets")
async def test_the_secrets_of_a_run_are_where_they_belong_alone(scene, survived, shared):
    """The search itself is that of `scene`, after this test as after every other."""
    setup = ['test -n "$HF_TOKEN" || exit 9', "echo token $HF_TOKEN >/dev/null"]

    run = await scene.run(scene.job(setup=setup))
    scene.injected(run)
    # Filed by the mark of its order at first, and by the machine's id from then on.
    private_key = await until(lambda: next(keys().glob("runpod-*/id_ed25519"), None))
    mode = stat.S_IMODE(private_key.stat().st_mode)
    canaries = Canaries(scene.clouds)
    canaries.look()
    await survived(run)

    assert mode == 0o600
    assert len(canaries.secrets) == 4  # two tokens, the account's key, the machine's
    assert list((shared / "prefect").rglob("*.db"))


@pytest.mark.thorough
@pytest.mark.fault(44, "secrets")
async def test_secrets_from_files_and_vaults_stay_out_of_sight_even_if_the_job_prints_them(
    scene, survived, tmp_path, monkeypatch
):
    """The provider's key lies in a vault, the Hub's token in a file, the tracker's behind an address."""
    hub, tracker = tmp_path / "hub-token", tmp_path / "tracker-key"
    for path, name in ((hub, "HF_TOKEN"), (tracker, "WANDB_API_KEY")):
        path.touch(mode=0o600)
        path.write_text(TOKENS[name])
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN_FILE", str(hub))
    monkeypatch.setenv("WANDB_API_KEY", f"secret://file{tracker}")
    setup = ['echo "the token is $HF_TOKEN, the key $WANDB_API_KEY"', 'test -n "$WANDB_API_KEY"']
    with Vaults(held={"cloud": scene.cloud.key}) as vaults:
        for name, value in vaults.environ(tmp_path).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("RUNPOD_API_KEY", "secret://aws/cloud")

        run = await scene.run(scene.job(setup=setup))
        scene.injected(run)
        await scene.said(r"the token is \*\*\*, the key \*\*\*")
        await survived(run)

        assert "cloud" in vaults.asked


@pytest.mark.fault(44, "secrets")
async def test_a_secret_in_an_open_file_or_an_argument_is_found(tmp_path):
    canaries = Canaries([])
    canaries.secrets = {word := uuid4().hex}
    private, open_to_all = tmp_path / "private", tmp_path / "open"
    for path, mode in ((private, 0o600), (open_to_all, 0o640)):
        path.write_text(f"the key is {word}")
        path.chmod(mode)
    process = await asyncio.create_subprocess_exec("sleep", "60", env={"KEY": word})
    teller = await asyncio.create_subprocess_exec("sh", "-c", "read line", word, stdin=-1)

    canaries.look()

    for started in (process, teller):
        started.kill()
        await started.communicate()
    assert canaries.leaks(tmp_path) == [open_to_all]
    assert len(canaries.told) == 1
