"""Neighbour search: both engines against brute force, scenes, empty sets, refusals."""

from __future__ import annotations

import pytest
import torch
from rheograd.sim.core.backend import warp
from rheograd.sim.core.errors import InputError, StateError
from rheograd.sim.core.neighbors import ball_query, nearest, radius_graph
from rheograd.sim.core.neighbors_warp import _kernels, grid_ball_query, grid_nearest

SCENES = torch.tensor([0] * 40 + [2] * 7 + [5] * 53)


def cloud(count=100, dim=3, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    # Spreads over negative coordinates too, where a hash grid wraps.
    return torch.rand(count, dim, generator=generator, dtype=dtype) * 2 - 1.2


def distances(query, points, query_scene, scene):
    d = torch.linalg.vector_norm(query.double()[:, None] - points.double(), dim=-1)
    return d.masked_fill(query_scene[:, None] != scene, float("inf"))


def brute_pairs(query, points, radius, query_scene, scene):
    target, source = (distances(query, points, query_scene, scene) <= radius).nonzero().T
    return torch.stack([source, target])


@pytest.mark.parametrize("engine", [ball_query, grid_ball_query])
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("radius", [0.05, 0.4, 10.0])
def test_pairs_are_those_of_brute_force(engine, dim, radius):
    query, points = cloud(60, dim), cloud(100, dim, seed=1)
    query_scene = torch.tensor([0] * 20 + [1] * 10 + [5] * 30)  # 1 has no points, 2 no queries
    edges = engine(query, points, radius, query_scene, SCENES)
    assert torch.equal(edges, brute_pairs(query, points, radius, query_scene, SCENES))


@pytest.mark.parametrize("engine", [nearest, grid_nearest])
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_are_those_of_brute_force(engine, dim, k, dtype):
    query, points = cloud(60, dim, dtype), cloud(100, dim, dtype, seed=1)
    query_scene = torch.tensor([0] * 20 + [2] * 10 + [5] * 30)
    d = distances(query, points, query_scene, SCENES)
    index, distance = engine(query, points, k, query_scene, SCENES)
    expected = d.topk(k, largest=False)
    assert torch.equal(index, expected.indices)
    assert distance.dtype == dtype
    torch.testing.assert_close(distance, expected.values.to(dtype))


def test_a_query_far_from_all_points_and_coinciding_points():
    points = torch.zeros(4, 3)
    query = torch.tensor([[0.0, 0.0, 0.0], [1e3, 0.0, 0.0]])
    zero = torch.zeros(4, dtype=torch.int64)
    for index, distance in (
        nearest(query, points, 4),
        grid_nearest(query, points, 4, zero[:2], zero),
    ):
        assert torch.equal(index.sort(1).values, torch.arange(4).expand(2, 4))
        assert torch.equal(distance, torch.tensor([[0.0] * 4, [1e3] * 4]))


def test_graph_is_symmetric_sorted_and_keeps_scenes_apart():
    x = cloud()
    edges = radius_graph(x, 0.5, SCENES)
    assert torch.equal(edges, brute_pairs(x, x, 0.5, SCENES, SCENES))
    assert bool((edges[1].diff() >= 0).all())
    pairs = set(map(tuple, edges.T.tolist()))
    assert pairs == {(j, i) for i, j in pairs}
    assert {(i, i) for i in range(100)} <= pairs
    without = radius_graph(x, 0.5, SCENES, loop=False)
    assert set(map(tuple, without.T.tolist())) == {p for p in pairs if p[0] != p[1]}


def test_radius_is_inclusive_and_scenes_equal_separate_calls():
    line = torch.tensor([[0.0], [1.0], [3.0]])
    assert radius_graph(line, 1.0, loop=False).tolist() == [[1, 0], [0, 1]]
    x = cloud(80)
    together = radius_graph(x, 0.4, torch.arange(2).repeat_interleave(40))
    apart = [radius_graph(part, 0.4) + 40 * s for s, part in enumerate(x.split(40))]
    assert torch.equal(together, torch.cat(apart, 1))


def test_empty_sets_and_neighbourhoods():
    none, x = torch.zeros(0, 2), cloud(5, 2)
    assert radius_graph(none, 0.1).shape == (2, 0)
    assert ball_query(x, none, 0.1).shape == ball_query(none, x, 0.1).shape == (2, 0)
    assert ball_query(x + 100, x, 0.1).shape == (2, 0)
    assert radius_graph(x, 1e-6, loop=False).shape == (2, 0)
    assert radius_graph(x, 1e-6).tolist() == [list(range(5))] * 2
    index, distance = nearest(none, x, 3)
    assert index.shape == distance.shape == (0, 3)


def test_indices_carry_no_gradient():
    x = cloud(10).requires_grad_()
    assert not radius_graph(x, 0.5).requires_grad
    assert not any(t.requires_grad for t in nearest(x, x, 3))


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda x: radius_graph(x[0], 0.1), InputError, "radius_graph: expected x of shape"),
        (lambda x: radius_graph(x.long(), 0.1), InputError, "floating point"),
        (lambda x: radius_graph(x, 0.0), InputError, "finite radius > 0 m; got 0"),
        (lambda x: radius_graph(x, float("inf")), InputError, "finite radius"),
        (lambda x: radius_graph(x / 0, 0.1), StateError, "finite x"),
        (lambda x: radius_graph(x, 0.1, torch.zeros(3).long()), InputError, r"shape \(10,\)"),
        (lambda x: radius_graph(x, 0.1, torch.zeros(10)), InputError, "scene int64"),
        (lambda x: radius_graph(x, 0.1, torch.arange(10).flip(0)), InputError, "ascending"),
        (lambda x: ball_query(x, x[:, :2], 0.1), InputError, "of one dimension"),
        (lambda x: ball_query(x, x.double(), 0.1), InputError, "of one dimension, dtype"),
        (
            lambda x: ball_query(x, x, 0.1, scene=torch.zeros(10).long()),
            InputError,
            "got no query_scene",
        ),
        (lambda x: ball_query(x, x * float("nan"), 0.1), StateError, "finite points"),
        (lambda x: nearest(x, x, 0), InputError, "k ≥ 1; got 0"),
        (lambda x: nearest(x, x, 11), InputError, "at least k = 11 points .* got 10 in scene 0"),
        (
            lambda x: nearest(x, x, 6, torch.arange(10) // 7, torch.arange(10) // 7),
            InputError,
            "got 3 in scene 1",
        ),
    ],
)
def test_bad_input_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call(cloud(10))


@pytest.mark.slow
def test_kernels_compile_for_cuda(tmp_path):
    for kernel in vars(_kernels()).values():
        warp().compile_aot_module(kernel.module, arch=90, module_dir=str(tmp_path))
    assert len(list(tmp_path.glob("*.cubin"))) == 2


@pytest.mark.gpu
def test_cuda_equals_cpu():
    x, q = cloud(2000), cloud(500, seed=1)
    scene, query_scene = torch.arange(2000) // 700, torch.arange(500) // 200
    edges = ball_query(q.cuda(), x.cuda(), 0.2, query_scene.cuda(), scene.cuda())
    assert torch.equal(edges.cpu(), ball_query(q, x, 0.2, query_scene, scene))
    here, there = (
        nearest(a, b, 8, c, d)
        for a, b, c, d in (
            (q, x, query_scene, scene),
            (q.cuda(), x.cuda(), query_scene.cuda(), scene.cuda()),
        )
    )
    assert torch.equal(here[0], there[0].cpu())
    torch.testing.assert_close(here[1], there[1].cpu())
