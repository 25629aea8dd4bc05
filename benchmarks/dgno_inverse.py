"""Inversions of `repro_dgno.py`: a trained model, sensors and noise → samples, and their errors."""

from __future__ import annotations

import math
import time

import torch
from dgno_cases import PHASES, Data, generator, prior_of, sensed
from dgno_exact import calibration_error
from rheograd.operators.dgno import (
    DGNO,
    Discrepancy,
    Observation,
    Posterior,
    coverage,
    hamiltonian,
    pixel_accuracy,
    relative_error,
    residual_rms,
)


def inverse(
    model: DGNO,
    known: Data,
    measure: str,
    count: int,
    decibels: float,
    kind: str,
    given,
    residuals: bool = False,
) -> dict:
    """The first unseen fields from sensors: `kind` of prior, means and intervals of samples; what the
    decoder is off by as one number in σ, and as a `Discrepancy`."""
    model.requires_grad_(False)
    problem, g = model.problem, generator(count)
    fields, draws, warmup = (1, 8, 4) if given.quick else (given.fields, given.draws, given.draws)
    prior = prior_of(model, known, kind)
    with torch.no_grad():
        held = model(known.calibration).flatten(1) - known.u_calibration
        delta = float(held.square().mean().sqrt())
        x = problem.points(known.unseen)
        discrepancy = Discrepancy(x, -held)
        back = problem.inputs(model.decode(model.encode(known.calibration)), x)
        in_logs = (back.log() - known.calibration.flatten(1).log()).square().mean().sqrt()
    sigma_r = residual_rms(model, known.train[:50], generator=g) if residuals else None
    sums: dict[str, list[float]] = {}

    def put(key: str, value: float) -> None:
        sums.setdefault(key, []).append(float(value))

    start = time.process_time()
    for k in range(fields):
        u, a = known.u[k], known.unseen[k].flatten()
        at, value, noise = sensed(known, k, count, decibels)
        total = math.hypot(noise, delta)
        post = Posterior(
            model, prior, [Observation(x[at], value, total)], sigma_r, generator=g
        )  # fmt: skip
        starts = torch.cat([torch.zeros(1, prior.latent), 0.5 * torch.randn(
            2, prior.latent, generator=g)])  # fmt: skip
        z = post.maximize(starts, 25)
        best = z[post.energy(z).argmin()]
        root = post.laplace(best)
        normal = best + torch.randn(200, prior.latent, generator=g) @ root.mT
        begin = best + 0.5 * torch.randn(6, prior.latent, generator=g) @ root.mT
        chains = hamiltonian(post.slope, begin, draws, warmup, root=root, generator=g)
        put("acceptance", chains.acceptance)
        put("R hat, largest", float(chains.spread.max()))
        for way, zs in (("MAP", best[None]), ("Laplace", normal), ("HMC", chains.flat())):
            with torch.no_grad():
                decode = post.decode(prior.code(zs))
                us = problem.solution(decode, x).flatten(1)
                inside = problem.inputs(decode, x)
            mean_u, mean_a = us.mean(0), inside.mean(0)
            put(f"{way}: error u", relative_error(mean_u[None], u[None])[0])
            put(f"{way}: error a", relative_error(mean_a[None], a[None])[0])
            put(
                f"{way}: misfit over noise",
                (us[:, at].mean(0) - value).square().mean().sqrt() / noise,
            )
            if problem.phases is not None:
                put(f"{way}: pixels", pixel_accuracy(mean_a[None], a[None], problem.middle)[0])
            if way == "MAP":
                continue
            wide_u = us + delta * torch.randn(us.shape, generator=g)
            put(f"{way}: coverage u", coverage(wide_u, u))
            if problem.phases is None:
                wide = inside.log() + in_logs * torch.randn(inside.shape, generator=g)
                put(f"{way}: coverage log a", coverage(wide, a.log()))
                put(f"{way}: without the decoder's error", coverage(inside, a))
            else:
                low, high = PHASES
                chance = (mean_a - low) / (high - low)
                put(f"{way}: calibration error", calibration_error(chance, a > problem.middle))
        post = Posterior(
            model,
            prior,
            Observation(x[at], value, noise),
            sigma_r,
            generator=g,
            discrepancy=discrepancy,
        )
        z = post.maximize(z, 25)
        best = z[post.energy(z).argmin()]
        root = post.laplace(best)
        begin = best + 0.5 * torch.randn(6, prior.latent, generator=g) @ root.mT
        zs = hamiltonian(post.slope, begin, draws, warmup, root=root, generator=g).flat()
        us = post.predict(zs, x, generator=g).flatten(1)
        with torch.no_grad():
            mean_a = problem.inputs(post.decode(prior.code(zs)), x).mean(0)
        put("discrepancy: error u", relative_error(us.mean(0)[None], u[None])[0])
        put("discrepancy: error a", relative_error(mean_a[None], a[None])[0])
        put("discrepancy: coverage u", coverage(us, u))
        if problem.phases is not None:
            put("discrepancy: pixels", pixel_accuracy(mean_a[None], a[None], problem.middle)[0])
        for way, drawn in (("HMC", wide_u), ("discrepancy", us)):
            ends = torch.quantile(drawn, torch.tensor([0.05, 0.95]), 0)
            put(
                f"{way}: width of intervals of u",
                (ends[1] - ends[0]).mean() / u.square().mean().sqrt(),
            )
    row = {"measure": measure, "fields": fields, "error of the decoder, u": delta}
    with torch.no_grad():
        plain = model(known.unseen[:fields]).flatten(1)
    row["forward error of these"] = float(relative_error(plain, known.u[:fields]).mean())
    better = relative_error(plain + discrepancy.mean, known.u[:fields])
    row["forward error, with the mean of the discrepancy"] = float(better.mean())
    row |= {key: sum(v) / len(v) for key, v in sums.items()}
    row["process seconds per field"] = (time.process_time() - start) / fields
    return row
