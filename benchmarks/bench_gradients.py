"""Are the gradients right, and how do they behave over the horizon?

For each material a falling, deforming body: gradients of Σ x² after the horizon with respect to
the initial velocity and the parameters, against central differences along random directions
(relative error per direction, cosine over directions), the Taylor rate in float64, and the
gradient norm over the horizon.

Checkpoints: peak resident memory of one gradient above that of its start, each in a fresh process, over
horizons that double, per policy ("revolve 8": with eight snapshots at most); and how far gradients of the
same steps are from those without checkpoints.

    python benchmarks/bench_gradients.py [--quick] [--only gradients|checkpoints] [--device cuda]
"""

from __future__ import annotations

import json
import subprocess
import sys

import torch
from results import Results, parser, peak_memory, reset_peak
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


POLICIES = ("none", "uniform", "revolve", "revolve 8")


def run_of(policy: str, particles: int, device: str):
    """Function from a number of steps to the gradients of a block in free fall, float32."""
    n = round(particles ** (1 / 3))
    axis = 0.3 + 0.4 * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    model = MPMModel(
        Grid((0.0,) * 3, (1.0,) * 3, 0.05), [Group("body", NeoHookean(E=2e4), x, (0.4 / n) ** 3)]
    )
    solver = SolverMPM(model, MPMConfig(dt=2e-4, substeps=5, threads=1))
    state = model.initial_state(device=device)
    name, _, snapshots = policy.partition(" ")
    options = {"checkpoint": name, "snapshots": int(snapshots) if snapshots else None}

    def gradients(steps: int) -> tuple[Tensor, ...]:
        v, E = state.v.clone().requires_grad_(), torch.tensor(2e4, requires_grad=True)
        start = state.replace(v=v)
        end = rollout(solver, start, steps, {"body": {"E": E}}, save_every=10**9, **options).final
        return torch.autograd.grad((end.x**2).sum(), (v, E))

    return gradients


def memory_of(policy: str, steps: int, particles: int, device: str) -> dict:
    """One gradient in this process; run me in a fresh one."""
    gradients = run_of(policy, particles, device)
    gradients(4)  # from here on all modules and buffers are loaded
    reset_peak()
    before = peak_memory()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    gradients(steps)
    peak = peak_memory() if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20
    return {"before": before, "above": peak - before}


def checkpoints(results: Results, quick: bool, device: str) -> None:
    particles, horizons = (1000, [16, 32]) if quick else (4000, [128, 256])
    for policy in POLICIES:
        last = None
        for steps in horizons:
            call = [sys.executable, __file__, "--memory-of", policy, str(steps), str(particles)]
            out = subprocess.run([*call, "--device", device], capture_output=True, text=True)
            if out.returncode:
                raise RuntimeError(out.stderr)
            found = json.loads(out.stdout.splitlines()[-1])
            above, whole = found["above"], found["above"] + found["before"]
            results.add(
                measure="checkpoint memory",
                policy=policy,
                particles=particles,
                substeps=5 * steps,
                peak_above_start=above,
                over_half_the_horizon=above / last[0] if last else None,
                whole_process_over_half_the_horizon=whole / last[1] if last else None,
                unit="MiB, ratio",
            )
            last = above, whole
    stored = run_of("none", 1000, device)(32)
    for policy in POLICIES[1:]:
        pairs = zip(run_of(policy, 1000, device)(32), stored, strict=True)
        apart = max(float((a - b).norm() / b.norm()) for a, b in pairs)
        results.add(
            measure="checkpoint gradients", policy=policy, substeps=160, relative_difference=apart
        )


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--only", choices=("gradients", "checkpoints"))
    arguments.add_argument("--memory-of", nargs=3, help="internal: policy, steps, particles")
    given = arguments.parse_args()
    if given.memory_of:
        policy, steps, particles = given.memory_of
        print(json.dumps(memory_of(policy, int(steps), int(particles), given.device)))
        return
    results = Results("gradients", given)
    if given.only != "gradients":
        checkpoints(results, given.quick, given.device)
    if given.only != "checkpoints":
        accuracy(results, given)


def accuracy(results: Results, given) -> None:
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
