"""Are the gradients right, and how do they behave over the horizon?

For each material a falling, deforming body: gradients of Σ x² after the horizon with respect to
the initial velocity and the parameters, against central differences along random directions
(relative error per direction, cosine over directions), the Taylor rate in float64, and the
gradient norm over the horizon.

    python benchmarks/bench_gradients.py [--quick] [--device cuda]
"""

from __future__ import annotations

import torch
from results import Results, parser
from rheograd.sim.core.gradients import gradient_report, taylor_test
from rheograd.sim.core.laws import (
    DruckerPrager,
    FixedCorotated,
    Hencky,
    HerschelBulkley,
    Law,
    Liquid,
    NeoHookean,
    VonMises,
)
from rheograd.sim.core.rollout import rollout
from rheograd.sim.mpm import Grid, Group, MPMConfig, MPMModel, SolverMPM
from torch import Tensor

MATERIALS: dict[str, Law] = {
    "neo-Hookean": NeoHookean(E=2e4, nu=0.3),
    "fixed corotated": FixedCorotated(E=2e4, nu=0.3),
    "Hencky": Hencky(E=2e4, nu=0.3),
    "von Mises": VonMises(E=2e4, nu=0.3, yield_stress=500.0),
    "Drucker-Prager": DruckerPrager(E=2e4, nu=0.3, cohesion=200.0),
    "water": Liquid(bulk=2e4),
    "honey": Liquid(bulk=2e4, eta=10.0),
    "Herschel-Bulkley": HerschelBulkley(bulk=2e4, m=10.0),
}


def problem(law: Law, steps: int, dtype: torch.dtype, device: str):
    """Loss of (velocity, parameters) and their values: a spinning block that hits the floor."""
    n = 5
    axis = 0.42 + 0.2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x = torch.stack(torch.meshgrid(axis, axis, axis - 0.4, indexing="ij"), -1).reshape(-1, 3)
    group = Group("body", law, x, (0.2 / n) ** 3)
    model = MPMModel(Grid((0.0,) * 3, (1.0,) * 3, 0.1), [group])
    solver = SolverMPM(model, MPMConfig(dt=5e-4, substeps=10))
    state = model.initial_state(dtype=dtype, device=device)
    arm = (x - x.mean(0)).to(state.x)
    spin = torch.linalg.cross(torch.tensor([2.0, 1.0, 3.0]).to(state.x).expand_as(arm), arm)
    inputs = {"v": state.v + spin + torch.tensor([0.5, 0.2, -1.0]).to(state.x)}
    for name, value in law.parameters().items():
        if float(value) == 0.0:
            continue  # the edge of its range: no central difference
        inputs[name] = torch.tensor(float(value), dtype=dtype, device=device)

    def loss(values: dict[str, Tensor]) -> Tensor:
        start = state.replace(v=values["v"])
        params = {"body": {k: v for k, v in values.items() if k != "v"}}
        return (rollout(solver, start, steps, params, save_every=10**9).final.x ** 2).sum()

    return loss, inputs


def least_cosine(law: Law, device: str) -> float:
    """Least cosine, over the inputs that matter, of the float32 and the float64 gradient."""
    grads = []
    for dtype in (torch.float32, torch.float64):
        loss, inputs = problem(law, 4, dtype, device)
        leaves = [v.clone().requires_grad_() for v in inputs.values()]
        grads.append(torch.autograd.grad(loss(dict(zip(inputs, leaves, strict=True))), leaves))
    pairs = [(a.double(), b) for a, b in zip(*grads, strict=True) if float(b.norm()) > 0]
    return min(float((a * b).sum() / (a.norm() * b.norm())) for a, b in pairs)


def main() -> None:
    given = parser(__doc__).parse_args()
    results = Results("gradients", given)
    materials = list(MATERIALS.items())[: 2 if given.quick else None]
    for name, law in materials:
        loss, inputs = problem(law, 4, torch.float64, given.device)
        generator = torch.Generator().manual_seed(0)
        report = gradient_report(
            loss,
            inputs,
            n_directions=5 if given.quick else 20,
            steps=(1e-2, 1e-3, 1e-4, 1e-5),  # larger ones leave the range of parameters
            generator=generator,
        )
        row = {k: v for k, v in report.items() if isinstance(v, (int, float, str))}
        leaves = report["inputs"]
        alive = [leaf for leaf in leaves.values() if leaf["failure"] == "ok"]
        row["without_effect"] = [n for n, leaf in leaves.items() if leaf["failure"] == "zero"]
        row["failed"] = [n for n, leaf in leaves.items() if leaf["failure"] not in ("ok", "zero")]
        row["least_cosine"] = min((leaf["cosine"] for leaf in alive), default=None)
        row["worst_direction"] = max((max(leaf["relative_errors"]) for leaf in alive), default=None)
        direction = {
            k: 0.1 * v.abs() * torch.randn(v.shape, generator=generator, dtype=v.dtype).to(v)
            for k, v in inputs.items()
        }
        row["taylor_rate"] = taylor_test(loss, inputs, direction).rate
        row["least_cosine_of_float32"] = least_cosine(law, given.device)
        results.add(measure="gradient", material=name, substeps=40, **row)
        for steps in (4, 16) if given.quick else (4, 16, 64):
            loss, inputs = problem(law, steps, torch.float32, given.device)
            leaves = {k: v.clone().requires_grad_() for k, v in inputs.items()}
            grads = torch.autograd.grad(loss(leaves), leaves["v"])
            norm = float(grads[0].norm())
            results.add(measure="horizon", material=name, substeps=10 * steps, gradient_norm=norm)


if __name__ == "__main__":
    main()
