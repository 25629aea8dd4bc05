"""Options of the training loop: what each does, and what is refused."""

from __future__ import annotations

import dataclasses
import math
import sys
import threading
import time

import pytest
import torch
from rheograd.operators.train import Trainer, TrainerConfig
from rheograd.sim.core.errors import InputError, StateError
from torch import nn
from trainer_runs import at, data, line, plain, same


@pytest.mark.parametrize("nonfinite", ["error", "skip"])
def test_a_gradient_that_is_not_finite(nonfinite):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    batches = data(4)
    batches[2] = batches[2] * math.nan
    config = TrainerConfig(updates=4, shuffle=False, nonfinite=nonfinite, ema=0.5)
    fit = Trainer(model, plain, config).fit
    if nonfinite == "error":
        with pytest.raises(StateError, match="update 2.*0.weight.*loss nan") as error:
            fit(batches)
        assert (error.value.step, error.value.field) == (2, "0.weight")
    else:
        history = fit(batches)
        assert [math.isfinite(v) for v in history.gradient_norm] == [True, True, False, True]
        assert math.isfinite(history.loss[3])


def test_accumulated_batches_are_one_joint_batch():
    F64 = torch.float64
    parts = data(6, dtype=F64)
    joint = [torch.cat(parts[i : i + 3]) for i in (0, 3)]
    results = []
    for source, count in ((parts, 3), (joint, 1)):
        model = line(dtype=F64)
        config = TrainerConfig(updates=4, lr=0.1, accumulate=count, shuffle=False, clip=0.1)
        history = Trainer(model, plain, config).fit(source)
        results.append((model.weight.detach(), history.loss))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=0)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-12)


def test_learning_rates():
    config = TrainerConfig(updates=100, schedule="cosine", warmup=10, final=0.1)
    assert config.learning_rate(4, 100, 0.0) == pytest.approx(
        0.5 * (0.1 + 0.45 * (1 + math.cos(0.04 * math.pi)))
    )
    assert config.learning_rate(100, 100, 0.0) == pytest.approx(0.1)
    decay = TrainerConfig(time_limit=10.0, schedule="exponential", final=0.01)
    assert decay.learning_rate(7, None, 5.0) == pytest.approx(0.1)
    # first update of Adam is lr in every entry
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    before = [p.detach().clone() for p in model.parameters()]
    config = TrainerConfig(updates=1, lr=1e-2, lr_groups={"0.bias": 1e-4, "0.*": 1e-3})
    Trainer(model, plain, config).fit(data())
    moves = [(p - q).abs().max().item() for p, q in zip(model.parameters(), before, strict=True)]
    assert moves == pytest.approx([1e-3, 1e-4, 1e-2, 1e-2], rel=1e-2)
    with pytest.raises(InputError, match="'2[.].*0.weight"):
        Trainer(model, plain, dataclasses.replace(config, lr_groups={"2.*": 1.0}))


def test_average_of_the_weights():
    model, config = line(), TrainerConfig(updates=30, lr=0.1, ema=0.6)
    average, last = model.weight.detach().clone(), []

    def follow(u, history):
        d = min(0.6, u / (9 + u))
        average.mul_(d).add_(model.weight.detach(), alpha=1 - d)
        last.append(model.weight.detach().clone())

    Trainer(model, plain, config).fit(data(), on_update=follow)
    torch.testing.assert_close(model.weight.detach(), average)
    assert not torch.allclose(model.weight, last[-1])
    # looking at the average does not disturb the training
    watched = line()
    config = dataclasses.replace(config, validate_every=2, keep_best=False)
    Trainer(watched, plain, config).fit(data(), validate=data(2))
    assert torch.equal(watched.weight, model.weight)


def test_best_patience_and_callables():
    values, seen = iter([3.0, math.nan, 1.0, 2.0, 1.5, 0.0]), []

    def judge(model):
        assert not model.training
        seen.append(model.weight.detach().clone())
        return {"loss": next(values), "rollout": 7.0}

    model = line()
    config = TrainerConfig(updates=50, validate_every=3, patience=2)
    history = Trainer(model, plain, config).fit(data(), judge)
    assert history.updates == 15 and history.best == {"update": 9, "loss": 1.0, "rollout": 7.0}
    assert torch.equal(model.weight, seen[2]) and model.training
    last = line()
    values = iter([1.0, 2.0])
    config = TrainerConfig(updates=6, validate_every=3, keep_best=False)
    Trainer(last, plain, config).fit(data(), judge)
    assert torch.equal(last.weight, seen[-1])
    with pytest.raises(InputError, match='"loss"; got error'):
        Trainer(line(), plain, config).fit(data(), lambda model: {"error": 1.0})


def test_a_limit_of_time():
    history = Trainer(
        line(), plain, TrainerConfig(time_limit=0.2, schedule="cosine", lr=0.1)
    ).fit(data())  # fmt: skip
    assert history.seconds[-2] < 0.2 <= history.seconds[-1]
    expected = 0.05 * (1 + math.cos(math.pi * history.seconds[-2] / 0.2))
    assert history.lr[-1] == pytest.approx(expected)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision(precision):
    model, kinds = line(), set()

    def watched(model, batch, generator):
        out = model(batch)
        kinds.add(out.dtype)
        # large gradients make fp16 search its scale
        return 1e2 * (out.float() - batch.prod(-1, keepdim=True)).square().mean()

    config = TrainerConfig(updates=150, lr=0.02, precision=precision)
    history = Trainer(model, watched, config).fit(data())
    assert kinds == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert model.weight.dtype == torch.float32
    norms = [math.isfinite(v) for v in history.gradient_norm]
    assert all(norms[20:]) and all(norms) == (precision == "bf16")
    assert history.loss[-1] < 0.1 * history.loss[0]


def test_sources_of_batches(tmp_path):
    config = TrainerConfig(updates=17, checkpoint_every=None)

    def go(source, folder=None, on_update=None, **options):
        model = line()
        trainer = Trainer(model, plain, dataclasses.replace(config, **options), folder)
        return model, trainer.fit(source, on_update=on_update)

    same(go(data()), go(data(), prefetch=3))
    loader = torch.utils.data.DataLoader(data(), batch_size=None, shuffle=True)
    expected = go(loader)
    with pytest.raises(KeyboardInterrupt):

        def stop():
            raise KeyboardInterrupt

        go(loader, tmp_path, at(10, stop))
    same(expected, go(loader, tmp_path))
    orders = [expected[1].loss[i : i + 7] for i in (0, 7)]
    assert orders[0] != orders[1]

    class Told:
        """A set of three batches, composed anew in every epoch."""

        def __init__(self):
            self.epochs, self.asked, self.lock = [], [], threading.Lock()

        def __len__(self):
            return 3

        def __getitem__(self, index):
            time.sleep(0.01)
            with self.lock:
                self.asked.append((self.epochs[-1], index))
            return torch.ones(2, 3)

        def set_epoch(self, epoch):
            self.epochs.append(epoch)

    for prefetch in (0, 2):
        go(told := Told(), updates=6, prefetch=prefetch)
        assert sorted(told.asked)[:6] == [(e, i) for e in (0, 1) for i in range(3)]


class Short:
    def __len__(self):
        return 5

    def __iter__(self):
        return iter(data(4))


@pytest.mark.parametrize(
    "source, words",
    [
        ([], "one batch; got none"),
        (iter(data()), "got .*without len"),
        ([(1, 2)], "with .to.device.; got tuple"),
        (Short(), "5 batches, as len.. says; got 4"),
    ],
)
def test_wrong_batches(source, words):
    with pytest.raises(InputError, match=words):
        Trainer(line(), plain, TrainerConfig(updates=6)).fit(source)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda m, b, g: m(b), r"scalar .*\(6, 1\)"),
        (lambda m, b, g: {"error": m(b).sum()}, "keys error"),
        (lambda m, b, g: 1.0, "float"),
        (lambda m, b, g: torch.ones((), requires_grad=True), "depends on the parameters"),
    ],
)
def test_wrong_losses(wrong, words):
    with pytest.raises(InputError, match=words):
        Trainer(line(), wrong, TrainerConfig(updates=1)).fit(data())


@pytest.mark.parametrize(
    "options, words",
    [
        ({"updates": None}, "updates, epochs or time_limit"),
        ({"epochs": 3}, "not updates and epochs"),
        ({"updates": 0}, "integer updates >= 1; got 0"),
        ({"accumulate": 1.5}, "integer accumulate >= 1; got 1.5"),
        ({"lr": -1.0}, "finite lr > 0; got -1"),
        ({"lr_groups": {"a.*": math.nan}}, "lr_groups.*; got nan"),
        ({"optimizer": "sgd"}, "adam, adamw, adamax, soap; got 'sgd'"),
        ({"schedule": "exponential"}, "final > 0"),
        ({"ema": 1.0}, "ema"),
        ({"warmup": -1}, "warmup >= 0"),
        ({"precision": "half"}, "float32, bf16, fp16"),
    ],
)
def test_wrong_configurations(options, words):
    with pytest.raises(InputError, match=words):
        TrainerConfig(**{"updates": 1, **options})


def test_nothing_to_train():
    with pytest.raises(InputError, match="trainable parameters"):
        Trainer(line().requires_grad_(False), plain, TrainerConfig(updates=1))


def test_it_runs_in_another_thread():
    histories = []
    fit = Trainer(line(), plain, TrainerConfig(updates=3)).fit
    thread = threading.Thread(target=lambda: histories.append(fit(data())))
    thread.start()
    thread.join()
    assert histories[0].updates == 3


def test_tensorboard_names_its_extra(tmp_path, monkeypatch):
    config = TrainerConfig(updates=2, tensorboard=True)
    with pytest.raises(InputError, match="folder"):
        Trainer(line(), plain, config)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"rheograd\[tensorboard\]"):
        Trainer(line(), plain, config, tmp_path).fit(data())


def test_tensorboard_gets_the_metrics(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TrainerConfig(updates=4, log_every=2, tensorboard=True)
    history = Trainer(line(), plain, config, tmp_path).fit(data())
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    assert [e.step for e in events] == [2, 4]
    assert events[1].value == pytest.approx(sum(history.loss[2:]) / 2)
