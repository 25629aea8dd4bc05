"""Ship trained states of `repro_dgno`: weights with a prior of their codes, and a card beside them.

    python benchmarks/repro_dgno.py --rows "train phases mixed, SOAP, fresh inputs" --seconds 400
    python benchmarks/ship_dgno.py darcy-phases-32 --seconds 400

Without names all are shipped, without `--seconds` the longest training that is finished of the first case
in `NAMES` that has one.
Errors of the card are those of the weights as they ship, on inputs and references of `repro_dgno`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from dgno_cases import CASES, Data, data, generator, make, prior_of
from repro_dgno import errors
from results import machine
from rheograd.assets import shipped
from rheograd.operators.dgno import (
    DGNO,
    Observation,
    Posterior,
    coverage,
    hamiltonian,
    load_dgno,
    noise_level,
    pixel_accuracy,
    predict,
    relative_error,
    save_dgno,
)
from rheograd.sim.io.checkpoint import load_checkpoint
from safetensors import safe_open

NAMES = {
    "darcy-phases-32": (
        ("phases energy, large", "phases energy"),
        {
            "equation": "−∇·(a ∇u) = 10 on the unit square, u = 0 around it; a and u from one code",
            "inputs": "a ∈ {5, 10}, the sign of a Gaussian field, correlation length 0.15, on 32² cells",
        },
    ),
    "darcy-smooth-32": (
        ("smooth energy, large", "smooth energy"),
        {
            "equation": "−∇·(a ∇u) = 10 on the unit square, u = 0 around it; a and u from one code",
            "inputs": "a = exp(½ g), g a Gaussian field, correlation length 0.3, on 32² cells",
        },
    ),
    "burgers-128": (
        ("burgers energy, large", "burgers energy"),
        {
            "equation": "∂u/∂t + u ∂u/∂x = ν ∂²u/∂x² in (−1, 1), u(±1) = 0, ν = 0.1/π, t from 0 to 1",
            "inputs": "first frames on 128 cells: Gaussian, 24 sines, α = 2, τ = 2",
        },
    ),
    "stokes-cylinder": (
        ("stokes energy",),
        {
            "equation": "∇·σ = 0, ∇·v = 0, μ = 0.01 Pa s, [0, 2] × [0, 1] m, disc of 0.1 m at (0.5, 0.6)",
            "inputs": "inflows on 64 cells: 2 sin(πy) (1 + sin(β₁ y) + cos(β₂ y)), β in (0, π)",
        },
    ),
}
"""Name → (cases of `repro_dgno`, the first one that was trained is shipped; what it is)."""

SENSORS, DECIBELS, FIELDS = 50, 25, 8
"""Of the inversions."""

HARM = 0.02
"""Largest relative increase of an error by float16."""


def finished(case: str, folder: Path) -> dict[float, Path]:
    """States of finished trainings by their seconds."""
    stem = case.replace(" ", "-").replace(",", "")
    states = {}
    for file in folder.glob(f"{stem}-*-0.safetensors"):
        middle = file.name[len(stem) + 1 : -len("-0.safetensors")]
        if middle.replace(".", "", 1).isdigit():
            with safe_open(file, "pt") as stored:  # the rest may change under a training that runs
                config = json.loads(stored.metadata()["config"])
            if config["spent"] >= float(middle):
                states[float(middle)] = file
    return states


def chosen(cases: Sequence[str], folder: Path, seconds: float | None) -> tuple[str, float, Path]:
    """Case, seconds and state: the longest training of the first case that has one."""
    for case in cases:
        states = finished(case, folder)
        wanted = max(states, default=0.0) if seconds is None else seconds
        if wanted in states:
            return case, wanted, states[wanted]
    raise SystemExit(f'Nothing is trained: repro_dgno.py --rows "train {cases[0]}" --seconds …')


@torch.no_grad()
def spread(model: DGNO, known: Data) -> float:
    """Root mean square error of u on inputs that are for this alone."""
    found = model(known.calibration).flatten(1)
    off = found - known.u_calibration[:, : found.shape[1]]
    return float(off.square().mean().sqrt())


def measured(model: DGNO, known: Data, kind: str) -> dict[str, float]:
    """Forward and inverse errors."""
    delta = spread(model, known)
    row = errors(model, known, kind) | {"rms error of u": delta}
    drawn = predict(model, known.unseen, draws=100, delta=delta, generator=generator(3)).flatten(2)
    row["coverage of 90 % intervals"] = float(coverage(drawn, known.u[:, : drawn.shape[-1]]))
    return row | inversions(model, known, delta)


def inversions(model: DGNO, known: Data, delta: float) -> dict[str, float]:
    """Means of posteriors of the first unseen inputs from few sensors, by Hamiltonian samples."""
    problem, prior, g = model.problem, model.prior, generator(SENSORS)
    model.requires_grad_(False)
    x = problem.points(known.unseen)
    cells = problem.grid.points(known.unseen).reshape(-1, problem.grid.dim)
    sums: dict[str, list[float]] = {}
    size = model(known.unseen[:1]).numel()  # pressures may follow solutions
    for a, u in zip(known.unseen[:FIELDS].flatten(1), known.u[:FIELDS, :size], strict=True):
        noise = float(noise_level(u[None], DECIBELS))
        at = torch.randperm(len(x), generator=g)[:SENSORS]
        parts = u.view(-1, len(x))[:, at]
        value = parts + noise * torch.randn(parts.shape, generator=g)
        seen = Observation(x[at], value.flatten(), math.hypot(noise, delta))
        post = Posterior(model, prior, [seen])
        starts = torch.randn(3, prior.latent, generator=g) * torch.tensor([[0.0], [0.5], [0.5]])
        z = post.maximize(starts, 25)
        best = z[post.energy(z).argmin()]
        root = post.laplace(best)
        begin = best + 0.5 * torch.randn(6, prior.latent, generator=g) @ root.mT
        chains = hamiltonian(post.slope, begin, 60, 60, root=root, generator=g)
        with torch.no_grad():
            decode = model.decode(prior.code(chains.flat()))
            us, back = problem.solution(decode, x).flatten(1), problem.inputs(decode, cells)
        mean = back.mean(0)[None]
        wide = us + delta * torch.randn(us.shape, generator=g)
        off = us.mean(0).view(-1, len(x))[:, at] - value
        part = {
            "error of a": relative_error(mean, a[None])[0],
            "error of u": relative_error(us.mean(0)[None], u[None])[0],
            "misfit over noise": off.square().mean().sqrt() / noise,
            "coverage of u": coverage(wide, u),
        }
        if getattr(problem, "phases", None) is not None:
            part["pixel accuracy"] = pixel_accuracy(mean, a[None], problem.middle)[0]
        for name, number in part.items():
            sums.setdefault(name, []).append(float(number))
    what = f"{SENSORS} sensors, {DECIBELS} dB"
    return {f"{what}: {name}": sum(v) / len(v) for name, v in sums.items()}


def ship(name: str, cases: Sequence[str], seconds: float | None, folder: Path) -> None:
    """Write weights and card."""
    case, seconds, state = chosen(cases, folder, seconds)
    about, given = NAMES[name][1], CASES[case]
    known = data(given, folder)
    model = make(given)
    trained = load_checkpoint(state, model).config
    model.eval()
    model.prior = prior_of(model, known, "normal")
    whole = errors(model, known, given.data)
    file = shipped("dgno", name)
    for half in (True, False):
        save_dgno(file, model, half)
        metrics = measured(load_dgno(file), known, given.data)
        wrong = [key for key in whole if "error" in key and metrics[key] > (1 + HARM) * whole[key]]
        if not wrong:
            break
    metrics["error in float32"] = whole["error"]
    told = load_checkpoint(file).config
    card = {
        "name": name,
        "commands": [
            f'python benchmarks/repro_dgno.py --rows "train {case}" --seconds {seconds:g}',
            f'python benchmarks/ship_dgno.py {name} --case "{case}" --seconds {seconds:g}',
        ],
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "problem": about | told["problem"],
        "config": told["config"],
        "prior": told["prior"],
        "precision": "float16" if half else "float32",
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": {
            "solutions": given.labelled,
            "inputs": "new in every update" if given.fresh else len(known.train),
            "unseen inputs": len(known.unseen),
            "inputs for the rms error": len(known.calibration),
            "optimizer": given.optimizer,
            "lr": given.lr,
            "batch": given.batch,
            "seed": 0,
            "updates": trained["updates"],
            "cpu seconds": float(f"{trained['spent']:.4g}"),
        },
        "metrics": {key: float(f"{value:.4g}") for key, value in metrics.items()},
    }
    text = json.dumps(card, indent=1, ensure_ascii=False)
    file.with_suffix(".json").write_text(text + "\n", "utf-8")
    size = file.stat().st_size / 1e6
    print(f"{name}: {size:.2f} MB, {json.dumps(card['metrics'], ensure_ascii=False)}", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("names", nargs="*", choices=[*NAMES, []], help="default all")
    arguments.add_argument("--case", choices=list(CASES), help="another case of `repro_dgno`")
    arguments.add_argument("--seconds", type=float, help="of the training")
    arguments.add_argument("--data", type=Path, default=Path("runs/dgno"))
    given = arguments.parse_args()
    torch.set_num_threads(1)
    for name in given.names or NAMES:
        ship(name, [given.case] if given.case else NAMES[name][0], given.seconds, given.data)


if __name__ == "__main__":
    main()
