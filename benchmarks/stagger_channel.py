"""Does a solver that never saw a flow shed vortices, and can the inflow be chosen through it?

A stream past a cylinder (Reynolds number 100 at 1 m/s) by stream function and pressure, trained on the
residual alone for --seconds of CPU time. Then: defects of a long rollout, the shedding frequency against
the inflow, and inflows that Adam finds for given frequencies, with gradients through the rollout.

    python benchmarks/stagger_channel.py --quick
    python benchmarks/stagger_channel.py --seconds 1800 --keep runs/channel.safetensors
"""

from __future__ import annotations

from pathlib import Path

import torch
from results import Results, parser
from rheograd.operators.stagger import (
    EnvPool,
    MacStreamPressure,
    PhysicsTraining,
    SpaceSplit,
    StaggerSolver,
    TimeSplit,
    shedding_frequency,
    train_physics,
)
from rheograd.operators.t1.unet import UNet
from rheograd.sim.core.errors import RheogradError
from rheograd.sim.grid.pdes.mac_flow import MacFlow2D

CENTRE, RADIUS, EXTENT = (0.8, 0.98), 0.2, 2.0
"""Of the cylinder, a little off the middle, which breaks the symmetry; height of the channel [m]."""


class Channel:
    """The problem and its network."""

    def __init__(self, rows: int, dt: float, s: int, s_T: int, seed: int) -> None:
        self.flow = MacFlow2D((2 * rows, rows), EXTENT / rows, dt, eta=4e-3)
        self.residual = MacStreamPressure(self.flow)
        generator = torch.Generator().manual_seed(seed)
        self.solver = StaggerSolver(
            lambda a, b: UNet(2, a, b, 16, 3, generator),
            SpaceSplit(s),
            TimeSplit(s_T),
            "stack",
            dt=dt,
            channels=2,
            context=3,
            scale=(0.5, 5.0),
            periodic=False,
        )
        self.pool = EnvPool(self.sample, 32, seed=seed, lifetime=400, limit=20.0)

    def sample(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        speed = 0.5 + torch.rand(n, generator=generator)
        start, context = self.flow.channel(speed, CENTRE, RADIUS)
        return start[:, None], context

    def probe(self, frames: torch.Tensor) -> torch.Tensor:
        """Mean v_z in a window behind the body, (B, T)."""
        B, T = frames.shape[:2]
        v = self.flow.velocity(frames.flatten(0, 1))[:, 1].view(B, T, *self.flow.cells)
        at = [round(c / self.flow.dx) for c in (CENTRE[0] + 0.4, CENTRE[0] + 0.8)]
        mid, half = round(CENTRE[1] / self.flow.dx), max(1, round(0.1 / self.flow.dx))
        return v[:, :, at[0] : at[1], mid - half : mid + half].mean((-1, -2))

    def signal(self, speed: torch.Tensor, warm: int, steps: int) -> torch.Tensor:
        """Probe of the last steps (B, steps); differentiable in speed."""
        start, context = self.flow.channel(speed, CENTRE, RADIUS)
        with torch.no_grad():
            u = self.solver.rollout(start, warm, context)[:, -1]
        return self.probe(self.solver.rollout(u, steps, context))


def measure(results: Results, channel: Channel, warm: int, steps: int) -> None:
    speed = torch.tensor([0.6, 0.8, 1.0, 1.2, 1.4])
    start, context = channel.flow.channel(speed, CENTRE, RADIUS)
    with torch.no_grad():
        frames = channel.solver.rollout(start, warm, context)
        parts = channel.residual.parts(frames[:, -5:], context).mean(0)
        off = channel.flow.divergence(channel.flow.velocity(frames[:, -1]))[:, :-1, :-1].abs().max()
        signal = channel.signal(speed, warm, steps)
    results.add(
        measure="rollout",
        steps=warm,
        momentum=float(parts[0].sqrt()),
        slip=float(parts[1].sqrt()),
        divergence=float(off),
    )
    for U, f, size in zip(speed, shedding_frequency(signal), signal.std(1), strict=True):
        strouhal = float(f) / (steps * channel.flow.dt) * 2 * RADIUS / float(U)
        row = {"periods": float(f), "probe_std": float(size), "strouhal": strouhal}
        results.add(measure=f"inflow {float(U):.1f}", **row)


def control(
    results: Results, channel: Channel, target: float, warm: int, steps: int, updates: int
) -> None:
    """Inflow for a number of periods in `steps`."""
    speed = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.Adam([speed], lr=0.02)
    for _ in range(updates):
        f = shedding_frequency(channel.signal(speed, warm, steps)).mean()
        optimizer.zero_grad()
        (f - target).square().backward()
        optimizer.step()
        with torch.no_grad():
            speed.clamp_(0.5, 1.5)  # what was trained
    row = {"target": target, "periods": float(f.detach()), "speed": float(speed.detach())}
    results.add(measure=f"control {target:g}", **row, updates=updates)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=600.0, help="CPU seconds of training")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--keep", type=Path, help="file for the weights")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    quick = given.quick
    seconds = 4.0 if quick else given.seconds
    channel = Channel(24 if quick else 48, 0.05, 2, 2, given.seed)
    results = Results("stagger_channel", given)
    recipe = PhysicsTraining(10**6, seconds, lr=1e-3, log=True, seed=given.seed)
    record = train_physics(channel.solver, channel.residual, channel.pool, recipe)
    first = record["losses"][0]
    row = {k: record[k] for k in ("updates", "cpu_seconds", "loss", "resets")}
    results.add(measure="training", **row, first_loss=first)
    if given.keep:
        torch.save(channel.solver.state_dict(), given.keep)
    warm, steps, updates = (20, 20, 1) if quick else (400, 200, 40)
    try:
        measure(results, channel, warm, steps)
        for target in (4.0, 6.0):
            control(results, channel, target, warm, steps, updates)
    except RheogradError as error:
        results.add(measure="failed", why=str(error))


if __name__ == "__main__":
    main()
