"""How long do losses between clouds take, and from how many particles on is Sinkhorn too slow?

    python benchmarks/bench_cloud_losses.py [--quick] [--machine NAME]

Two blocks of 0.3 × 0.3 × 0.1 m and 0.1 × 0.3 × 0.3 m, 0.2 m apart, float32, one thread. CPU time of value
and gradient, best of three; ratios are over chamfer of the same clouds in the same run. Writes
results/cloud_losses.<machine>.json; `--quick` runs the smallest clouds and writes nothing.
"""

from __future__ import annotations

import time

import torch
from results import Results, parser
from rheograd.tasks.fluid.losses import chamfer, sinkhorn, squared_distance
from rheograd.tasks.fluid.measures import Cells, density_mismatch


def seconds(loss, x, y, repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        leaf = x.clone().requires_grad_()
        start = time.process_time()
        loss(leaf, y).sum().backward()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    given = parser(__doc__).parse_args()
    given.device = "cpu"
    results = Results("cloud_losses", given)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    cells = Cells.over((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), 0.05)
    losses = {
        "chamfer": chamfer,
        "squared_distance": squared_distance,
        "density_mismatch": lambda x, y: density_mismatch(x, y, cells),
        "sinkhorn, 1e-3 m2": lambda x, y: sinkhorn(x, y, 1e-3),
        "sinkhorn, 1e-4 m2": lambda x, y: sinkhorn(x, y, 1e-4),
    }
    for n in (500,) if given.quick else (500, 1000, 2000):
        x = torch.rand(1, n, 3, generator=generator) * torch.tensor([0.3, 0.3, 0.1])
        y = torch.rand(1, n, 3, generator=generator) * torch.tensor([0.1, 0.3, 0.3]) + 0.2
        times = {name: seconds(loss, x, y) for name, loss in losses.items()}
        for name, value in times.items():
            results.add(
                measure="time", particles=n, loss=name, cpu_seconds=round(value, 5),
                over_chamfer=round(value / times["chamfer"], 2),
            )  # fmt: skip


if __name__ == "__main__":
    main()
