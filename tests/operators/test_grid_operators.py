"""What every operator on grids keeps to: shapes, grids, precision, files, nesting, refusals, learning."""

import io

import numpy as np
import pytest
import torch
from rheograd.operators.data import RowBatches
from rheograd.operators.fno import FNO, FNOConfig
from rheograd.operators.layers import load_operator, relative_h1, relative_l2
from rheograd.operators.t1 import T1, T1U, T1Config, T1UConfig
from rheograd.operators.train import TrainerConfig, measure_operator, train_on_arrays
from rheograd.sim.core.errors import InputError
from rheograd.sim.io.checkpoint import save_checkpoint

CELLS = {1: (18,), 2: (16, 12), 3: (9, 8, 10)}
KINDS = pytest.mark.parametrize("kind", ["fno", "t1", "t1u"])
DIMS = pytest.mark.parametrize("dim", [1, 2, 3])


def build(kind, dim=2, a=2, b=3, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    sizes = {"in_channels": a, "out_channels": b, "hidden_channels": 6, "n_layers": 2}
    if kind == "fno":
        return FNO(FNOConfig((3,) * dim, **sizes, **options), generator=generator)
    modes, cells = (7,) * dim, CELLS[dim]
    if kind == "t1":
        model = T1(T1Config(modes, cells, **sizes, **options), generator=generator)
    else:
        sizes["n_layers"] = 1
        model = T1U(T1UConfig(modes, cells, **sizes, levels=2, **options), generator=generator)
    with torch.no_grad():  # the heads start at zero
        for name, value in model.named_parameters():
            if name in ("head", "out", "unet.last.weight"):
                value.normal_(0, value.shape[1] ** -0.5, generator=generator)
    return model


def fields(dim=2, a=2, count=3, cells=None, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, a, *(cells or CELLS[dim]), generator=generator, dtype=dtype)


@KINDS
@DIMS
def test_fields_become_fields_on_any_grid(kind, dim):
    model, x = build(kind, dim), fields(dim)
    y = model(x)
    assert y.shape == (3, 3, *CELLS[dim]) and y.std() > 1e-3
    finer = tuple(2 * n + 1 for n in CELLS[dim])
    assert model(fields(dim, cells=finer)).shape == (3, 3, *finer)
    apart = torch.cat([model(one) for one in x.split(1)])
    assert torch.allclose(y, apart, atol=1e-5 * float(y.detach().abs().max()))
    assert torch.equal(y, build(kind, dim)(x))  # the generator fixes the weights
    double = model.double()(x.double())
    assert torch.allclose(double.float(), y, atol=1e-4 * float(y.detach().abs().max()))


@KINDS
def test_weights_travel_alone_nested_and_with_their_configuration(kind, tmp_path):
    model, x = build(kind), fields()
    model.fit_scales(3 + 2 * x, fields(a=3))
    chain = torch.nn.Sequential(torch.nn.Identity(), model, torch.nn.Identity())
    stream = io.BytesIO()
    torch.save(chain.state_dict(), stream)
    stream.seek(0)
    state = torch.load(stream, weights_only=True)
    assert all(isinstance(v, torch.Tensor) and not v.is_complex() for v in state.values())
    other = torch.nn.Sequential(torch.nn.Identity(), build(kind, seed=5), torch.nn.Identity())
    assert not torch.equal(other(x), chain(x))
    other.load_state_dict(state)
    assert torch.equal(other(x), chain(x))
    for dtype in (torch.float32, torch.float64):
        model.to(dtype).save(tmp_path / "model.safetensors")
        loaded = load_operator(tmp_path / "model.safetensors")
        assert type(loaded) is type(model) and loaded.config == model.config and not loaded.training
        assert torch.equal(loaded(x.to(dtype)), model(x.to(dtype)))


def test_files_of_other_things_are_refused(tmp_path):
    for place in ("", "layers.mlp:MLP", "os:System", "fno:Nothing", "..fno:FNO", "t1.model:_Lift"):
        save_checkpoint(tmp_path / "a.safetensors", {"w": torch.ones(1)}, {"operator": place})
        with pytest.raises(InputError, match="an operator on grids"):
            load_operator(tmp_path / "a.safetensors")


@KINDS
def test_gradients_reach_inputs_and_every_weight(kind):
    model = build(kind).double()
    x = fields(dtype=torch.float64).requires_grad_()
    model(x).square().mean().backward()
    assert x.grad.abs().max() > 0
    missing = [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert missing == []
    direction = fields(seed=9, dtype=torch.float64)
    slope = float((x.grad * direction).sum())
    h = 1e-6
    with torch.no_grad():
        ends = [float(model(x + s * h * direction).square().mean()) for s in (1, -1)]
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(slope, rel=1e-6)


@KINDS
def test_bad_fields_are_named(kind):
    model, x = build(kind), fields()
    with pytest.raises(InputError, match=r"expected fields \(B, 2, n×n\); got \(3, 1, 16, 12\)"):
        model(x[:, :1])
    with pytest.raises(InputError, match="2 channels on 2 axes"):
        model(x[..., 0])
    with pytest.raises(InputError, match="float32, as the weights; got torch.float64"):
        model(x.double())
    x[1, 0, 3, 4] = float("nan")
    with pytest.raises(InputError, match=r"1 values that are not, the first at \(1, 0, 3, 4\)"):
        model(x)
    with pytest.raises(InputError, match="at least .* (cells|samples) .* got"):
        model(x[:1, :, :, :5])


def shifted_waves(count, n, seed=0):
    """Smoothing of periodic fields with a shift: a linear operator that every grid can represent."""
    generator = torch.Generator().manual_seed(seed)
    k = torch.arange(1, 5)
    a, b = torch.randn(2, count, 4, generator=generator)
    t = torch.arange(n) / n
    phase = 2 * torch.pi * k[:, None] * t
    x = a @ torch.cos(phase) + b @ torch.sin(phase)
    gain = 1 / k
    y = (a * gain) @ torch.cos(phase - 1.0) + (b * gain) @ torch.sin(phase - 1.0)
    return 300 + 20 * x[:, None], 1e5 * (2 + y[:, None])


LEARN = {
    "fno": lambda g: FNO(FNOConfig((5,), hidden_channels=12, n_layers=2, sampling="points"), generator=g),
    "t1": lambda g: T1(
        T1Config((9,), (32,), hidden_channels=16, n_layers=2, sampling="points"), generator=g
    ),
    "t1u": lambda g: T1U(
        T1UConfig((9,), (32,), hidden_channels=8, levels=2, sampling="points"), generator=g
    ),
}  # fmt: skip


@KINDS
def test_arrays_to_operator_and_to_another_grid(kind, tmp_path):
    """Kelvin in, pascal out, from numpy; learned on 32 cells, used on 64."""
    x, y = (v.numpy().astype(np.float64) for v in shifted_waves(180, 32))
    model = LEARN[kind](torch.Generator().manual_seed(0))
    config = TrainerConfig(updates=150, optimizer="adamw", lr=5e-3, schedule="cosine")
    fitted = train_on_arrays(model, x, y, config, batch=20, folder=tmp_path / "run")
    found = fitted.metrics["relative_l2"]
    limit = 0.5 if kind == "t1u" else 0.15  # a U-Net has to find out that this map is linear
    assert found < limit * fitted.metrics["relative_l2 of the mean"]
    assert fitted.metrics["rmse 0"] < limit * y.std() and fitted.metrics["worst"] >= found
    fine = measure_operator(fitted.model, *shifted_waves(40, 64, seed=8))
    coarse = measure_operator(fitted.model, *shifted_waves(40, 32, seed=8))
    print(
        f"{kind}: relative L2 on 32 cells {coarse['relative_l2']:.4f}, on 64 {fine['relative_l2']:.4f}"
    )
    assert fine["relative_l2"] < 1.1 * coarse["relative_l2"]
    again = load_operator(tmp_path / "run" / "model.safetensors")
    probe = torch.as_tensor(x[:2], dtype=torch.float32)
    assert torch.equal(again(probe), fitted.model(probe))


def test_other_losses_and_own_validation_samples():
    x, y = shifted_waves(24, 16)
    model = build("fno", 1, 1, 1)
    config = TrainerConfig(updates=3)
    fitted = train_on_arrays(
        model, x, y, config, validation=(x[:4], y[:4]), loss=relative_h1, batch=8
    )
    best = min(row["loss"] for row in fitted.history.validation)
    with torch.no_grad():
        assert float(relative_h1(fitted.model(x[:4]), y[:4]).mean()) == pytest.approx(
            best, rel=1e-5
        )
        error = float(relative_l2(fitted.model(x[:4]), y[:4]).mean())
    assert fitted.metrics["relative_l2"] == pytest.approx(error, rel=1e-5)


def test_arrays_that_do_not_fit_are_named():
    x, y = shifted_waves(8, 16)
    model = build("t1", 1, 1, 1)
    for a, b, word in (
        (x, y[:7], "targets for 8 inputs"), (x, y[..., ::2], "put both on one grid"),
        (x[:0], y[:0], "at least one"), (x, torch.cat([y, y], 1), r"fields \(B, 1, n\)"),
        (x, y * float("inf"), "finite fields"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=word):
            train_on_arrays(model, a, b, TrainerConfig(updates=1))
    with pytest.raises(InputError, match="a share that leaves samples"):
        train_on_arrays(model, x[:2], y[:2], TrainerConfig(updates=1), validation=0.2)
    with pytest.raises(InputError, match="one number of samples"):
        RowBatches({"x": x, "y": y[:5]}, 2)


def test_row_batches_repeat_by_epoch():
    rows = RowBatches({"x": torch.arange(10)}, 4, seed=3)
    first = [rows[i].rows["x"].tolist() for i in range(len(rows))]
    rows.set_epoch(1)
    second = [rows[i].rows["x"].tolist() for i in range(len(rows))]
    rows.set_epoch(0)
    assert first == [rows[i].rows["x"].tolist() for i in range(2)] != second
    assert len(set(sum(first, []))) == 8
    ordered = RowBatches({"x": torch.arange(10)}, 4, seed=None)
    assert sum((ordered[i].rows["x"].tolist() for i in range(len(ordered))), []) == list(range(10))
