"""The training loop: exact repetition and resuming, interrupts, refusals, metrics."""

from __future__ import annotations

import dataclasses
import os
import signal

import pytest
import torch
from rheograd.operators.train import Trainer, TrainerConfig
from rheograd.sim.core.errors import InputError
from rheograd.sim.io.checkpoint import load_checkpoint
from torch import nn
from trainer_runs import at, data, line, loss, network, plain, rows, same

FULL = TrainerConfig(
    updates=23, optimizer="adamw", lr=0.02, lr_groups={"0.*": 0.005}, weight_decay=0.01,
    schedule="cosine", warmup=4, clip=0.5, accumulate=2, ema=0.9, seed=3, validate_every=4,
    log_every=3, checkpoint_every=5,
)  # fmt: skip
"""Everything at once; 46 batches of 7 per epoch, so checkpoints fall inside epochs."""


def run(folder=None, config=FULL, on_update=None, model=None, validate=None, source=None):
    model = model or network()
    validate = data(3, seed=9) if validate is None else validate
    trainer = Trainer(model, loss, config, folder)
    return model, trainer.fit(source or data(), validate, on_update)


class Stop(Exception):
    """A crash."""


def crash():
    raise Stop


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run without a break, with its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return *run(folder), folder


def test_it_learns_and_records(whole):
    _, history, folder = whole
    assert history.updates == 23 == len(history.seconds) == len(history.terms["error"])
    assert sum(history.loss[-5:]) < 0.5 * sum(history.loss[:5])
    assert [row["update"] for row in history.validation] == [4, 8, 12, 16, 20, 23]
    train = [row for row in rows(folder) if "train/loss" in row]
    assert [row["update"] for row in train] == list(range(3, 22, 3))
    assert train[0]["train/loss"] == pytest.approx(sum(history.loss[:3]) / 3)
    assert train[0]["epoch"] == pytest.approx(6 / 7)
    judged = [row for row in rows(folder) if "validation/loss" in row]
    assert [row["validation/loss"] for row in judged] == [r["loss"] for r in history.validation]


def test_the_same_seed_repeats_and_torch_keeps_its_own(whole):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = run()
    assert torch.equal(torch.rand(3), expected)
    same(whole, again)
    other = run(config=dataclasses.replace(FULL, seed=4))
    assert other[1].loss != again[1].loss


@pytest.mark.parametrize("update", [3, 12, 20])
def test_a_crash_is_resumed_to_the_bit(whole, tmp_path, update):
    """From the last checkpoint, inside an epoch; lines after it are cut from the metrics."""
    with pytest.raises(Stop):
        run(tmp_path, on_update=at(update, crash))
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write('{"update": 9')  # cut by a kill
    seen = []
    again = run(tmp_path, on_update=lambda u, h: seen.append(u), model=network())
    assert seen[0] == 5 * ((update - 1) // 5) + 1
    same(whole, again)
    assert rows(tmp_path) == rows(whole[2])
    # a finished run is not repeated
    finished = run(tmp_path, on_update=at(23, crash), model=network())
    same(whole, finished)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("place", ["loss", "on_update", "validate"])
def test_an_interrupt_saves_the_last_finished_update(whole, tmp_path, place):
    """Update 12 is validated, so that the break falls before, inside or after its validation."""
    model, calls = network(), {True: 0, False: 0}

    def stop():
        os.kill(os.getpid(), signal.SIGINT)

    def hook(module, inputs):
        calls[module.training] += 1
        if (place, module.training, calls[module.training]) in BREAKS:
            stop()

    handle, before = model.register_forward_pre_hook(hook), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, on_update=at(12, stop) if place == "on_update" else None, model=model)
    handle.remove()
    assert signal.getsignal(signal.SIGINT) is before
    stored = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert len(stored.tensors["history.loss"]) == 12
    assert len(stored.config["validation"]) == 2
    same(whole, run(tmp_path))
    assert rows(tmp_path) == rows(whole[2])


BREAKS = {("loss", True, 23), ("validate", False, 8)}
"""Calls of the model in update 12, the 11th of two batches each, and in the third validation."""


def test_the_config_file_of_weights(whole, tmp_path):
    model, history, folder = whole
    other = network()
    load_checkpoint(folder / "model.safetensors", other)
    same((other, history), whole[:2])
    Trainer(
        model := network(), plain, TrainerConfig(updates=1), tmp_path, model_config={"width": 8}
    ).fit(data())
    stored = load_checkpoint(tmp_path / "model.safetensors", network())
    assert stored.config == {"width": 8}
    assert torch.equal(stored.tensors["0.weight"], model[0].weight)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"config": dataclasses.replace(FULL, lr=0.5)}, r"lr = 0.02; got 0.5"),
        ({"config": dataclasses.replace(FULL, updates=30)}, "updates = 23; got 30"),
        ({"model": network(9)}, r"tensor 0.weight = \(8, 3\).*got \(9, 3\)"),
        ({"model": network().double()}, "float32; got .*float64"),
        ({"model": nn.Sequential(*network(), nn.Linear(1, 1))}, "tensor 5.weight = nothing"),
        ({"source": data(8)}, "batches per epoch = 7; got 8"),
    ],
)
def test_another_run_is_refused(whole, change, words):
    with pytest.raises(InputError, match=words):
        run(whole[2], **change)


def test_what_does_not_change_the_numbers_may_change(tmp_path):
    def go(folder=None, **options):
        model = line()
        config = TrainerConfig(log_every=1, **options)
        return model, Trainer(model, plain, config, folder).fit(data())

    go(tmp_path, updates=5, checkpoint_every=None)
    longer = go(tmp_path, epochs=2, time_limit=60.0, prefetch=2, checkpoint_every=3)
    same(longer, go(updates=14))
    assert len(rows(tmp_path)) == 14


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_on_cuda(tmp_path, precision):
    def on(folder=None, on_update=None):
        model, config = network().cuda(), dataclasses.replace(FULL, precision=precision)
        trainer = Trainer(model, loss, config, folder)
        return model, trainer.fit(data(), data(3, seed=9), on_update)

    expected = on()
    with pytest.raises(Stop):
        on(tmp_path, at(12, crash))
    again = on(tmp_path)
    assert again[0][0].weight.is_cuda and again[1].updates == 23
    torch.testing.assert_close(again[0][0].weight, expected[0][0].weight, rtol=1e-3, atol=1e-4)
