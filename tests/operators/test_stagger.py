"""NeuralStagger: split and merge, sub-solvers in groups, levels, modes, refusals."""

from __future__ import annotations

import pytest
import torch
from rheograd.operators.fno import FNO, FNOConfig
from rheograd.operators.stagger import Group, SpaceSplit, StaggerSolver, TimeSplit, warm_start
from rheograd.operators.t1 import T1, T1U, T1Config, T1UConfig
from rheograd.sim.core.errors import InputError, StateError
from rheograd.sim.core.gradients import taylor_test

SPLITS = [(1, 2), (2, 2), (3, 2), (4, 2), ((2, 4), 2), (2, 3), (3, 3), ((1, 2, 3), 3), (4, 3)]


def factory(kind="fno", dim=2, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def make(a, b):
        sizes = {"in_channels": a, "out_channels": b, "hidden_channels": 6}
        if kind == "fno":
            return FNO(FNOConfig((2,) * dim, n_layers=2, **sizes), generator=generator)
        cls, config = (T1, T1Config) if kind == "t1" else (T1U, T1UConfig)
        options = {"levels": 1} if kind == "t1u" else {}
        net = cls(
            config((5,) * dim, (6,) * dim, n_layers=1, **sizes, **options), generator=generator
        )
        for p in net.parameters():  # heads start at zero
            if not p.any():
                p.data.normal_(0, 0.1, generator=generator)
        return net

    return make


def solver(coupling="none", s=2, s_T=1, mode="multi", kind="fno", dim=2, **options):
    options = {"dt": 0.1, "context": 1, **options}
    split = SpaceSplit(s, dim)
    return StaggerSolver(factory(kind, dim), split, TimeSplit(s_T, mode), coupling, **options)


def fields(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("s, dims", SPLITS)
def test_split_and_merge_are_inverse_to_the_bit(s, dims):
    split = SpaceSplit(s, dims)
    u = fields(2, 3, *(12 for _ in split.s))
    parts = split.split(u)
    assert torch.equal(split.merge(parts), u)
    for offset, part in zip(split.offsets, parts, strict=True):
        where = tuple(slice(o, None, f) for o, f in zip(offset, split.s, strict=True))
        assert torch.equal(part, u[(..., *where)])
    assert len(parts) == split.count


def test_split_is_linear_and_differentiable():
    split = SpaceSplit((2, 3))
    u = fields(1, 1, 4, 6).double().requires_grad_()
    weight = fields(6, 1, 1, 2, 2).double()
    (split.split(u) * weight).sum().backward()
    assert torch.equal(u.grad, split.merge(weight))


def test_levels_are_coarser_grids():
    split, u = SpaceSplit(4), fields(1, 1, 8, 8)
    for stride in (1, 2, 4):
        rows = [split.offsets.index(o) for o in split.level(stride)]
        assert len(rows) == (4 // stride) ** 2
        coarse = split.at_level(stride).merge(split.split(u)[rows])
        assert torch.equal(coarse, u[..., ::stride, ::stride])
    with pytest.raises(InputError, match="a stride that divides s"):
        split.level(3)


@pytest.mark.parametrize("coupling", ["none", "halo", "stack"])
@pytest.mark.parametrize("kind", ["fno", "t1", "t1u"])
def test_every_backbone_steps_near_the_identity_in_one_launch_or_many(kind, coupling):
    model = solver(coupling, 2, 3, kind=kind)
    u, f = fields(2, 1, 12, 12), fields(1, 1, 12, 12)
    frames = model(u, f)
    assert frames.shape == (2, 3, 1, 12, 12)
    moved = (frames - u[:, None]).detach().abs().amax((0, 2, 3, 4))
    assert 0 < float(moved.max()) < 0.3
    model.nets.execution = "loop"
    assert torch.allclose(model(u, f), frames, atol=1e-6)


def test_three_dimensions_shares_weights_and_other_channels():
    model = solver("none", (1, 2, 2), 2, dim=3, share=True, channels=3, context=0)
    u = fields(1, 3, 5, 10, 10)
    assert model(u).shape == (1, 2, 3, 5, 10, 10)
    assert model.nets.count == 1 and model.inputs == 3 + 3
    parts = [model.rollout(u, 2, level=[o]) for o in model.split.offsets]
    assert torch.allclose(model.split.merge(torch.cat(parts)), model(u), atol=1e-6)


def plain(a, b):
    """A backbone that does not know where it is: a convolution around the torus."""
    net = torch.nn.Conv2d(a, b, 3, padding=1, padding_mode="circular")
    net.weight.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(4))
    return net


@pytest.mark.parametrize("coupling", ["none", "halo"])
def test_equal_sub_solvers_commute_with_shifts_of_one_fine_cell(coupling):
    split, options = SpaceSplit(2), {"dt": 0.1, "context": 1, "share": True, "shifted": False}
    model = StaggerSolver(plain, split, TimeSplit(2), coupling, **options)
    assert model.inputs == 2 * (4 if coupling == "halo" else 1)
    u, f = fields(2, 1, 12, 12), fields(1, 1, 12, 12)
    moved = model(u.roll((1, 3), (-2, -1)), f.roll((1, 3), (-2, -1)))
    assert torch.allclose(moved, model(u, f).roll((1, 3), (-2, -1)), atol=1e-6)
    told = StaggerSolver(plain, split, TimeSplit(2), coupling, **{**options, "shifted": True})
    assert told.inputs == model.inputs + 2


def test_a_fine_solver_starts_coarser_ones_and_more_heads():
    source = solver("none", 1)
    u, f = fields(2, 1, 12, 12), fields(1, 1, 12, 12)
    many = warm_start(solver("none", 2, 3), source)
    parts, forcings = many.split.split(u), many.split.split(f)
    for o, part, own in zip(many.split.offsets, parts, forcings, strict=True):
        rate = source(part, own)[:, 0] - part
        alone = many.rollout(u, 3, f, level=[o])[0]
        for k in range(3):  # the same rate of change in every head
            assert torch.allclose(alone[:, k] - part, (k + 1) * rate, atol=1e-6)
    again = warm_start(solver("none", 2, 3), many)
    assert torch.equal(again(u, f), many(u, f))
    with pytest.raises(InputError, match="warm_start: expected weights"):
        warm_start(solver("stack", 2), source)
    with pytest.raises(InputError, match="warm_start: expected weights"):
        warm_start(solver("none", 4), solver("none", 2))


@pytest.mark.parametrize("s_T, mode", [(1, "multi"), (3, "multi"), (2, "chain")])
def test_a_subset_runs_alone_with_the_values_of_the_joint_run(s_T, mode):
    model = solver("none", 4, s_T, mode)
    shape = (2, s_T, 1, 24, 24) if mode == "chain" else (2, 1, 24, 24)
    u, f = fields(*shape), fields(1, 1, 24, 24)
    joint = model.rollout(u, 5, f)
    assert joint.shape == (2, 5, 1, 24, 24)
    for stride in (2, 4):
        alone = model.rollout(u, 5, f, level=stride)
        assert torch.equal(alone, joint[..., ::stride, ::stride])
    one = model.rollout(u, 5, f, level=[(1, 3)])
    assert torch.equal(one[0], joint[..., 1::4, 3::4])


def test_chains_interleave():
    model = solver("none", 1, 2, "chain", context=0)
    window = fields(1, 2, 1, 8, 8)
    frames = model.rollout(window, 4)
    for k in range(4):  # frame k + 2 comes from frame k alone
        before = torch.cat([window, frames], 1)[:, k]
        alone = model(torch.stack([before, before], 1))[:, 0]
        assert torch.allclose(alone, frames[:, k], atol=1e-6)


def test_multi_heads_start_from_one_frame_and_feed_back_the_last():
    model = solver("stack", 2, 3, context=0, finish="mean")
    u = fields(2, 1, 12, 12)
    once = model(u)
    both = model.rollout(u, 5)
    assert torch.equal(both[:, :3], once) and torch.allclose(both[:, 3:], model(once[:, -1])[:, :2])
    assert float(both.detach().mean((-1, -2)).abs().max()) < 1e-6


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_bands_keep_low_modes_and_mean_zero(dim):
    model = solver("stack", 2, 1, dim=dim, context=0, finish="band")
    n = 12
    x = torch.arange(n) * (2 * torch.pi / n)
    axes = torch.meshgrid(*[x] * dim, indexing="ij")
    low = torch.cos(3 * axes[0] + axes[-1]) if dim > 1 else torch.cos(3 * x)
    high = torch.cos(4 * axes[0]) + torch.cos(5 * axes[-1]) + 2.0
    frames = torch.stack([low + high, low])[None, :, None]
    kept = model.finished(frames)
    assert torch.allclose(kept, torch.stack([low, low])[None, :, None], atol=1e-5)
    assert float(model(fields(1, 1, *[n] * dim)).detach().mean().abs()) < 1e-6


def test_hidden_sub_fields_let_a_stack_run_in_part():
    model = solver("stack", 2, drop=0.5, context=0).eval()
    u = fields(2, 1, 12, 12)
    other = u.clone()
    other[..., 1::2, :] = 7.0
    other[..., 1::2] = 7.0
    alone = model.rollout(u, 3, level=2)
    assert torch.equal(alone, model.rollout(other, 3, level=2))  # reads nothing else
    assert not torch.equal(alone, model.rollout(u, 3)[..., ::2, ::2])
    torch.manual_seed(0)
    assert not torch.equal(model.train()(u), model(u))
    with pytest.raises(InputError, match='level=None with coupling="stack"'):
        solver("stack", 2).rollout(u, 1, fields(1, 1, 12, 12), level=2)


def test_the_halo_is_the_neighbours_or_repeats_the_last_cells():
    u = fields(1, 1, 8, 8)
    x = SpaceSplit(2).split(u)
    ring = solver("halo", 2, context=0)._with_halo(x)
    box = solver("halo", 2, context=0, periodic=False)._with_halo(x)
    assert torch.equal(ring[3, :, 3:4], u.roll((-1, -1), (-2, -1))[..., 1::2, 1::2])
    last = torch.cat([u[..., 1:, :], u[..., -1:, :]], -2)
    assert torch.equal(box[3, :, 2:3], last[..., 1::2, 1::2])


def test_rollouts_have_derivatives():
    model = solver("halo", 2, 2).double()
    model.sigma.fill_(0.5)
    u, f, w = (fields(1, 1, 12, 12, seed=i).double() for i in range(3))

    def value(x):
        return (model.rollout(x["u"], 3, x["f"])[:, -1] * w).sum()

    assert taylor_test(value, {"u": u, "f": f}).passed()


def test_refusals_name_what_to_do():
    u, f = fields(2, 1, 12, 12), fields(1, 1, 12, 12)
    model = solver()
    cases = [
        (lambda: SpaceSplit(5).split(u), r"divisible by s = \(5, 5\); got \(12, 12\). Take a"),
        (lambda: SpaceSplit(0), "one integer factor >= 1"),
        (lambda: SpaceSplit(2.5), "one integer factor >= 1"),
        (lambda: SpaceSplit(2).merge(u), r"\(4, ..., \*cells\)"),
        (lambda: TimeSplit(2, "both"), "mode out of"),
        (lambda: TimeSplit(0), "s_T >= 1"),
        (lambda: solver("full"), "coupling out of"),
        (lambda: solver("none", drop=0.1), "drop only with"),
        (lambda: solver("stack", share=True), "share with coupling"),
        (lambda: solver(finish="median"), "finish out of"),
        (lambda: solver(sigma=0.0), "sigma > 0"),
        (lambda: solver(dt=0.0), "dt > 0 s"),
        (lambda: model(fields(2, 3, 12, 12), f), r"frames \(B, 1, n, n\)"),
        (lambda: model(u), "context of 1 channels; got none"),
        (lambda: model(u, f[..., :10]), r"context \(B, 1, 12, 12\)"),
        (lambda: model(u.double(), f), "u in torch.float32"),
        (lambda: model(u / 0, f), "finite u; got a value that is not at"),
        (lambda: solver(s_T=2, mode="chain")(u, f), r"frames \(B, 2, 1, n, n\)"),
        (lambda: model.rollout(u, 0, f), "steps >= 1"),
        (lambda: model.rollout(u, 1, f, level=[(2, 2)]), "offsets of sub-fields"),
        (lambda: Group([torch.nn.Linear(2, 2), torch.nn.Linear(2, 3)]), "differ in their weights only"),
        (lambda: Group([torch.nn.Linear(2, 2)], "threads"), "execution out of"),
    ]  # fmt: skip
    for call, text in cases:
        with pytest.raises(InputError, match=text):
            call()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1e20)
    with pytest.raises(StateError, match="finite frames; got others at step 1") as caught:
        model.rollout(u, 2, f)
    assert caught.value.step == 1
