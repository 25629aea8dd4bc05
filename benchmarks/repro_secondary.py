"""Implicit layers, convergent graph solvers and Lagrangian networks: the toy experiments of their papers.

One core, seeds 0; times are CPU times of this process, so that other load hardly counts. Rows:

    implicit …    hyper-gradients, memory and time of implicit and unrolled derivatives
    lpinn …       convection–diffusion and Burgers: Lagrangian and Eulerian network at equal time
    pores …       pressures of pore networks: convergent graph solver, its variants and baselines
    values …      value iteration on random graphs, likewise
    long …        the last two with 60 s of training instead of 15 s

    python benchmarks/repro_secondary.py [--rows lpinn "pores CGS" …] [--again]

Rows that the results file holds are not repeated, so a run that was broken off goes on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from results import Results, parser
from secondary_rows import graph_rows, implicit_rows

Row = Callable[[], dict[str, Any]]


def lpinn(kind: str, model: str, c: float, seconds: float, **config: Any) -> dict[str, Any]:
    """Relative L² over all times after so many seconds of CPU time, float64."""
    from rheograd.operators import lpinn as parts

    torch.manual_seed(0)
    problem = getattr(parts, kind)(c=c, nu=0.01 if kind == "Convection" else 0.05)
    network = getattr(parts, model)(problem, parts.PINNConfig(**config)).double()
    report = parts.fit(network, iterations=100000, seconds=seconds)
    return {
        "relative_l2": parts.relative_error(network, problem),
        "loss": min(report.loss),
        "evaluations": report.evaluations,
        "seconds": report.seconds,
        "weights": sum(p.numel() for p in network.parameters()),
    }


def lpinn_rows() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for c in (0.0, 10.0, 30.0, 50.0):
        for model in ("LagrangianPINN", "EulerianPINN"):
            rows[f"lpinn convection c={c:g} {model}"] = functools.partial(
                lpinn, "Convection", model, c, 10.0
            )
    rows["lpinn convection c=30 LagrangianPINN, drift learned"] = functools.partial(
        lpinn, "Convection", "LagrangianPINN", 30.0, 10.0, drift=0.0
    )
    for name, options in (("", {}), (", diffusion of labels", {"physical_diffusion": False})):
        rows[f"lpinn burgers c=10 LagrangianPINN{name}"] = functools.partial(
            lpinn, "Burgers", "LagrangianPINN", 10.0, 20.0, **options
        )
    rows["lpinn burgers c=10 EulerianPINN"] = functools.partial(
        lpinn, "Burgers", "EulerianPINN", 10.0, 20.0
    )
    return rows


def table() -> dict[str, Row]:
    """All rows by name."""
    return {**implicit_rows(), **lpinn_rows(), **graph_rows()}


def main() -> None:
    arguments = parser(__doc__, again=True)
    arguments.add_argument("--rows", nargs="+", default=[""], help="beginnings of names")
    arguments = arguments.parse_args()
    torch.set_num_threads(1)
    results = Results("repro_secondary", arguments)
    for name, row in table().items():
        if name in results.done or not any(name.startswith(start) for start in arguments.rows):
            continue
        found = row()
        assert all(math.isfinite(v) for v in found.values() if isinstance(v, float)), found
        results.add(measure=name, **found)


if __name__ == "__main__":
    main()
