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
    "Herschel-Bulkley": HerschelBulkley(bulk=2e4),
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
        inputs[name] = torch.tensor(float(value), dtype=dtype, device=device)

    def loss(values: dict[str, Tensor]) -> Tensor:
        start = state.replace(v=values["v"])
        params = {"body": {k: v for k, v in values.items() if k != "v"}}
        return (rollout(solver, start, steps, params, save_every=10**9).final.x ** 2).sum()

    return loss, inputs


def main() -> None:
    given = parser(__doc__).parse_args()
    results = Results("gradients", given)
    materials = list(MATERIALS.items())[: 2 if given.quick else None]
    for name, law in materials:
        for dtype in (torch.float64, torch.float32):
            loss, inputs = problem(law, 4, dtype, given.device)
            generator = torch.Generator().manual_seed(0)
            directions = 5 if given.quick else 20
            report = gradient_report(loss, inputs, n_directions=directions, generator=generator)
            row = {k: v for k, v in report.items() if isinstance(v, (int, float, str))}
            leaves = report["inputs"]
            row["least_cosine"] = min(leaf["cosine"] for leaf in leaves.values())
            row["worst_direction"] = max(max(leaf["relative_errors"]) for leaf in leaves.values())
            if dtype == torch.float64:
                direction = {
                    k: 0.1 * v.abs() * torch.randn(v.shape, generator=generator, dtype=dtype).to(v)
                    for k, v in inputs.items()
                }
                row["taylor_rate"] = taylor_test(loss, inputs, direction).rate
            results.add(measure="gradient", material=name, dtype=str(dtype)[6:], substeps=40, **row)
        for steps in (4, 16) if given.quick else (4, 16, 64):
            loss, inputs = problem(law, steps, torch.float32, given.device)
            leaves = {k: v.clone().requires_grad_() for k, v in inputs.items()}
            grads = torch.autograd.grad(loss(leaves), leaves["v"])
            norm = float(grads[0].norm())
            results.add(measure="horizon", material=name, substeps=10 * steps, gradient_norm=norm)


if __name__ == "__main__":
    main()
