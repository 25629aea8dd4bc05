"""How well do 409 of 4,096 particles tell where all are, and what does a particle cost?

A cube of 0.5 m edge in 3 random throws to learn from and an unseen one, 160 frames of 5 steps; 11
frames of the unseen throw are compared. rel_l2 = ‖x − x*‖ / ‖x*‖ and rel_disp = ‖x − x*‖ / ‖x* − X‖
are means over the frames after the first, mse [m²] is one over frames, particles and axes. Seconds
are wall time of one thread on a machine that may be busy: `setup_s` the weights, `frames_s` all 11
frames (for methods that follow, setup is part of that).

    python benchmarks/bench_reconstruct.py [accuracy] [learned] [speed] [--quick]
"""

from __future__ import annotations

import dataclasses
import time

import results
import torch
from rheograd.operators.giorom.kernel_rom import KernelROM, SplineCorrection
from rheograd.operators.giorom.reconstruct import AffineMLS, InverseDistance, LocalSpline, follow
from rheograd.operators.nclaw import random_throw, simulate_truth
from rheograd.operators.train import Trainer, TrainerConfig
from rheograd.sim import mpm

TRAIN, UNSEEN = (1, 7, 2), 8
EVERY, GRID, DRAWS = 5, 24, 4


def simulate(material: str, seed: int, steps: int, edge: int) -> torch.Tensor:
    """Frames (T, N, 3) of a throw on a grid of 24³ nodes."""
    scene = random_throw(material, seed)
    axis = torch.linspace(0.25, 0.75, edge)
    x = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    scene = dataclasses.replace(scene, x=x, volume=0.5**3 / edge**3, dx=0.04)
    return simulate_truth(scene.solver(mpm), steps).x[::EVERY].clone()


@dataclasses.dataclass
class Draw:
    """Some particles of a trajectory as sensors, some as queries."""

    sensors: torch.Tensor
    queries: torch.Tensor

    def __post_init__(self) -> None:
        self.spline = LocalSpline(self.sensors[0], self.queries[0])
        self.affine = AffineMLS(self.sensors[0], self.queries[0])


def choose(path: torch.Tensor, seed: int) -> torch.Tensor:
    """A tenth of the particles, at random."""
    count = path.shape[1]
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[: count // 10]


class Case:
    """Trajectories of one material and what is to be reconstructed."""

    def __init__(self, material: str, quick: bool) -> None:
        steps, edge = (80, 8) if quick else (800, 16)
        begin = time.perf_counter()
        self.train = [simulate(material, seed, steps, edge) for seed in TRAIN]
        self.truth = simulate(material, UNSEEN, steps, edge)
        self.simulation = time.perf_counter() - begin
        self.material = material
        self.frames = torch.linspace(0, len(self.truth) - 1, 11).long()
        self.sensors = self.truth[:, choose(self.truth, 0)]
        self.updates = 20 if quick else 1500

    def score(self, x: torch.Tensor) -> dict[str, float]:
        truth = self.truth[self.frames]
        error = (x - truth).norm(dim=(1, 2))[1:]
        scale, way = (t.norm(dim=(1, 2))[1:] for t in (truth, truth - truth[0]))
        mse = (x - truth).square().mean()
        return {
            "rel_l2": float((error / scale).mean()),
            "rel_disp": float((error / way).mean()),
            "mse": float(mse),
        }

    def row(self, method: str, setup, evaluate, **more) -> dict:
        begin = time.perf_counter()
        prepared = setup()
        middle = time.perf_counter()
        with torch.no_grad():
            x = evaluate(prepared)
        end = time.perf_counter()
        seconds = {"setup_s": middle - begin, "frames_s": end - middle, **more}
        head = {"measure": "accuracy", "engine": self.material, "method": method}
        return {**head, **self.score(x), **seconds}

    def interpolations(self):
        X, Q, now = self.sensors[0], self.truth[0], self.sensors[self.frames]
        for scheme in (InverseDistance, AffineMLS, LocalSpline):
            yield self.row(scheme.__name__, lambda s=scheme: s(X, Q), lambda m: m.reconstruct(now))
        for every in (40, 10):
            for scheme, k in ((AffineMLS, 16), (LocalSpline, 24)):
                yield self.row(
                    f"{scheme.__name__}, new reference every {every} frames",
                    lambda: None,
                    lambda _, e=every, s=scheme, k=k: follow(
                        self.sensors, Q, every=e, scheme=s, neighbors=k
                    )[self.frames],
                )
        for samples in (8, None):
            name = "8 samples" if samples else "Gaussian"
            blur = KernelROM(grid=GRID, samples=samples)
            generator = torch.Generator().manual_seed(0)
            yield self.row(
                f"splat and blur ({name})",
                lambda: None,
                lambda _, b=blur, g=generator: Q + b.interpolate(X, now - X, Q, g),
            )

    def learned(self):
        X, Q, now = self.sensors[0], self.truth[0], self.sensors[self.frames]
        # New sensors and queries in every draw, as the published augmentation.
        draws = []
        for i, path in enumerate(self.train):
            for j in range(DRAWS):
                pick = torch.Generator().manual_seed(100 * i + j)
                some = torch.randperm(path.shape[1], generator=pick)[:1024]
                draws.append(Draw(path[:, choose(path, 100 * i + j + 1)], path[:, some]))
        times = range(1, len(self.truth))
        batches = [torch.tensor([d, t]) for d in range(len(draws)) for t in times]
        everything = torch.cat([*self.train, self.truth])
        low, high = float(everything.min()), float(everything.max())

        def sample(batch):
            draw, t = draws[int(batch[0])], int(batch[1])
            return draw, draw.sensors[t], draw.queries[t]

        def rom_loss(rom, batch, generator):
            draw, sensors, truth = sample(batch)
            x = rom(draw.sensors[0], sensors, draw.queries[0], generator)
            return ((x - truth) / rom.scale).square().mean()

        def correction_loss(net, batch, generator):
            draw, sensors, truth = sample(batch)
            wrong = draw.spline.reconstruct(sensors) - truth
            x = net(draw.spline, draw.affine, sensors)
            return (x - truth).square().sum() / wrong.square().sum()

        def fit(model, loss, **options):
            begin = time.perf_counter()
            options = {"updates": self.updates, "lr": 1e-3, "keep_best": False, **options}
            Trainer(model, loss, TrainerConfig(**options)).fit(batches)
            return {"train_s": time.perf_counter() - begin, "updates": self.updates}

        variants = {
            "KernelROM, absolute target": {"absolute": True, "samples": 8},
            "KernelROM, zero start on the reference, Gaussian": {
                "absolute": False,
                "samples": None,
            },
        }
        for name, options in variants.items():
            start = torch.Generator().manual_seed(0)
            rom = KernelROM(grid=GRID, lower=low, upper=high, generator=start, **options)
            cost = fit(rom, rom_loss)
            draw = torch.Generator().manual_seed(0)
            yield self.row(name, lambda: None, lambda _, r=rom, g=draw: r(X, now, Q, g), **cost)
        net = SplineCorrection(generator=torch.Generator().manual_seed(0))
        cost = fit(net, correction_loss, lr=2e-3, schedule="cosine", clip=1.0)
        row = self.row(
            "LocalSpline and SplineCorrection",
            lambda: (LocalSpline(X, Q), AffineMLS(X, Q)),
            lambda maps: net(*maps, now),
            **cost,
        )
        # The same weights on other sensors: rel_disp without and with the correction.
        for seed in range(1, 4):
            path = self.truth[:, choose(self.truth, seed)]
            spline, affine = LocalSpline(path[0], Q), AffineMLS(path[0], Q)
            some = path[self.frames]
            with torch.no_grad():
                pair = spline.reconstruct(some), net(spline, affine, some)
            without, corrected = (self.score(x)["rel_disp"] for x in pair)
            row |= {f"spline_sensors_{seed}": without, f"corrected_sensors_{seed}": corrected}
        yield row


def speed(quick: bool):
    """Random points in the unit cube; medians of 9 frames."""
    generator = torch.Generator().manual_seed(0)
    X = torch.rand(1000, 3, generator=generator)
    for count in (1000, 3000) if quick else (10_000, 30_000, 100_000):
        Q = torch.rand(count, 3, generator=generator)
        for scheme in (InverseDistance, AffineMLS, LocalSpline):
            begin = time.perf_counter()
            field = scheme(X, Q)
            setup = time.perf_counter() - begin
            times = []
            for _ in range(9):
                begin = time.perf_counter()
                field.reconstruct(X + 0.1)
                times.append(time.perf_counter() - begin)
            frame = sorted(times)[4]
            yield {
                "measure": "speed",
                "engine": "cpu",
                "method": scheme.__name__,
                "sensors": len(X),
                "queries": count,
                "setup_s": setup,
                "frame_s": frame,
                "frame_ns_per_query": 1e9 * frame / count,
                "setup_us_per_query": 1e6 * setup / count,
            }


def main() -> None:
    parser = results.parser(__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["speed", "accuracy", "learned"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.device = "cpu"
    out = results.Results("reconstruct", arguments)
    if "speed" in arguments.parts:
        for row in speed(arguments.quick):
            out.add(**row)
    if {"accuracy", "learned"} & set(arguments.parts):
        for material in ("jelly", "water"):
            case = Case(material, arguments.quick)
            out.add(measure="simulation", engine=material, seconds=case.simulation)
            if "accuracy" in arguments.parts:
                for row in case.interpolations():
                    out.add(**row)
            if "learned" in arguments.parts:
                for row in case.learned():
                    out.add(**{**row, "measure": "learned"})


if __name__ == "__main__":
    main()
