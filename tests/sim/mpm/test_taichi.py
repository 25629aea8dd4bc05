"""The Taichi engine against the torch reference, the Warp engine, Taylor expansions and itself."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from helpers import cosine, relative_error
from mpm_scenes import F64, mixed, shaken
from rheograd.sim.core import backend
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.gradients import check_backward_twice, taylor_test
from rheograd.sim.mpm import MPMConfig, MPMControl, SolverMPM
from rheograd.sim.mpm.engine_torch import TorchTransfers
from torch import Tensor

needs_taichi = pytest.mark.skipif(
    importlib.util.find_spec("taichi") is None,
    reason="taichi is not installed (it has no wheels for Python > 3.12)",
)


def transfers(dim: int, engine: str = "taichi", B: int = 2, **settings: int):
    """An engine of the mixed scene, random arguments of its two functions, weights of the results.

    Scaled by dx so that every term of an adjoint counts alike: a small one could be wrong unseen.
    """
    model = mixed(dim)
    options = {"batch_size": B, "dtype": F64, "device": torch.device("cpu"), "dt": 1e-4}
    options["births"] = model.births(1e-4)
    if engine == "taichi":
        from rheograd.sim.mpm.engine_taichi import TaichiTransfers

        made = TaichiTransfers(model, **options, **settings)
    else:
        made = TorchTransfers(model, **options)
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=F64)

    state = shaken(model, batch_size=B)
    N, G = model.particle_count, model.grid.node_count
    inputs = {
        "x": state.x + 0.02 * random(B, N, dim),
        "v": state.v,
        "A": random(B, N, dim, dim) / model.grid.dx,
        "mass": 1 + 0.1 * random(B, N),
        "u": random(B, G, dim),
    }
    weights = [random(B, G, dim + 1), random(B, N, dim), random(B, N, dim, dim) * model.grid.dx]
    return made, inputs, weights


def outputs(engine, inputs: dict[str, Tensor]) -> list[Tensor]:
    """What scatter and gather return."""
    x, v, A, mass, u = inputs.values()
    return [engine.scatter(x, v, A, mass), *engine.gather(x, u)]


def values_and_gradients(engine, inputs: dict[str, Tensor], weights: list[Tensor]) -> list[Tensor]:
    leaves = {n: t.detach().clone().requires_grad_() for n, t in inputs.items()}
    out = outputs(engine, leaves)
    loss = sum((w * t).sum() for w, t in zip(weights, out, strict=True))
    return [t.detach() for t in out] + list(torch.autograd.grad(loss, list(leaves.values())))


def rollout(engine: str, dim: int, dtype: torch.dtype, substeps: int, B: int = 1):
    """Mixed scene: final fields, and the gradient of a weighted sum of them in every input."""
    solver = SolverMPM(mixed(dim), MPMConfig(dt=2e-4, substeps=substeps, engine=engine))
    state = shaken(solver.model, batch_size=B, dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    twist = 0.3 * torch.randn(B, 2, 6, generator=generator, dtype=F64).to(dtype)
    inputs = {name: t for name, t in state.tensors().items() if t.numel()}
    inputs["tool_twist"] = twist
    inputs["emitter_velocity"] = torch.tensor([[0.2] * (dim - 1) + [-1.0]], dtype=dtype).repeat(
        B, 1, 1
    )
    for name, value in {"E": 2e4, "nu": 0.3, "bulk": 2e4, "eta": 2.0, "rho": 1000.0}.items():
        inputs[name] = torch.tensor(value, dtype=dtype)
    inputs["friction"] = torch.tensor([0.3, 0.1], dtype=dtype)
    inputs["softness"] = torch.tensor([20.0, 0.0], dtype=dtype)
    leaves = {n: t.clone().requires_grad_() for n, t in inputs.items()}
    params = {
        "solid": {"E": leaves["E"], "nu": leaves["nu"]},
        "pool": {n: leaves[n] for n in ("bulk", "eta", "rho")},
        "colliders": {"friction": leaves["friction"], "softness": leaves["softness"]},
    }
    start = state.replace(**{n: leaves[n] for n in state.tensors() if n in leaves})
    control = MPMControl(leaves["tool_twist"], leaves["emitter_velocity"])
    end = {n: t for n, t in solver.step(start, control, params).tensors().items() if t.numel()}
    loss = sum(
        (t * torch.randn(t.shape, generator=generator, dtype=F64).to(dtype)).sum()
        for t in end.values()
    )
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return {n: t.detach() for n, t in end.items()}, dict(zip(leaves, gradients, strict=True))


@needs_taichi
@pytest.mark.parametrize("dim", [2, 3])
def test_transfers_equal_the_torch_reference(dim: int) -> None:
    taichi = values_and_gradients(*transfers(dim, "taichi"))
    torch_ = values_and_gradients(*transfers(dim, "torch"))
    for got, expected in zip(taichi, torch_, strict=True):
        assert relative_error(got, expected) < 1e-14


@needs_taichi
@pytest.mark.parametrize(
    ("function", "name"),
    [("scatter", n) for n in ("x", "v", "A", "mass")] + [("gather", n) for n in ("x", "u")],
)
def test_transfers_pass_the_taylor_test(function: str, name: str) -> None:
    engine, inputs, weights = transfers(2)
    used = slice(0, 1) if function == "scatter" else slice(1, 3)

    def loss(value: Tensor) -> Tensor:
        out = outputs(engine, {**inputs, name: value})
        terms = zip(weights[used], out[used], strict=True)
        return sum((w * t + (w * t) ** 2).sum() for w, t in terms)

    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(inputs[name].shape, generator=generator, dtype=F64)
    # Positions move by a tenth of a cell: the third derivative of the spline jumps between cells.
    report = taylor_test(loss, inputs[name], (0.01 if name == "x" else 1.0) * direction)
    assert report.rate >= 1.9, report


@needs_taichi
@pytest.mark.parametrize("dim", [2, 3])
def test_solver_equals_the_torch_reference(dim: int) -> None:
    end, gradients = rollout("taichi", dim, F64, substeps=10)
    end_torch, gradients_torch = rollout("torch", dim, F64, substeps=10)
    for name, expected in end_torch.items():
        assert relative_error(end[name], expected) < 1e-12, name
    for name, expected in gradients_torch.items():
        assert float(expected.norm()) > 0, name
        assert relative_error(gradients[name], expected) < 1e-12, name


@needs_taichi
def test_solver_equals_warp_over_fifty_substeps_in_single_precision() -> None:
    end, gradients = rollout("taichi", 3, torch.float32, substeps=50)
    end_warp, gradients_warp = rollout("warp", 3, torch.float32, substeps=50)
    for name, expected in end_warp.items():
        assert relative_error(end[name], expected) < 1e-5, name
    for name, expected in gradients_warp.items():
        assert cosine(gradients[name].double(), expected.double()) >= 0.9999, name
        # A single number has no direction. 1e-4 is 50 substeps of single-precision rounding (6e-8)
        # amplified thirtyfold, as contact and stiffness do; a wrong term would be of order one.
        assert relative_error(gradients[name], expected) < 1e-4, name


@needs_taichi
def test_shards_add_up_and_repeat_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    from rheograd.sim.mpm import engine_taichi

    single = values_and_gradients(*transfers(2))
    monkeypatch.setattr(engine_taichi, "MIN_PARTICLES_PER_SHARD", 1)
    engine, inputs, weights = transfers(2, threads=3)
    B, N = inputs["mass"].shape
    assert engine._shards(B, N) == 3
    sharded = values_and_gradients(engine, inputs, weights)
    for got, expected in zip(sharded, single, strict=True):
        assert relative_error(got, expected) < 1e-14
    for _ in range(3):
        for first, again in zip(
            sharded, values_and_gradients(engine, inputs, weights), strict=True
        ):
            assert torch.equal(first, again)
    # Copies of the nodes stay allocated: what one call leaves there must not reach the next.
    moved = {**inputs, "x": inputs["x"].flip(1) * 0.5 + 0.3}
    expected = values_and_gradients(transfers(2, "torch")[0], moved, weights)
    for got, reference in zip(values_and_gradients(engine, moved, weights), expected, strict=True):
        assert relative_error(got, reference) < 1e-14


@needs_taichi
def test_non_finite_positions_stay_inside_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from rheograd.sim.mpm import engine_taichi

    monkeypatch.setattr(engine_taichi, "MIN_PARTICLES_PER_SHARD", 1)
    engine, inputs, weights = transfers(2, threads=3)
    bad = inputs["x"].clone()
    bad[0, 0], bad[0, 1], bad[1, 0] = float("nan"), float("inf"), 1e12
    assert values_and_gradients(engine, {**inputs, "x": bad}, weights)[1][0, 0].isnan().all()
    clean = values_and_gradients(engine, inputs, weights)
    expected = values_and_gradients(transfers(2, "torch")[0], inputs, weights)
    for got, reference in zip(clean, expected, strict=True):
        assert relative_error(got, reference) < 1e-14


@needs_taichi
def test_atomic_kernels_of_gpus_equal_those_of_shards() -> None:
    from rheograd.sim.mpm.taichi_kernels import transfer_kernels

    engine, inputs, weights = transfers(2)
    expected = values_and_gradients(engine, inputs, weights)
    engine._atomic, engine._kernels = True, transfer_kernels(F64, 2, True)
    for got, reference in zip(values_and_gradients(engine, inputs, weights), expected, strict=True):
        assert relative_error(got, reference) < 1e-14


@needs_taichi
def test_strided_inputs_and_gradients_equal_contiguous_ones() -> None:
    engine, inputs, weights = transfers(2)
    expected = values_and_gradients(engine, inputs, weights)

    def strided(t: Tensor) -> Tensor:
        wide = torch.full((*t.shape[:-1], 2 * t.shape[-1]), torch.nan, dtype=t.dtype)
        wide[..., ::2] = t
        return wide[..., ::2]

    leaves = [strided(t).requires_grad_() for t in inputs.values()]
    out = outputs(engine, dict(zip(inputs, leaves, strict=True)))
    gradients = torch.autograd.grad(out, leaves, [strided(w) for w in weights])
    for got, reference in zip([*out, *gradients], expected, strict=True):
        assert torch.equal(got, reference)
    # A sum passes down a gradient of stride zero.
    scale = torch.ones((), dtype=F64, requires_grad=True)
    x = (scale * inputs["x"]).detach().requires_grad_()
    v, C = engine.gather(x, inputs["u"])
    (unused_C,) = torch.autograd.grad(v.sum(), x, retain_graph=True)
    (zero_C,) = torch.autograd.grad((v, C), x, (torch.ones_like(v), torch.zeros_like(C)))
    assert torch.equal(unused_C, zero_C)


@needs_taichi
def test_batch_equals_loop() -> None:
    engine, inputs, weights = transfers(2)
    both = values_and_gradients(engine, inputs, weights)
    for b in range(2):
        one = slice(b, b + 1)
        alone = values_and_gradients(
            engine, {n: t[one] for n, t in inputs.items()}, [w[one] for w in weights]
        )
        for got, expected in zip(both, alone, strict=True):
            assert torch.equal(got[one], expected)


@needs_taichi
def test_backward_runs_twice_and_refuses_changed_inputs() -> None:
    engine, inputs, weights = transfers(2)

    def loss(values: dict[str, Tensor]) -> Tensor:
        return sum((w * t * t).sum() for w, t in zip(weights, outputs(engine, values), strict=True))

    report = check_backward_twice(loss, inputs)
    assert report.same_graph == 0 and report.fresh_graph == 0 and report.inputs_kept
    A = inputs["A"].clone()
    v = inputs["v"].clone().requires_grad_()
    nodes = engine.scatter(inputs["x"], v, A, inputs["mass"])
    A += 1.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        nodes.sum().backward()


@needs_taichi
def test_second_derivative_is_refused() -> None:
    engine, inputs, _ = transfers(2)
    x = inputs["x"].requires_grad_()
    v, _ = engine.gather(x, inputs["u"])
    (first,) = torch.autograd.grad((v**2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@needs_taichi
def test_another_scene_compiles_nothing_anew() -> None:
    engine, inputs, weights = transfers(2)
    values_and_gradients(engine, inputs, weights)
    kernels = vars(engine._kernels).values()
    before = [len(k._primal.compiled_kernels) for k in kernels]
    assert before == [1, 1, 1, 1]
    fewer = {n: t[:, :7] if n != "u" else t for n, t in inputs.items()}
    values_and_gradients(engine, fewer, [weights[0], *(w[:, :7] for w in weights[1:])])
    other, inputs, weights = transfers(2, B=3)
    other.dx, other._space = 2 * other.dx, (other._space[0], 2 * other.dx, other._space[2])
    values_and_gradients(other, inputs, weights)
    assert [len(k._primal.compiled_kernels) for k in kernels] == before


@needs_taichi
def test_wrong_shapes_and_precisions_are_named() -> None:
    engine, inputs, _ = transfers(2)
    x, v, A, mass, u = inputs.values()
    with pytest.raises(InputError, match=r"scatter: v of shape \(2, .*float32"):
        engine.scatter(x, v.float(), A, mass)
    with pytest.raises(InputError, match=r"scatter: mass of shape"):
        engine.scatter(x, v, A, mass[:, :-1])
    with pytest.raises(InputError, match=r"gather: x of shape \(B, N, 2\)"):
        engine.gather(x[0], u[0])


@needs_taichi
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_process_raises_instead_of_hanging() -> None:
    engine, inputs, _ = transfers(2)
    engine.gather(inputs["x"], inputs["u"])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            engine.gather(inputs["x"], inputs["u"])
        except RuntimeError as error:
            code = 0 if "spawn" in str(error) else 2
        finally:
            os._exit(code)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the forked process hung")


def test_missing_taichi_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_taichi", None)
    monkeypatch.setitem(sys.modules, "taichi", None)
    solver = SolverMPM(mixed(2), MPMConfig(dt=2e-4, substeps=1, engine="taichi"))
    with pytest.raises(ImportError, match=r'pip install "rheograd\[taichi\]"'):
        solver.step(solver.model.initial_state())


PROGRAM = """
    import sys
    import taichi as ti
    ti.init(arch=ti.cpu, log_level=ti.ERROR)
    field = ti.field(ti.f32, shape=3)
    field.fill(7.0)
    print("own output ends")
    import torch
    from mpm_scenes import F64, mixed, shaken
    from rheograd.sim.mpm import MPMConfig, SolverMPM
    ends = []
    for engine in ("taichi", "warp", "taichi"):
        solver = SolverMPM(mixed(2), MPMConfig(dt=2e-4, substeps=3, engine=engine))
        ends.append(solver.step(shaken(solver.model)).x)
    assert torch.equal(ends[0], ends[2])
    assert float((ends[0] - ends[1]).abs().max()) < 1e-14
    assert field.to_numpy().tolist() == [7.0] * 3
"""


def run_program(code: str, **environment: str) -> str:
    """What a fresh process that finds the test helpers writes to its output and error streams."""
    helpers = os.path.dirname(os.path.abspath(sys.modules["helpers"].__file__))
    paths = [helpers, *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@needs_taichi
def test_program_keeps_its_own_taichi_and_warp_works_after_it() -> None:
    assert run_program(PROGRAM).split("own output ends\n")[1] == ""


SILENT = """
    from mpm_scenes import mixed
    from rheograd.sim.mpm import MPMConfig, SolverMPM
    solver = SolverMPM(mixed(2), MPMConfig(dt=2e-4, substeps=1, engine="taichi"))
    state = solver.model.initial_state()
    v = state.v.clone().requires_grad_()
    solver.step(state.replace(v=v)).x.sum().backward()
"""


@needs_taichi
def test_run_is_silent_and_leaves_its_kernels_in_the_cache(tmp_path) -> None:
    cache = tmp_path / "kernels"
    assert run_program(SILENT, TI_OFFLINE_CACHE_FILE_PATH=str(cache)) == ""
    # One file per kernel: without them every process would compile anew.
    assert len(list(cache.glob("*.tic"))) >= 4
