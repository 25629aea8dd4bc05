"""How many simulations does it take to identify a gel sensor and its contact?

    python benchmarks/bench_identify.py [--quick] [--only PART ...] [--machine NAME]

A dome with 136 markers presses, twists, rolls and slides on a table; hidden are Young's modulus,
Poisson's ratio, stiffness of contact and friction. One simulation is all four motions once. `within_5`:
the simulation from which on the best candidate so far has all parameters within 5 % of the hidden ones;
`same_pixels`: the first with a marker error of 2e-3 px, which is about what that means. Also what
markers, forces and pictures can tell at all, recovery from noise, what a wrong stiffness does to the
others, and recovery from the picture of one motion. One thread. Writes results/identify.<machine>.json;
`--quick` runs small sizes and writes nothing.
"""

from __future__ import annotations

import functools
import time

import torch
from results import Results, parser
from rheograd.sim.tactile import dome
from rheograd.sim.tactile.camera import dome_camera
from rheograd.sim.tactile.lights import three_lights
from rheograd.sim.tactile.optics import load_optics
from rheograd.tasks.tactile.identifiability import identifiability
from rheograd.tasks.tactile.identify import identify
from rheograd.tasks.tactile.pictures import learned_pictures, lit_pictures
from rheograd.tasks.tactile.probe import dome_probe
from rheograd.tasks.tactile.residuals import Noise, Residuals

TRUTH = {"E": 1.18e5, "nu": 0.47, "stiffness": 1.2e4, "friction": 0.5}
GUESSES = [
    {"E": 2.5e5, "nu": 0.42, "stiffness": 4e4, "friction": 0.25},
    {"E": 6e4, "nu": 0.35, "stiffness": 5e3, "friction": 0.8},
    {"E": 2e5, "nu": 0.48, "stiffness": 3e3, "friction": 0.2},
]
"""Factors of 1.7 to 4 away; the search may go to a factor of ten."""
BUDGETS = {"gauss-newton": 60, "lbfgs": 60, "cma": 480, "bayes": 150}
"""Simulations at most."""
PIXELS = 2e-3
"""Marker error that is compared [px]."""
RUNS = {"gauss-newton": 3, "lbfgs": 3, "cma": 2, "bayes": 1}
"""Guesses to start from; as many as the time allows."""


def row(found, truth=TRUTH) -> dict:
    """What a search found and took."""
    reached = found.cost_to(truth)
    errors = {f"error_{k}": v for k, v in found.errors(truth).items()}
    return {
        "simulations": found.simulations, "gradients": found.gradients, "cpu_s": found.cpu_seconds,
        "within_5": reached and reached.simulations, "pixels_then": reached and reached.pixels,
        "pixels": found.pixels, "newtons": found.newtons, "loss": found.loss, **errors,
        "stopped": found.stopped,
    }  # fmt: skip


def costs(results: Results, probe, guess) -> None:
    """Processor seconds of a simulation, of one with its backward pass, and of the differences."""
    r = Residuals(probe, probe.observe(TRUTH), guess)
    u = torch.zeros(len(guess), dtype=torch.float64)
    times = []
    for work in (lambda: r.rows(u[None]), lambda: r.loss_and_gradient(u), lambda: r.jacobian(u)):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    results.add(measure="cost", simulation_s=times[0], gradient_s=times[1], jacobian_s=times[2],
                entries=r.count, points=len(probe.sensor.mesh.X))  # fmt: skip


def tell(results: Results, name: str, probe, sources, measure: str = "tells") -> None:
    """Standard deviations by source of data."""
    for use in sources:
        found = identifiability(probe, TRUTH, use=use)
        results.add(
            measure=measure, motions=name, use="+".join(use), condition=found.condition,
            **{f"deviation_{k}": v for k, v in found.deviation.items()},
            **{f"alone_{k}": v for k, v in found.alone.items()},
            **{f"weakest_{k}": v for k, v in found.weakest.items()},
        )  # fmt: skip


def search(results: Results, probe, method: str, runs: int, budget: int) -> None:
    """A method from several guesses, without noise."""
    seen = probe.observe(TRUTH)
    for number, guess in enumerate(GUESSES[:runs]):
        found = identify(probe, seen, guess, method=method, budget=budget, seed=number)
        same = found.cost_of_pixels(PIXELS)
        results.add(measure=f"search {method}", guess=number, same_pixels=same and same.simulations,
                    **row(found))  # fmt: skip


def noisy(results: Results, probe, draws: int) -> None:
    """Errors over predicted standard deviations."""
    noise, clean = Noise(), probe.observe(TRUTH)
    for seed in range(draws):
        seen = clean.noisy(noise.pixels, noise.newtons, seed=seed)
        found = identify(probe, seen, GUESSES[0], noise=noise, budget=60)
        expected = {f"deviation_{k}": v for k, v in found.certainty.deviation.items()}
        results.add(measure="noise", seed=seed, **row(found), **expected)


def wrong(results: Results, probe) -> None:
    """What is found where something taken for known is not what it should be."""
    seen = probe.observe(TRUTH)
    guess = {k: v for k, v in GUESSES[0].items() if k != "stiffness"}
    for factor in (0.3, 3.0):
        known = {"stiffness": factor * TRUTH["stiffness"]}
        found = identify(probe, seen, guess, known=known, budget=60)
        known_row = row(found, {k: TRUTH[k] for k in guess})
        results.add(measure="wrong stiffness", factor=factor, **known_row)
    higher = dome_probe(2, gap=2e-4 - 1e-5).observe(TRUTH)
    found = identify(probe, higher, GUESSES[0], budget=60)
    results.add(measure="wrong height", by=1e-5, **row(found))


def height(results: Results, probe) -> None:
    """The free way at the start is unknown, too: 10 µm more than the guess."""
    truth = {**TRUTH, "gap": 2.1e-4}
    seen = probe.observe(truth)
    found = identify(probe, seen, {**GUESSES[0], "gap": 2e-4}, budget=80)
    results.add(measure="height to find", by=1e-5, **row(found, truth))
    noise = Noise()
    found = identify(probe, seen.noisy(noise.pixels, noise.newtons), {**GUESSES[0], "gap": 2e-4},
                     budget=80)  # fmt: skip
    deviations = {f"deviation_{k}": v for k, v in found.certainty.deviation.items()}
    results.add(measure="height to find, noise", by=1e-5, **row(found, truth), **deviations)


def pictures(results: Results, cuts: int, scale: float) -> None:
    """The slide alone, seen by its last picture and felt by its forces, without markers.

    The photograph is of a coat under diodes (lit) or by the shipped network; the model that explains it
    likewise. A network that explains photographs of the coat is not the truth, as on a real sensor.
    """
    mesh, camera, lights = dome(cuts=cuts, layers=1), dome_camera().scaled(scale), three_lights()
    lit = lit_pictures(mesh, camera, lights)
    background = lit(mesh.X[None])[0]
    network = learned_pictures(mesh, camera, load_optics("dome")[0], background)
    probes = {
        name: dome_probe(cuts, motions=(3,), render=render)
        for name, render in (("lit", lit), ("network", network))
    }
    sources = (("pictures",), ("pictures", "force"), ("markers", "force"))
    tell(results, "slide", probes["lit"], sources, "tells, pictures")
    without = {k: v for k, v in GUESSES[0].items() if k != "stiffness"}
    cases = (
        ("lit", "lit", "gauss-newton", GUESSES[0]),
        ("network", "network", "gauss-newton", GUESSES[0]),
        ("network", "network", "lbfgs", GUESSES[0]),
        ("lit", "network", "gauss-newton", GUESSES[0]),
        ("lit", "network", "gauss-newton", without),
    )
    for data, model, method, guess in cases:
        seen = probes[data].observe(TRUTH)
        known = {k: v for k, v in TRUTH.items() if k not in guess}
        found = identify(
            probes[model], seen, guess, known=known, method=method, use=("pictures", "force"),
            budget=60,
        )  # fmt: skip
        results.add(
            measure="pictures", data=data, model=model, method=method, unknown=len(guess),
            picture=list(seen.pictures.shape), **row(found, {k: TRUTH[k] for k in guess}),
        )  # fmt: skip


def finer(results: Results) -> None:
    """A gel of four times as many cells."""
    probe = dome_probe(3)
    found = identify(probe, probe.observe(TRUTH), GUESSES[0], budget=60)
    results.add(measure="finer", points=len(probe.sensor.mesh.X), **row(found))


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--only", nargs="+", help="parts, the others keep their rows")
    given = arguments.parse_args()
    given.device = "cpu"
    torch.set_num_threads(1)
    results = Results("identify", given)
    small = dict(markers=24, motions=(0, 3), press_steps=2, move_steps=2) if given.quick else {}
    probe = dome_probe(2, **small)
    sources = (("markers",), ("force",), ("markers", "force"))
    budgets = {**BUDGETS, "cma": 24, "bayes": 12} if given.quick else BUDGETS
    parts = {"cost": lambda: costs(results, probe, GUESSES[0])}
    parts["tells"] = lambda: [
        tell(results, name, dome_probe(2, dt=dt, **small), sources)
        for name, dt in (("5 ms", 5e-3), ("50 ms", 5e-2))
    ]
    for method, runs in RUNS.items():
        runs = 1 if given.quick else runs
        parts[method] = functools.partial(search, results, probe, method, runs, budgets[method])
    if not given.quick:
        parts["noise"] = lambda: noisy(results, probe, 4)
        parts["wrong"] = lambda: wrong(results, probe)
        parts["height"] = lambda: height(results, probe)
        parts["pictures"] = lambda: pictures(results, 2, 0.1)
        parts["finer"] = lambda: finer(results)
    for name in given.only or parts:
        parts[name]()


if __name__ == "__main__":
    main()
