"""Does a stepper on sparse sensors learn motions, and does its latent grid pay for itself?

For each material: 14 throws of a cube of 4,096 particles (24³ grid, 160 frames of 2.5 ms), 12 to train on
and 2 unseen. Every variant trains for the same CPU time of one core (updates = time / measured cost of an
update, so that other load does not count), on 300 random sensors; GNS on all particles. Solids see the
undeformed body, unless the variant says otherwise. Measured on the unseen throws, two sensor sets each:

    one_step      mean over particles of |a − a*|² [m²/frame⁴], sum over axes, without noise
    rollout       mean over particles and 100 frames of |x − x*|² [m²], from the true window
    *_over_*      over that of the baseline: no acceleration, free flight (constant velocity and gravity)

"unseen" repeats the rollout on seven further throws, which tell more than two; "discretization" on four
sensor sets, and with twice the sensors, the radius scaled by 2^(−1/3). "speed" times one step at 400
sensors and 40 neighbours, and GNS on the dense cloud.

    python benchmarks/repro_giorom.py [--seconds 300] [--materials jelly water] [--variants …] [--jobs 2]
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from results import Results, parser
from rheograd.operators.data import EpochBatches, ParticleWindows
from rheograd.operators.giorom import ConstantVelocity, StepperLoss, rollout_mse
from rheograd.tasks.runs.configs import to_dict
from rheograd.tasks.runs.folder import RunFolder
from rheograd.tasks.runs.generation import generate
from rheograd.tasks.runs.generation_config import GenerateConfig
from rheograd.tasks.runs.learning_config import StepperConfig
from rheograd.tasks.runs.stepping import (
    build_stepper,
    graph_radius,
    held_out,
    load_stepper,
    train_stepper,
    windows,
)

VARIANTS = {
    "latent grid": {"model": "giorom"},
    "latent grid, published attention": {"model": "attention"},
    "interaction layers only": {"model": "layers"},
    "latent grid, body not known": {"model": "giorom", "reference": False},
    "GNS, all particles": {"model": "gns", "sensors": 0, "batch": 1},
}
SOLIDS = ("jelly", "plasticine")


def throws(material: str) -> GenerateConfig:
    """Throws of a material to learn from."""
    return GenerateConfig(
        dataset=material, trajectories=14, validation=2, particles=4096, frames=160, grid=24, seed=100
    )  # fmt: skip


def data_set(material: str, root: Path, quick: bool) -> Path:
    """Folder of the generated throws; made once."""
    config = throws(material)
    if quick:
        config = dataclasses.replace(
            GenerateConfig.nano(), dataset=material, particles=1000, frames=110
        )
    out = root / f"{material}{'-quick' if quick else ''}"
    if not (out / "metadata.json").exists():
        generate(config, RunFolder(out, "generate", to_dict(config)))
    return out


def cost(config: StepperConfig) -> float:
    """CPU seconds of an update, the fastest of ten."""
    data = windows(config, "train")
    model = build_stepper(config, data.statistics(), graph_radius(data, config.neighbors), data.dim)
    optimizer, loss = torch.optim.AdamW(model.parameters()), StepperLoss(noise=config.noise)
    batches, times = EpochBatches(data, config.batch, config.seed), []
    for k in range(10):
        start = time.process_time()
        loss(model, batches[k]).backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.process_time() - start)
    return min(times)


@torch.no_grad()
def unseen(material: str, model, root: Path) -> dict:
    """Rollouts over free flight on throws of other seeds, one sensor set each."""
    out = root / f"{material}-unseen"
    if not (out / "metadata.json").exists():
        config = dataclasses.replace(
            throws(material), trajectories=8, validation=1, frames=107, seed=500
        )
        generate(config, RunFolder(out, "generate", to_dict(config)))
    data = ParticleWindows.from_folder(
        out, "train", sensors=300, seed=99, reference=model.config.reference
    )
    gravity = torch.tensor(json.loads((out / "metadata.json").read_text())["gravity"])
    free = ConstantVelocity(gravity * data.frame_time**2)
    errors, flights = [], []
    for trajectory in data.trajectories:
        batch = data.trajectory(trajectory)
        batch = batch.replace(target=batch.target[:, :100])
        errors.append(float(rollout_mse(model, batch)))
        flights.append(float(rollout_mse(free, batch)))
    ratios = [a / b for a, b in zip(errors, flights, strict=True)]
    return {
        "throws": len(errors),
        "rollout over free flight": sum(errors) / sum(flights),
        "worst throw": max(ratios),
        "best throw": min(ratios),
    }


def train(
    material: str, variant: str, config: StepperConfig, seconds: float, out: Path, quick: bool
) -> list:
    """Rows about one variant; in a process of its own."""
    torch.set_num_threads(1)
    each = cost(config)
    config = dataclasses.replace(config, updates=max(1, round(seconds / each)))
    folder = RunFolder(out / f"{material}-{'-'.join(variant.split())}", "train", to_dict(config))
    head = {"material": material, "variant": variant}
    start = time.process_time()
    summary = train_stepper(config, folder)
    used = {"cpu_seconds": time.process_time() - start, "seconds_per_update": each}
    rows = [{"measure": f"stepper {material} {variant}", **head, **used, **summary}]
    if config.sensors:
        found = discretization(config, folder.path)
        rows.append({"measure": f"discretization {material} {variant}", **head, **found})
    if config.sensors and not quick:
        found = unseen(material, load_stepper(folder.path), Path(config.data).parent)
        rows.append({"measure": f"unseen {material} {variant}", **head, **found})
    return rows


@torch.no_grad()
def discretization(config: StepperConfig, folder: Path) -> dict:
    """Spread over sensor sets, and error with twice the sensors."""
    model = load_stepper(folder)

    def errors(copies: int, sensors: int) -> list[float]:
        runs = held_out(config, copies=copies, seed=11, horizon=100, sensors=sensors)
        return [float(rollout_mse(model, batch)) for batch in runs[:4]]

    sets = errors(4, config.sensors)
    model.radius *= 2 ** (-1 / 3)
    double = errors(2, 2 * config.sensors)
    return {
        "std_over_mean": statistics.pstdev(sets) / statistics.mean(sets),
        "double_over_single": statistics.mean(double[:2]) / statistics.mean(sets),
    }


@torch.no_grad()
def speed(data: Path, device: str) -> list[dict]:
    """Time of one step, on one core or the GPU."""
    torch.set_num_threads(1)
    rows = []
    for variant, options in VARIANTS.items():
        config = StepperConfig(**{"data": str(data), "sensors": 400, "reference": True, **options})
        samples = windows(config, "validation")
        batch = samples[0].to(device)
        radius = graph_radius(samples, 40)
        model = build_stepper(config, samples.statistics(), radius, samples.dim).eval().to(device)
        times = []
        for _ in range(3 if config.model == "gns" else 12):
            start = time.perf_counter()
            model.acceleration(batch).sum().item()
            times.append(time.perf_counter() - start)
        neighbors = model.encode(batch).index.shape[1] / batch.n
        rows.append(
            {
                "measure": f"speed {variant}",
                "variant": variant,
                "particles": batch.n,
                "neighbors": neighbors,
                "seconds_per_step": min(times[1:]),
            }
        )
    for row in rows:
        row["gns_over_this"] = rows[-1]["seconds_per_step"] / row["seconds_per_step"]
    return rows


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=300.0, help="CPU time per training")
    arguments.add_argument("--materials", nargs="+", default=["jelly", "water"])
    arguments.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments.add_argument("--data", type=Path, default=Path("runs/giorom-data"))
    arguments.add_argument("--out", type=Path, default=Path("runs/giorom"))
    arguments.add_argument("--jobs", type=int, default=2, help="trainings at once, a core each")
    arguments.add_argument("--speed", action="store_true", help="time of one step only")
    arguments.add_argument("--measure", nargs="+", type=Path, default=[], help="unseen throws only")
    given = arguments.parse_args()
    results = Results("giorom", given)
    out = given.out / time.strftime("%Y%m%d-%H%M%S")
    folders = {m: data_set(m, given.data, given.quick) for m in given.materials}
    if given.speed or set(given.variants) == set(VARIANTS):
        for row in speed(next(iter(folders.values())), given.device):
            results.add(**row)
    if given.speed:
        return
    jobs = []
    for variant in given.variants:  # jobs of one variant side by side, the same load for all
        for material, data in folders.items():
            solid = material in SOLIDS
            if not solid and VARIANTS[variant].get("reference") is False:
                continue
            seconds = 15.0 if given.quick else given.seconds
            options = {"reference": solid, **VARIANTS[variant]}
            config = StepperConfig(data=str(data), **options)
            jobs.append((material, variant, config, seconds, out, given.quick))
    for folder in given.measure:
        material, _, variant = folder.name.partition("-")
        variant = next(v for v in VARIANTS if v.replace(" ", "-") == variant)
        head = {"measure": f"unseen {material} {variant}", "material": material, "variant": variant}
        results.add(**head, **unseen(material, load_stepper(folder), given.data))
    if given.measure:
        return
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(train, *job) for job in jobs]):
            for row in future.result():
                results.add(**row)
    print(json.dumps({"weights": str(out)}))


if __name__ == "__main__":
    main()
