"""Engine functions of the laws against the torch form, forward and backward, in both precisions."""

# No postponed annotations here: Warp cannot see the types of a closure in text.
import functools

import pytest
import torch
from helpers import random_rotations
from rheograd.sim.core.backend import warp
from rheograd.sim.core.laws import (
    DruckerPrager,
    FixedCorotated,
    Hencky,
    HerschelBulkley,
    Liquid,
    NeoHookean,
    VonMises,
)

SOLIDS = {
    "neo_hookean": NeoHookean(E=3.0, nu=0.3),
    "fixed_corotated": FixedCorotated(E=3.0, nu=0.3),
    "hencky": Hencky(E=3.0, nu=0.3),
    "von_mises": VonMises(E=3.0, nu=0.3, yield_stress=0.3, H=0.7, eta=0.02),
    "drucker_prager": DruckerPrager(E=3.0, nu=0.3, friction=35.0, cohesion=0.1),
}
LIQUIDS = {
    "liquid_tait": Liquid(bulk=2.0, eta=0.4),
    "liquid_linear": Liquid(bulk=2.0, eta=0.4, eos="linear"),
    "herschel_bulkley": HerschelBulkley(bulk=2.0, K=0.5, n=0.6, yield_stress=0.3, m=20.0),
}
LAWS = SOLIDS | LIQUIDS


@functools.cache
def kernels(double: bool) -> dict:
    """Kernels of all laws for one precision, in a single engine module: one compilation."""
    wp = warp()
    real = wp.float64 if double else wp.float32
    module = wp.get_module(f"test_laws_{real.__name__}")
    return {name: make_kernels(law, real, module, name) for name, law in LAWS.items()}


def make_kernels(law, real, module, name: str) -> dict:
    wp = warp()
    mat33, K = wp.types.matrix((3, 3), real), law.n_coefficients
    vec = wp.types.vector(K, real)
    stress, flow = law.engine_functions(real)
    Strain = real if law.storage == "J" else mat33

    @wp.kernel(name=f"stress_{name}", module=module)
    def stress_kernel(
        F: wp.array(dtype=Strain),
        L: wp.array(dtype=mat33),
        theta: wp.array2d(dtype=real),
        tau: wp.array(dtype=mat33),
    ):
        j = wp.tid()
        c = vec()
        for k in range(K):
            c[k] = theta[k, j]
        tau[j] = stress(F[j], L[j], c)

    if flow is None:
        return {"stress": stress_kernel}

    @wp.kernel(name=f"flow_{name}", module=module)
    def flow_kernel(
        F: wp.array(dtype=mat33),
        alpha: wp.array(dtype=real),
        theta: wp.array2d(dtype=real),
        dt: real,
        F_new: wp.array(dtype=mat33),
        alpha_new: wp.array(dtype=real),
    ):
        j = wp.tid()
        c = vec()
        for k in range(K):
            c[k] = theta[k, j]
        F1, a1 = flow(F[j], alpha[j], c, dt)
        F_new[j] = F1
        alpha_new[j] = a1

    return {"stress": stress_kernel, "flow": flow_kernel}


def engine(kernel, inputs: list, outputs: list[tuple], grads: list) -> tuple[list, list]:
    """Launch forward and adjoint; returns outputs and gradients of the tensor inputs."""
    wp = warp()
    n = inputs[0].shape[0]
    real = wp.float64 if inputs[0].dtype == torch.float64 else wp.float32
    mat33 = wp.types.matrix((3, 3), real)

    def array(t):
        if not isinstance(t, torch.Tensor):
            return t
        return wp.from_torch(t.detach().contiguous(), dtype=mat33 if t.ndim == 3 else real)

    made = [torch.zeros(n, *shape, dtype=inputs[0].dtype) for shape in outputs]
    bar = [torch.zeros_like(t) if isinstance(t, torch.Tensor) else t for t in inputs]
    arrays, out = [array(t) for t in inputs], [array(t) for t in made]
    wp.launch(kernel, dim=n, inputs=arrays, outputs=out)
    values = [t.clone() for t in made]
    wp.launch(
        kernel, dim=n, inputs=arrays, outputs=out, adjoint=True,
        adj_inputs=[array(t) if isinstance(t, torch.Tensor) else None for t in bar],
        adj_outputs=[array(g.clone()) for g in grads],
    )  # fmt: skip
    return values, [t for t in bar if isinstance(t, torch.Tensor)]


def states(generator) -> torch.Tensor:
    """Rest, rotations, equal stretches, volumetric and generic strains."""
    Q = random_rotations(8, generator=generator)
    eye = torch.eye(3, dtype=torch.float64).expand(8, 3, 3)
    two = Q @ torch.diag(torch.tensor([1.2, 1.2, 0.8], dtype=torch.float64)) @ Q.mT @ Q
    one = Q @ (0.93 * eye)
    near = Q @ (eye + 1e-4 * torch.randn(8, 3, 3, generator=generator, dtype=torch.float64))
    s = torch.exp(0.25 * torch.randn(64, 3, generator=generator, dtype=torch.float64) - 0.1)
    U = random_rotations(64, generator=generator)
    V = random_rotations(64, generator=generator)
    return torch.cat([eye, Q, two, one, near, (U * s[:, None]) @ V.mT])


def inputs_for(law, generator, dtype):
    F = states(generator)
    n = F.shape[0]
    L = torch.randn(n, 3, 3, generator=generator, dtype=torch.float64)
    L[:4] = 0.0
    if law.storage == "J":
        F = torch.linalg.det(F)
    alpha = 0.1 * torch.rand(n, generator=generator, dtype=torch.float64)
    scale = 1 + 0.1 * torch.rand(n, generator=generator, dtype=torch.float64)
    key = "bulk" if law.storage == "J" else "E"
    c = law.coefficients({key: scale * law.parameters()[key]})
    return [t.to(dtype) for t in (F, L, alpha, c)]


def compare(name, dtype, generator, check):
    law = LAWS[name]
    F, L, alpha, c = inputs_for(law, generator, dtype)
    kernel = kernels(dtype == torch.float64)[name]

    def draw(t):
        return torch.randn(t.shape, generator=generator, dtype=torch.float64).to(dtype)

    leaves = [t.clone().requires_grad_() for t in (F, L, c)]
    tau = law.stress(*leaves)
    g = draw(tau)
    expected = torch.autograd.grad(tau, leaves, g, allow_unused=True)
    pairs = zip(expected, leaves, strict=True)
    expected = [torch.zeros_like(t) if e is None else e for e, t in pairs]
    (value,), got = engine(kernel["stress"], [F, L, c], [(3, 3)], [g])
    check("tau", value, tau.detach())
    for label, a, b in zip(("F", "L", "c"), got, expected, strict=True):
        check(f"stress {label}", a, b)

    if "flow" not in kernel:
        return
    leaves = [t.clone().requires_grad_() for t in (F, alpha, c)]
    F1, a1 = law.flow(*leaves, 0.1)
    moved = (F1 - F).abs().amax((1, 2)) > 0
    assert moved.any() and not moved.all()
    gF, ga = draw(F1), draw(alpha)
    expected = torch.autograd.grad((F1, a1), leaves, (gF, ga), allow_unused=True)
    values, got = engine(kernel["flow"], [F, alpha, c, 0.1], [(3, 3), ()], [gF, ga])
    check("F_new", values[0], F1.detach())
    check("alpha_new", values[1], a1.detach())
    for label, a, b in zip(("F", "alpha", "c"), got, expected, strict=True):
        check(f"flow {label}", a, b)


@pytest.mark.parametrize("name", LAWS)
def test_engine_equals_torch_in_double(name, generator):
    def check(label, a, b):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, msg=lambda m: f"{label}: {m}")

    compare(name, torch.float64, generator, check)


@pytest.mark.parametrize("name", LAWS)
def test_engine_equals_torch_in_single(name, generator):
    def check(label, a, b):
        a, b = a.double().flatten(), b.double().flatten()
        if b.norm() == 0:
            assert a.norm() == 0, label
            return
        assert float(a @ b / (a.norm() * b.norm())) >= 0.999, label
        assert float((a - b).norm() / b.norm()) <= 1e-4, label

    compare(name, torch.float32, generator, check)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_inverted_particles_are_not_finite_on_either_side(name, scale, generator):
    law = LAWS[name]
    F, L, alpha, c = inputs_for(law, generator, torch.float64)
    F = scale * F
    (value,), _ = engine(kernels(True)[name]["stress"], [F, L, c], [(3, 3)], [torch.zeros_like(L)])
    for tau in (value, law.stress(F, L, c)):
        assert not torch.isfinite(tau).all(-1).all(-1).any()
    if law.flows:
        F1, _ = law.flow(F, alpha, c, 0.1)
        outputs = [torch.zeros_like(F), torch.zeros_like(alpha)]
        values, _ = engine(kernels(True)[name]["flow"], [F, alpha, c, 0.1], [(3, 3), ()], outputs)
        for result in (F1, values[0]):
            assert not torch.isfinite(result).all(-1).all(-1).any()


def test_engine_functions_are_shared_by_laws_of_one_kind():
    wp = warp()
    for real in (wp.float32, wp.float64):
        first = VonMises(E=1.0).engine_functions(real)
        assert first == VonMises(E=2.0).engine_functions(real)
    tait, linear = LIQUIDS["liquid_tait"], LIQUIDS["liquid_linear"]
    assert tait.engine_functions(wp.float64) != linear.engine_functions(wp.float64)
