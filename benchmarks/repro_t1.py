"""T1, FNO and the neuraloperator package's FNO (where it can be imported) at equal CPU time.

Navier–Stokes: ω(0) → ω(10), ν = 1e-3, 64² cells, 400 fields to train on and 40 unseen ones. Darcy:
a ∈ {3, 12} → u, 16² cells, 1000 and 100. One core; updates = time / measured cost of an update, so that
other load does not count. AdamW, cosine schedule, batch 16, relative L² loss, last weights;
learning rates are the better ones of short trials; one seed. "shifts", "turns": every batch is replaced
by other samples of the same problem, from its symmetries.
Rows:

    transform, variance, loss    properties that tests assert, as numbers
    speed …                      milliseconds of a forward and backward pass
    coefficients …               the same on coefficients that are there, of fields on 64² and on 256²
    floor …                      relative L² that the kept modes cannot represent
    ns …, darcy …                training: relative L² on unseen fields, mean of squares, other grids
    transfer …                   the flows on 32² cells, tested on 64² without training

    python benchmarks/repro_t1.py [--rows "ns T1" …] [--again]

Rows that the results file holds are not repeated, so a run that was broken off goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from field_data import darcy, kept, navier_stokes, resample
from results import Results, parser
from rheograd.operators.data import RandomShift, RandomTurn
from rheograd.operators.fno import FNO, FNOConfig
from rheograd.operators.layers import GridOperator, relative_l2
from rheograd.operators.t1 import (
    T1,
    T1U,
    Basis1D,
    SeparableTransform,
    T1Config,
    T1UConfig,
    mode_std,
)
from rheograd.operators.train import TrainerConfig, measure_operator, train_on_arrays
from torch import Tensor


@dataclasses.dataclass
class Case:
    """One training."""

    make: Callable[[], GridOperator]
    seconds: float
    lr: float = 3e-3
    augment: Callable | None = None


class Peer(GridOperator):
    """FNO of the neuraloperator package behind our signature."""

    def __init__(self, config: FNOConfig) -> None:
        super().__init__(config, len(config.n_modes))
        from neuralop.models import FNO as TheirFNO

        torch.manual_seed(0)
        self.theirs = TheirFNO(
            n_modes=tuple(2 * K for K in config.n_modes),
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            hidden_channels=config.hidden_channels,
            n_layers=config.n_layers,
        )

    def field(self, x):
        return self.theirs(x)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def t1(m: int, width: int, n: int = 64, boundary: str = "periodic", **options) -> T1:
    config = T1Config((m, m), (n, n), boundary, hidden_channels=width, **options)
    return T1(config, generator=generator())


def t1u(m: int, width: int, n: int) -> T1U:
    return T1U(T1UConfig((m, m), (n, n), hidden_channels=width), generator=generator())


def fno(modes: int, width: int, kind: type = FNO, **options) -> GridOperator:
    config = FNOConfig((modes, modes), hidden_channels=width, **options)
    return kind(config) if kind is Peer else FNO(config, generator=generator())


def cases(peer: bool) -> dict[str, Case]:
    """Trainings by name of their row."""
    walls = {"boundary": "dirichlet", "input_boundary": "neumann"}
    dct = {"boundary": "neumann"}
    shifts = {"augment": RandomShift([(1, -1)])}  # along which the forcing is constant
    turns = {"augment": RandomTurn()}
    rows = {
        "ns T1 m9 w32, 60 s": Case(lambda: t1(9, 32), 60),
        "ns T1 m13 w32, 60 s": Case(lambda: t1(13, 32), 60),
        "ns T1 DCT m12 w32, 60 s": Case(lambda: t1(12, 32, **dct), 60),
        "ns T1 m13 w32 vp, 60 s": Case(lambda: t1(13, 32, init="vp"), 60),
        "ns FNO K12 w20, 60 s": Case(lambda: fno(12, 20), 60, 1e-2),
        "ns T1 m9 w32, 240 s": Case(lambda: t1(9, 32), 240),
        "ns T1 DCT m24 w24, 240 s": Case(lambda: t1(24, 24, **dct), 240),
        "ns FNO K12 w20, 240 s": Case(lambda: fno(12, 20), 240, 1e-2),
        "ns T1 m9 w32, shifts, 60 s": Case(lambda: t1(9, 32), 60, **shifts),
        "ns T1 m13 w32, shifts, 60 s": Case(lambda: t1(13, 32), 60, **shifts),
        "ns T1 DCT m12 w32, shifts, 60 s": Case(lambda: t1(12, 32, **dct), 60, **shifts),
        "ns FNO K12 w20, shifts, 60 s": Case(lambda: fno(12, 20), 60, 1e-2, **shifts),
        "ns T1 m13 w32, shifts, 240 s": Case(lambda: t1(13, 32), 240, **shifts),
        "ns T1 DCT m24 w24, shifts, 240 s": Case(lambda: t1(24, 24, **dct), 240, **shifts),
        "ns FNO K12 w20, shifts, 240 s": Case(lambda: fno(12, 20), 240, 1e-2, **shifts),
        "transfer T1 m13 w32, 30 s": Case(lambda: t1(13, 32, 32), 30, **shifts),
        "transfer T1 DCT m12 w32, 30 s": Case(lambda: t1(12, 32, 32, "neumann"), 30, **shifts),
        "transfer T1U m13 w12, 30 s": Case(lambda: t1u(13, 12, 32), 30, **shifts),
        "transfer FNO K12 w20, 30 s": Case(lambda: fno(12, 20), 30, 1e-2, **shifts),
        "darcy T1 m14 w24, 60 s": Case(lambda: t1(14, 24, 16, **walls), 60),
        "darcy T1 DCT m14 w24, 60 s": Case(lambda: t1(14, 24, 16, **dct), 60),
        "darcy FNO K7 w24, 60 s": Case(lambda: fno(7, 24), 60, 1e-2),
        "darcy T1 m14 w24, turns, 60 s": Case(lambda: t1(14, 24, 16, **walls), 60, **turns),
        "darcy FNO K7 w24, turns, 60 s": Case(lambda: fno(7, 24), 60, 1e-2, **turns),
    }
    if peer:
        rows |= {
            "ns neuraloperator FNO K12 w20, 60 s": Case(lambda: fno(12, 20, Peer), 60, 1e-2),
            "darcy neuraloperator FNO K7 w24, 60 s": Case(lambda: fno(7, 24, Peer), 60, 1e-2),
        }
    return rows


def parameters(model: torch.nn.Module) -> int:
    """Real numbers among the weights."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())


def fastest(call: Callable[[], object], times: int = 8) -> float:
    """CPU seconds of a call, the fastest of several."""
    found = []
    for _ in range(times):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def cost(model: GridOperator, x: Tensor, y: Tensor, augment: Callable | None) -> float:
    """CPU seconds of an update."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    rows, draws = model.training_data(x, y), generator()

    def update():
        some = rows if augment is None else model.training_data(*augment(x, y, draws))
        model.relative_error(some).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return fastest(update)


def train(case: Case, data: dict, grids: dict, quick: bool) -> dict:
    """One training and its errors, also on other grids than that of training."""
    model, batch = case.make(), 16
    x, y, seen = data["x"], data["y"], data["seen"]
    model.fit_scales(x[:seen], y[:seen])
    each = cost(model, x[:batch], y[:batch], case.augment)
    updates = max(1, round((1.0 if quick else case.seconds) / each))
    config = TrainerConfig(
        updates=updates, optimizer="adamw", lr=case.lr, weight_decay=1e-2, schedule="cosine",
        keep_best=False, validate_every=updates,
    )  # fmt: skip
    start = time.process_time()
    unseen = (x[seen:], y[seen:])
    fitted = train_on_arrays(
        model, x[:seen], y[:seen], config, validation=unseen, batch=batch, augment=case.augment
    )
    used = time.process_time() - start
    with torch.no_grad():
        value = torch.cat([model(part) for part in unseen[0].split(20)])
        squares = relative_l2(value, unseen[1]).square().mean()
    others = {
        f"relative L2 on {n}²": measure_operator(model, a, b)["relative_l2"]
        for n, (a, b) in grids.items()
        if n > 2 * max(model.config.n_modes) or not isinstance(model, FNO | Peer)
    }
    recent = fitted.history.loss[-(seen // batch) :]
    return {
        "parameters": parameters(model),
        "updates": updates,
        "seconds per update": each,
        "cpu seconds": used,
        "loss after 50 updates": sum(fitted.history.loss[45:55]) / 10 if updates > 55 else None,
        "training relative L2": sum(recent) / len(recent),
        "relative L2": fitted.metrics["relative_l2"],
        "worst": fitted.metrics["worst"],
        "relative L2 of the mean": fitted.metrics["relative_l2 of the mean"],
        "mean of squares": float(squares),
        **others,
    }


def properties() -> list[dict]:
    """What tests assert, as numbers."""
    g, rows = generator(), []
    for kind in ("dct", "dst", "rfourier"):
        for n in (64, 65):
            transform = SeparableTransform([Basis1D(kind, n)] * 2)
            f = torch.randn(4, 1, n, n, generator=g)
            c = transform.analyze(f)
            back = transform.synthesize(c, (n, n))
            parseval = c.square().sum() / f.square().mean((1, 2, 3)).sum() - 1
            rows.append(
                {
                    "measure": f"transform {kind} {n}",
                    "round trip": float((back - f).abs().max()),
                    "parseval": abs(float(parseval)),
                }
            )
    for m in (8, 16, 24, 32, 64):
        transform = SeparableTransform([Basis1D("dct", m)] * 2)
        x = torch.randn(4, 48, 64, 64, generator=g)
        z = transform.analyze(x).flatten(2).permute(2, 0, 1)
        ratios = {}
        for init in ("vp", "kaiming", "fno"):
            W = torch.randn(m * m, 48, 48, generator=g) * mode_std(m * m, 48, 48, (64, 64), init)
            y = transform.synthesize((z @ W).permute(1, 2, 0).unflatten(2, (m, m)), (64, 64))
            ratios[init] = float(y.var() / x.var())
        rows.append({"measure": f"variance m{m}", **ratios})
    model = t1(25, 24)
    torch.nn.init.normal_(model.out, std=0.1, generator=g)
    x, y = torch.randn(2, 8, 1, 64, 64, generator=g)
    with torch.no_grad():
        gap = model.relative_error(model.training_data(x, y)) / relative_l2(model(x), y) - 1
    rows.append(
        {
            "measure": "loss on coefficients over that on fields, − 1",
            "largest": float(gap.abs().max()),
        }
    )
    return rows


def speed(peer: bool) -> list[dict]:
    """Forward and backward passes, batch 16, one core."""
    models = {
        "T1 m24 w24": t1(24, 24, boundary="neumann"),
        "T1 m25 w24": t1(25, 24),
        "T1 m13 w32": t1(13, 32),
        "T1 m24 w48 L8": t1(24, 48, boundary="neumann", n_layers=8),
        "T1U m25 w16": t1u(25, 16, 64),
        "FNO K12 w20": fno(12, 20),
    }
    if peer:
        models["neuraloperator FNO K12 w20"] = fno(12, 20, Peer)
    x, fine = torch.randn(16, 1, 64, 64), torch.randn(16, 1, 256, 256)
    rows = []

    def both(model: GridOperator, call: Callable, data: torch.Tensor) -> float:
        def run():
            model.zero_grad()
            call(data).square().mean().backward()

        return 1e3 * fastest(run)

    for name, model in models.items():
        row = {"measure": f"speed {name}", "parameters": parameters(model)}
        row["ms on 64²"] = both(model, model, x)
        if hasattr(model, "predict"):
            row["ms on 256²"] = both(model, model, fine)
        rows.append(row)
    base = next(r for r in rows if r["measure"] == "speed FNO K12 w20")["ms on 64²"]
    for row in rows:
        row["FNO over this"] = base / row["ms on 64²"]
    return rows


def coefficients(quick: bool) -> list[dict]:
    """Forward and backward passes on coefficients, batch 16, one core, whatever the grid they are of.

    Sizes take turns, first one and then the other first, so that load from outside meets both alike;
    of many calls the fastest and the median, and the median of the ratio of calls side by side.
    """
    rows, rounds = [], 6 if quick else 100
    for name, model in {
        "T1 m24 w24": t1(24, 24, boundary="neumann"),
        "T1 m13 w32": t1(13, 32),
        "T1U m25 w16": t1u(25, 16, 64),
    }.items():
        found: dict[int, list[float]] = {64: [], 256: []}
        given = {n: model.analysis.analyze(torch.randn(16, 1, n, n)) for n in found}

        def run(n: int, model: GridOperator = model, given: dict = given) -> float:
            model.zero_grad()
            start = time.process_time()
            model.predict(given[n]).square().mean().backward()
            return 1e3 * (time.process_time() - start)

        for turn in range(-4, rounds):
            for n in (64, 256) if turn % 2 else (256, 64):
                ms = run(n)
                if turn >= 0:  # the first rounds warm up
                    found[n].append(ms)
        row = {"measure": f"coefficients {name}", "rounds": rounds}
        for n, ms in found.items():
            row[f"fastest ms, {n}²"], row[f"median ms, {n}²"] = min(ms), statistics.median(ms)
        row["256² over 64², fastest"] = min(found[256]) / min(found[64])
        pairs = zip(found[256], found[64], strict=True)
        row["256² over 64², side by side"] = statistics.median(a / b for a, b in pairs)
        rows.append(row)
    return rows


def floors(y: torch.Tensor) -> list[dict]:
    rows = []
    for kind, m in (("dct", 12), ("dct", 24), ("rfourier", 13), ("rfourier", 25)):
        transform = SeparableTransform([Basis1D(kind, m)] * 2)
        back = transform.synthesize(transform.analyze(y), y.shape[2:])
        rows.append(
            {"measure": f"floor {kind} m{m}", "relative L2": float(relative_l2(back, y).mean())}
        )
    return rows


class Flows:
    """Data sets with their test fields on other grids, made when a row needs them."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self.folder, self.quick = folder, quick

    @functools.cache  # noqa: B019
    def sets(self, name: str) -> tuple[dict, dict]:
        """{"x", "y", "seen": number of training fields}, {cells: (x, y)}."""
        file = self.folder / f"{name}{'-quick' if self.quick else ''}.pt"
        if name == "ns":
            count = (24, 8) if self.quick else (400, 40)
            flow = kept(file, lambda: navier_stokes(sum(count)))
            x, y = flow["x"][count[0] :], flow["y"][count[0] :]
            grids = (32,) if self.quick else (32, 128)
            others = {n: (resample(x, n), resample(y, n)) for n in grids}
            return {**flow, "seen": count[0]}, others
        if name == "transfer":
            flow, others = self.sets("ns")
            a, b = flow["x"][flow["seen"] :], flow["y"][flow["seen"] :]
            coarse = {key: resample(flow[key], 32) for key in ("x", "y")}
            return {**coarse, "seen": flow["seen"]}, {64: (a, b)}
        count = (40, 10) if self.quick else (1000, 100)
        flow = kept(file, lambda: darcy(sum(count)))
        others = {32: (flow["a 32"][count[0] :], flow["u 32"][count[0] :])}
        return {"x": flow["a 16"], "y": flow["u 16"], "seen": count[0]}, others


def main() -> None:
    arguments = parser(__doc__.splitlines()[0], again=True)
    arguments.add_argument("--rows", nargs="+", help="only rows whose names begin so")
    arguments.add_argument("--data", type=Path, default=Path("runs/t1-data"))
    given = arguments.parse_args()
    torch.set_num_threads(1)
    results = Results("t1", given)

    def wanted(name: str) -> bool:
        return results.lacks(name, given.rows)

    peer = importlib.util.find_spec("neuralop") is not None
    parts = {
        "transform": properties, "speed": lambda: speed(peer),
        "coefficients": lambda: coefficients(given.quick),
    }  # fmt: skip
    for name, part in parts.items():
        if wanted(name):
            for row in part():
                results.add(**row)
    flows = Flows(given.data, given.quick)
    if wanted("floor"):
        for row in floors(flows.sets("ns")[0]["y"]):
            results.add(**row)
    for name, case in cases(peer).items():
        if wanted(name):
            rows = train(case, *flows.sets(name.split()[0]), given.quick)
            results.add(measure=name, **{k: v for k, v in rows.items() if v is not None})
            assert math.isfinite(rows["relative L2"])


if __name__ == "__main__":
    main()
