"""Latent generative operators on residuals: what trains without solutions, and what it can be asked.

One core, process time. Rows, in the order of the acceptance list of docs/dgno.md:

    test functions      A1, A2: gradients, bias of the rules, residual of an exact solution
    shared trunk        A3: one evaluation of the trunk against one per sample
    train …, T s        A4 and the other problems: T seconds of Adam, or of SOAP, on inputs alone (on
                        labels where the name says so), errors on unseen inputs; baselines alike
    layers …            A5: MultiONet and DeepONet of equal size, supervised, three seeds
    inverse …, T s      A6: sensors and noise → MAP, Laplace and Hamiltonian samples, coverage of 90 %;
                        "exact posterior": the best there is, by long chains of the solver itself

    python benchmarks/repro_dgno.py [--rows "train phases" …] [--seconds 60] [--again] [--quick]

Rows that the results file holds are not repeated, and trainings go on where they were broken off.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path

import torch
from dgno_cases import (
    CASES,
    Data,
    data,
    generator,
    inputs,
    make,
    reference,
    train,
)
from dgno_exact import exact
from dgno_inverse import inverse
from results import Results, parser
from rheograd.operators.dgno import (
    DGNO,
    MultiONet,
    TestFunctions,
    coverage,
    energy_bounds,
    pixel_accuracy,
    predict,
    relative_error,
    wendland,
)
from rheograd.sim.grid.pdes import Darcy, Grid


def test_functions() -> list[dict]:
    """A1, A2."""
    row: dict = {"measure": "test functions"}
    for d in (1, 2, 3):
        y = 0.4 * torch.randn(400, d, generator=generator(), dtype=torch.float64)
        y = y.requires_grad_()
        phi, slope = wendland(y)
        row[f"gradient {d}-D"] = float((torch.autograd.grad(phi.sum(), y)[0] - slope).abs().max())
    for m in (7, 9, 15):
        raw = TestFunctions(2, m, corrected=False, ends=True)
        row[f"bias of the published rule, m = {m}"] = float(
            (raw.gradient[:, 0] * raw.y[:, 0]).sum().abs() - 1
        )
    size = 5 * math.pi**2
    for name, options in (
        ("corrected, m = 7", {"points": 7}),
        ("corrected, m = 4", {"points": 4}),
        ("published rule, m = 7", {"points": 7, "corrected": False, "ends": True}),
    ):
        P = TestFunctions(2, **options).sample(500, (0, 0), (1, 1), 1e-2, generator())
        sin, cos = torch.sin(math.pi * P.points), torch.cos(math.pi * P.points)
        x, y = 2 * math.pi * P.points.T
        s = [math.pi * cos[:, 0] * torch.sin(y), 2 * math.pi * sin[:, 0] * torch.cos(y)]
        f = size * sin[:, 0] * torch.sin(y)
        row[f"exact solution, R = 0.01, {name}"] = float(
            (P.against(s) - P.average(f)).abs().max() / size
        )
    return [row]


def shared_trunk(quick: bool) -> list[dict]:
    """A3: one update's values and slopes, with backward."""
    B, n = (4, 100) if quick else (25, 2500)
    net = MultiONet(2, 64, 64, 5, generator=generator(), weight=1.0)
    beta, x = torch.randn(B, 64, generator=generator()), torch.rand(n, 2, generator=generator())
    own = x.expand(B, -1, -1)

    def shared():
        return net.jets(beta, x, 1)

    def each():
        return net.jets(beta, own, 1)

    def published():
        at = own.clone().requires_grad_()
        u = net(beta, at)
        slope = torch.autograd.grad(u.sum(), at, create_graph=True)[0]
        return torch.cat([u, slope.mT], 1).movedim(1, 0)[:, :, None]

    seconds, values = {}, {}
    for name, f in (("shared", shared), ("each", each), ("each, double backward", published)):
        best = math.inf
        for _ in range(2):
            start = time.process_time()
            out = f()
            out.square().mean().backward()
            best = min(best, time.process_time() - start)
        seconds[name], values[name] = best, out.detach()
    off = [float((values[k] - values["shared"]).abs().max()) for k in values]
    size = float(values["shared"].abs().max())
    row = {"measure": "shared trunk", "B": B, "points": n, "largest difference": max(off) / size}
    row |= {f"seconds, {k}": v for k, v in seconds.items()}
    return [row | {"ratio": seconds["each, double backward"] / seconds["shared"]}]


@torch.no_grad()
def errors(model: DGNO, known: Data, kind: str, a=None, u=None) -> dict:
    """On unseen inputs."""
    a, u = (known.unseen, known.u) if a is None else (a, u)
    decode = model.decode(model.encode(a))
    x = model.problem.points(a)
    found = model.problem.solution(decode, x).flatten(1)
    row = {}
    if kind == "stokes":
        n = len(x)
        v, p = u[:, : 2 * n], u[:, 2 * n :]
        for i, name in enumerate(("u", "v")):
            part = slice(i * n, (i + 1) * n)
            row[f"error {name}"] = float(relative_error(found[:, part], v[:, part]).mean())
        pressure = model.problem.pressure(decode, x)
        row["error p"] = float(relative_error(pressure, p).mean())
        ahead, behind = x[:, 0] < 0.3, x[:, 0] > 1.0
        drops = [float(q[:, ahead].mean() - q[:, behind].mean()) for q in (pressure, p)]
        row["pressure drop over that of the reference"] = drops[0] / drops[1]
        row["flux behind the disc over inflow"] = float(found[:, :n][:, behind].mean() / a.mean())
        u = v
    error = relative_error(found, u)
    row |= {"error": float(error.mean()), "worst": float(error.max())}
    row["error of the mean solution"] = float(relative_error(u.mean(0).expand_as(u), u).mean())
    grid = model.problem.grid
    back = model.problem.inputs(decode, grid.points(a).reshape(-1, grid.dim))
    if kind == "phases":
        middle = model.problem.middle
        row["pixel accuracy"] = float(pixel_accuracy(back, a.flatten(1), middle).mean())
    row["error of the input"] = float(relative_error(back, a).mean())
    return row


def strong_limit(known: Data) -> float:
    """Error of the solution of −a Δu = f a.e., which the strong form aims at where a jumps."""
    grid = Grid((96, 96), sides="dirichlet")
    a = known.unseen.repeat_interleave(3, -1).repeat_interleave(3, -2)
    u = torch.cat([
        Darcy(grid).solve(torch.ones_like(k[None]), {"forcing": 10.0 / k[None]}) for k in a
    ])  # fmt: skip
    return float(relative_error(u[..., 1::3, 1::3], known.u).mean())


def trained(name: str, seconds: float, given) -> tuple[DGNO, Data, dict]:
    case = CASES[name]
    known = data(case, given.data, given.quick)
    model, row = train(name, case, known, seconds, given.data)
    return model, known, row


def training(name: str, measure: str, seconds: float, given) -> dict:
    model, known, row = trained(name, seconds, given)
    kind = CASES[name].data
    row = {"measure": measure} | row | errors(model, known, kind)
    with torch.no_grad():
        solution = model(known.calibration).flatten(1)
        size = solution.shape[1]
        delta = (solution - known.u_calibration[:, :size]).square().mean(0).sqrt()
    drawn = predict(model, known.unseen, draws=60, delta=0.0, generator=generator(3)).flatten(2)
    wide = drawn + delta * torch.randn(drawn.shape, generator=generator(4))
    row["coverage, codes alone"] = float(coverage(drawn, known.u[:, :size]))
    row["coverage, with the decoder's error"] = float(coverage(wide, known.u[:, :size]))
    row["parameters"] = sum(p.numel() for p in model.parameters())
    if getattr(model.problem, "form", "") == "energy" and kind in ("phases", "smooth"):
        bounds = energy_bounds(model, known.unseen)
        with torch.no_grad():
            u = model(known.unseen).flatten(1)
        off = relative_error(u, known.u)
        row["bound of the energy error"] = float(bounds.error.mean())
        both = torch.stack([bounds.error, off]).double()
        row["correlation of bound and error"] = float(torch.corrcoef(both)[0, 1])
        better = relative_error(bounds.factor[:, None] * u, known.u)
        row["error with the factor of the bounds"] = float(better.mean())
    if name == "phases PI-DeepONet":
        row["error of what the strong form aims at"] = strong_limit(known)
    if (
        name.startswith(("phases mixed", "phases energy", "phases PI-DeepONet"))
        and "rule" not in name
    ):
        for fraction in (0.3, 0.4, 0.6, 0.7):
            a = inputs(kind, 4 if given.quick else 40, 11, fraction)
            found = errors(model, known, kind, a, reference(kind, a))
            row[f"fraction {fraction}: error"] = found["error"]
            row[f"fraction {fraction}: of the mean"] = found["error of the mean solution"]
            row[f"fraction {fraction}: pixels"] = found["pixel accuracy"]
    return row


def layers(seconds: float, given) -> list[dict]:
    """A5: smooth Darcy from 200 labels; codes of the encoder, parameters equal up to w."""
    rows = []
    case = CASES["smooth primal"]
    known = data(case, given.data, given.quick)
    n = 16 if given.quick else 200
    file = given.data / f"labels-{n}.pt"
    if not file.exists():
        torch.save(reference("smooth", known.train[:n]), file)
    u = torch.load(file)
    for seed in range(3):
        row: dict = {"measure": f"layers, seed {seed}, {seconds:g} s"}
        for name, kind, first in (("multi", "multi", 1.0), ("multi from 0", "multi", 0.0),
                                  ("deep", "deep", 1.0)):  # fmt: skip
            config = dataclasses.replace(case.config, kind=kind, first_weight=first)
            model = make(dataclasses.replace(case, config=config), seed)
            model.fit_scales(known.train[:n])
            parts = (model.encoder, model.decoders["u"])
            optimizer = torch.optim.Adam([p for m in parts for p in m.parameters()], 2e-3)
            g, start, share, updates = generator(seed), time.process_time(), 0.0, 0
            while share < 1:
                optimizer.param_groups[0]["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * share))
                i = torch.randint(n, (25,), generator=g)
                optimizer.zero_grad()
                found = model(known.train[i]).flatten(1)
                loss = (found - u[i]).square().mean(1) / u[i].square().mean(1)
                loss.mean().backward()
                optimizer.step()
                updates += 1
                share = (time.process_time() - start) / seconds
            row[f"{name}: error"] = errors(model.eval(), known, "smooth")["error"]
            row[f"{name}: updates"] = updates
        rows.append(row)
    return rows


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--rows", nargs="+", help="only rows whose names begin so")
    arguments.add_argument("--again", action="store_true", help="repeat rows that are there")
    arguments.add_argument("--seconds", type=float, default=60.0, help="process time of a training")
    arguments.add_argument("--fields", type=int, default=6, help="fields per inversion")
    arguments.add_argument("--draws", type=int, default=60, help="of each of six chains")
    arguments.add_argument("--data", type=Path, default=Path("runs/dgno"))
    given = arguments.parse_args()
    torch.set_num_threads(1)
    results = Results("dgno", given)
    there = set()
    if results.file.exists() and not (given.again or given.quick):
        there = {row["measure"] for row in json.loads(results.file.read_text("utf-8"))["rows"]}
    if given.quick:
        given.data = given.data / "quick"

    def wanted(name: str) -> bool:
        named = not given.rows or any(name.startswith(row) for row in given.rows)
        return named and not any(row == name or row.startswith(name + ",") for row in there)

    def add(rows: list[dict], seconds: float | None = None) -> None:
        for row in rows:
            results.add(**row, command=f"repro_dgno.py --seconds {given.seconds:g}", seed=0)

    seconds = 0.5 if given.quick else given.seconds
    if wanted("test functions"):
        add(test_functions())
    if wanted("shared trunk"):
        add(shared_trunk(given.quick))
    for name in CASES:
        if wanted(measure := f"train {name}, {seconds:g} s"):
            add([training(name, measure, seconds, given)])
    if wanted("layers"):
        add(layers(max(seconds / 5, 0.3), given))
    for count, decibels in ((100, 25), (25, 25)):
        measure = f"inverse phases, exact posterior, {count} sensors, {decibels} dB"
        if wanted(measure) and (count == 100 or not given.quick):
            known = data(CASES["phases mixed"], given.data, given.quick)
            fields, steps = (1, 30) if given.quick else (given.fields, 20000)
            add([{"measure": measure} | exact(known, count, decibels, fields, steps)])
    for name, kind in (
        ("smooth primal", "normal"), ("smooth primal", "flow"), ("smooth bayes", "joint"),
        ("phases mixed", "normal"), ("phases mixed", "flow"), ("phases mixed, w from 1", "normal"),
        ("phases bayes", "joint"), ("phases mixed, SOAP", "normal"),
        ("phases mixed, SOAP, fresh inputs", "normal"), ("smooth mixed, SOAP, fresh inputs", "normal"),
        ("phases energy, large", "normal"), ("smooth energy, large", "normal"),
    ):  # fmt: skip
        for count, decibels in ((100, 25), (25, 25), (100, 50), (100, 20), (25, 50), (25, 20)):
            first = (count, decibels) == (100, 25)
            for residuals in (False, True) if first else (False,):
                what = f"{name}, {kind} prior, {count} sensors, {decibels} dB"
                what += ", with residuals" if residuals else ""
                measure = f"inverse {what}, {seconds:g} s"
                if wanted(measure) and (first or not given.quick):
                    model, known, _ = trained(name, seconds, given)
                    add([inverse(model, known, measure, count, decibels, kind, given, residuals)])


if __name__ == "__main__":
    main()
