"""Checkpoints: exact round trips, clear refusals, and no moment at which one is lost."""

from __future__ import annotations

import multiprocessing
import os

import pytest
import rheograd
import torch
from rheograd.sim.core.errors import RheogradError
from rheograd.sim.io import checkpoint
from rheograd.sim.io.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from safetensors.torch import save_file
from torch import nn


def network(width=8, dtype=torch.float32):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
    return net.to(dtype)


def train(net, optimizer, steps, generator):
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.rand(5, 3, generator=generator)).square().sum().backward()
        optimizer.step()


def test_training_goes_on_exactly(tmp_path):
    path = tmp_path / "runs" / "net.safetensors"
    net, config = network(), {"width": 8, "laws": ["jelly"]}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    train(net, optimizer, 3, torch.Generator().manual_seed(1))
    assert save_checkpoint(path, net, config, optimizer) == path
    other = network()
    again = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    loaded = load_checkpoint(path, other, again)
    assert loaded.config == config and loaded.version == rheograd.__version__
    train(net, optimizer, 2, torch.Generator().manual_seed(2))
    train(other, again, 2, torch.Generator().manual_seed(2))
    for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_tensors_come_back_whatever_their_memory(tmp_path, generator):
    base = torch.rand(4, 6, generator=generator, dtype=torch.float64)
    tensors = {
        "base": base, "view": base[1], "turned": base.T, "scalar": base[0, 0],
        "index": torch.arange(3), "leaf": nn.Parameter(base.clone()),
    }
    save_checkpoint(tmp_path / "t.safetensors", tensors)
    loaded = load_checkpoint(tmp_path / "t.safetensors")
    assert loaded.config == {} and loaded.optimizer_state is None
    assert set(loaded.tensors) == set(tensors)
    for name, value in tensors.items():
        assert torch.equal(loaded.tensors[name], value.detach())
        assert loaded.tensors[name].dtype == value.dtype


def test_tied_weights_stay_tied(tmp_path):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    save_checkpoint(tmp_path / "t.safetensors", net)
    other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    other[1].weight = other[0].weight
    load_checkpoint(tmp_path / "t.safetensors", other)
    assert torch.equal(other[1].weight, net[0].weight) and other[1].weight is other[0].weight


def test_module_keeps_its_precision(tmp_path):
    save_checkpoint(tmp_path / "t.safetensors", network())
    net = network(dtype=torch.float64)
    load_checkpoint(tmp_path / "t.safetensors", net)
    assert net[0].weight.dtype == torch.float64


def test_only_the_last_optimizer_file_stays(tmp_path):
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for name in ("a.safetensors", "a.b.safetensors", "a.safetensors"):
        save_checkpoint(tmp_path / name, net, {}, optimizer)
    assert len(list(tmp_path.glob("*.pt"))) == 2
    for name in ("a.safetensors", "a.b.safetensors"):
        assert load_checkpoint(tmp_path / name).optimizer_state["param_groups"]
    save_checkpoint(tmp_path / "a.safetensors", net)
    assert load_checkpoint(tmp_path / "a.safetensors").optimizer_state is None
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("stage", ["fsync", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interruption_keeps_the_checkpoint_before(tmp_path, monkeypatch, stage, error):
    path, net = tmp_path / "net.safetensors", network()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.5)
    save_checkpoint(path, net, {"epoch": 1}, optimizer)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(*_):
        raise error

    monkeypatch.setattr(checkpoint.os, stage, fail)
    expected = CheckpointError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        save_checkpoint(path, net, {"epoch": 2}, optimizer)
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert load_checkpoint(path, net, optimizer).config == {"epoch": 1}


def save_with_limit(path, pipe):
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    try:
        save_checkpoint(path, {"w": torch.zeros(10_000)})
    except CheckpointError as error:
        pipe.send(str(error))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a file size limit")
def test_full_disk_keeps_the_checkpoint_before(tmp_path):
    path, context = tmp_path / "net.safetensors", multiprocessing.get_context("fork")
    save_checkpoint(path, {"w": torch.ones(3)}, {"epoch": 1})
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=save_with_limit, args=(path, send))
    child.start()
    assert receive.poll(30), "saving neither failed nor ended"
    assert "is untouched" in receive.recv()
    child.join()
    assert torch.equal(load_checkpoint(path).tensors["w"], torch.ones(3))
    assert list(tmp_path.iterdir()) == [path]


def test_damage_is_named(tmp_path):
    path, net = tmp_path / "net.safetensors", network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    train(net, optimizer, 1, torch.Generator().manual_seed(1))
    with pytest.raises(FileNotFoundError, match="Check the path"):
        load_checkpoint(path)
    save_checkpoint(path, net, {}, optimizer)
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=f"got {length} bytes.*earlier checkpoint"):
            load_checkpoint(path, net)
    path.write_bytes(whole)
    companion = next(tmp_path.glob("*.pt"))
    state = companion.read_bytes()
    for length in (0, 100, len(state) // 2):
        companion.write_bytes(state[:length])
        with pytest.raises(CheckpointError, match=f"optimizer state; got {length} bytes"):
            load_checkpoint(path, net)
    companion.unlink()
    with pytest.raises(CheckpointError, match="Copy both files"):
        load_checkpoint(path, net)
    save_file({"w": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="load_file"):
        load_checkpoint(tmp_path / "foreign.safetensors")


def test_mismatch_loads_nothing_and_lists_all(tmp_path):
    path, net = tmp_path / "net.safetensors", network(8)
    save_checkpoint(path, net, {"width": 8})
    wide = nn.Sequential(nn.Linear(3, 9), nn.BatchNorm1d(9), nn.Linear(9, 1), nn.Linear(1, 1))
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    with pytest.raises(ValueError, match=r"0\.weight has shape \(8, 3\), not \(9, 3\)") as caught:
        load_checkpoint(path, wide)
    assert "3.weight is missing" in str(caught.value) and "config" in str(caught.value)
    assert isinstance(caught.value, RheogradError)
    with pytest.raises(ValueError, match=r"2\.bias is not in the module"):
        load_checkpoint(path, nn.Sequential(net[0], net[1]))
    with pytest.raises(CheckpointError, match="saved without one"):
        load_checkpoint(path, network(8), torch.optim.SGD(net.parameters(), lr=1.0))
    assert all(torch.equal(before[name], value) for name, value in wide.state_dict().items())


def test_wrong_arguments_write_nothing(tmp_path):
    with pytest.raises(TypeError, match="'epoch'"):
        save_checkpoint(tmp_path / "a", {"epoch": 3})
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path / "a", {}, {"path": tmp_path})
    assert list(tmp_path.iterdir()) == []
