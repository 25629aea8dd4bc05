"""Training in two processes: the same updates as one process on the joint batches, files once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from rheograd.sim.io.checkpoint import load_checkpoint
from trainer_runs import rows

SCRIPT = """
import os, pathlib, shutil, signal, sys
import torch
from rheograd.operators.train import Trainer, TrainerConfig

def network():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()

def data(count=7):
    return list(torch.rand(count, 6, 3, generator=torch.Generator().manual_seed(0)).double())

def loss(model, batch, generator):
    noise = 0.01 * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)
    error = (model(batch + noise) - batch.prod(-1, keepdim=True)).square().mean()
    return {"loss": error, "noise": noise.square().mean()}

def train(folder, on_update=None, **options):
    config = TrainerConfig(updates=12, lr=0.02, clip=0.5, ema=0.8, validate_every=4, log_every=3,
                           seed=2, checkpoint_every=5, time_limit=60.0, **options)
    model = network()
    return model, Trainer(model, loss, config, folder).fit(data(), data(3), on_update)

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, rank = pathlib.Path(sys.argv[1]), int(os.environ["RANK"])
    def stop(u, history):
        if u == 6 and rank == 1:
            os.kill(os.getpid(), signal.SIGINT)
    train(folder / "whole", accumulate=2)
    try:
        train(folder / "broken", stop, accumulate=2)
    except KeyboardInterrupt:
        (folder / f"stopped{rank}").touch()
        torch.distributed.barrier()
    if rank == 0:
        shutil.copytree(folder / "broken", folder / "moved")
    torch.distributed.barrier()
    model, history = train(folder / "broken", accumulate=2)
    torch.save((model.state_dict(), history.loss, history.seconds), folder / f"rank{rank}.pt")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_two_processes(tmp_path):
    script = tmp_path / "pair.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, str(script), str(tmp_path)], capture_output=True, text=True, env=environment,
        timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    # one process with four batches an update instead of two with two
    names = {"__name__": "pair"}
    exec(compile(SCRIPT, str(script), "exec"), names)
    alone = tmp_path / "alone"
    with torch.random.fork_rng():
        model, history = names["train"](alone, accumulate=4)
    assert not torch.distributed.is_initialized()

    def close(weights, losses):
        for name, value in model.state_dict().items():
            torch.testing.assert_close(weights[name], value, rtol=1e-10, atol=1e-12)
        assert losses == pytest.approx(history.loss, rel=1e-10)

    clocks = []
    for rank in range(2):
        weights, losses, seconds = torch.load(tmp_path / f"rank{rank}.pt")
        close(weights, losses)
        clocks.append(seconds)
    assert clocks[0] == clocks[1]
    # both stopped after the update in which one of them was told to; one process can go on
    assert (tmp_path / "stopped0").exists() and (tmp_path / "stopped1").exists()
    stored = load_checkpoint(tmp_path / "moved" / "checkpoint.safetensors")
    assert len(stored.tensors["history.loss"]) == 7
    with torch.random.fork_rng():
        other, longer = names["train"](tmp_path / "moved", accumulate=4)
    close(other.state_dict(), longer.loss)
    # the files of one run, once
    for name in ("whole", "broken"):
        files = sorted(file.name for file in (tmp_path / name).iterdir())
        assert len(files) == 4 and files[1:] == [
            "checkpoint.safetensors", "metrics.jsonl", "model.safetensors"
        ]  # fmt: skip
        got, expected = rows(tmp_path / name), rows(alone)
        assert [set(row) for row in got] == [set(row) for row in expected]
        for row, other in zip(got, expected, strict=True):
            assert row == pytest.approx(other, rel=1e-10)
