"""How do learned, fitted and older laws predict the scenes of the NCLaw paper?

Trains what is missing in FOLDER (resumable), rolls every law out beside the truth and writes the mean
square position error [m²] over every fifth frame, law × scene × material, to
`benchmarks/results/repro_nclaw.<machine>.json`.

    python benchmarks/repro_nclaw.py --size nano                  every method and scene, minutes
    python benchmarks/repro_nclaw.py --size medium --out FOLDER    full bodies, fewer particles, hours
    python benchmarks/repro_nclaw.py --size full --out FOLDER      the paper's sizes; wants a GPU
    python benchmarks/repro_nclaw.py --train jelly --out FOLDER    train and measure one material
    python benchmarks/repro_nclaw.py --acceptance --out FOLDER     labels, warm start, transfer

The table goes on where it was interrupted: what the file of results has is not measured again, except
with `--again`. Its law `isotropic` is the one that ships, but at nano. `--quick` is `--size nano` without
writing.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import time

import gnn_opponent
import torch
from results import Results, parser
from rheograd.assets import weights
from rheograd.operators.nclaw import THROW_SEEDS
from rheograd.sim.core.errors import RheogradError
from rheograd.tasks.nclaw import (
    METHODS,
    SCENES,
    TrainedLaw,
    evaluate,
    load_law,
    make_scene,
    simulate,
    train_law,
    volume_ratios,
)

MATERIALS = ("jelly", "plasticine", "sand", "water")
ALONE = tuple(name for name in SCENES if name not in ("mesh", "large", "pool", "melting"))
"""Scenes of one material; `large` only when asked for."""
COUPLED = ("pool", "melting")
SOLIDS = ("jelly", "plasticine")
"""What melts, each to sand."""
MEASURED = ("reconstruction", *(f"velocity-{seed}" for seed in THROW_SEEDS))
"""Scenes that tell how good a training is: the trained motion and unseen throws."""


class Judge:
    """Truths by scene, laws by method, and the rows they give."""

    def __init__(self, arguments, results: Results) -> None:
        self.arguments, self.results = arguments, results
        self.truths: dict[tuple, tuple[torch.Tensor, dict[str, float]]] = {}
        self.laws: dict[tuple[str, str], TrainedLaw | None] = {}
        self.networks: dict[str, tuple[object, float]] = {}
        table = not (arguments.train or arguments.acceptance)
        self.finished = results.done if table else set()

    def missing(self, scene, method: str, material: str) -> bool:
        """Whether the table lacks a row."""
        name = f"{self.arguments.size} {scene.name} {material} {method}"
        return name not in self.finished

    def law(self, method: str, material: str):
        """The trained law, or None where its training broke down."""
        key = (method, material)
        if key not in self.laws:
            a, began = self.arguments, time.process_time()
            if method == "isotropic" and a.size != "nano" and not a.train:
                report = weights("laws", material).with_suffix(".json")
                self.laws[key] = TrainedLaw(
                    load_law(material, a.device), report, json.loads(report.read_text("utf-8"))
                )
                return self.laws[key]
            try:
                self.laws[key] = train_law(
                    method,
                    material,
                    a.out,
                    size=a.size,
                    seed=a.seed,
                    device=a.device,
                    command=shlex.join(["python", *sys.argv]),
                    on_update=progress(f"{method} {material}"),
                )
            except RheogradError as failure:
                print(f"{method} {material}: {failure}", file=sys.stderr)
                self.laws[key] = None
                row = {"method": method, "material": material, "failure": str(failure)}
                self.results.add(measure=f"{a.size} training {material} {method}", **row)
            else:
                cpu = time.process_time() - began
                print(f"{method} {material}: trained or loaded, {cpu:.0f} s CPU", file=sys.stderr)
        return self.laws[key]

    def row(self, scene, method: str, material: str, laws, **extra) -> float | None:
        """Evaluate one law, or networks instead, in one scene and keep the result."""
        a = self.arguments
        key = (scene.name, material, scene.particle_count, scene.steps)
        if key not in self.truths:
            self.truths.clear()
            self.truths[key] = self.truth(scene)
        truth, volumes = self.truths[key]
        if method == "gnn":
            found = gnn_opponent.evaluate(laws, scene, truth, material)
        else:
            found = evaluate(laws, scene, truth=truth, device=a.device)
        still = float((truth - truth[0]).square().mean())
        self.results.add(
            measure=f"{a.size} {scene.name} {material} {method}",
            scene=scene.name,
            method=method,
            material=material,
            particles=scene.particle_count,
            mse_m2=found.mse,
            mse_last_m2=found.last,
            mse_if_still_m2=still,
            steps=found.steps,
            seconds=found.seconds,
            volumes=found.volumes,
            true_volumes=volumes,
            failure=found.failure,
            **extra,
        )
        return found.mse

    def truth(self, scene) -> tuple[torch.Tensor, dict[str, float]]:
        """Positions of the true laws, and how much volume each body has at the end over rest."""
        volumes = {}

        def keep(step: int, state) -> None:
            if step == scene.steps:
                volumes.update(volume_ratios(scene.solver(), state))

        return simulate(scene, device=self.arguments.device, on_frame=keep), volumes

    def gnn(self, material: str):
        """The trained graph network, and the CPU time that this took [s], little when it was there."""
        if material not in self.networks:
            a, began = self.arguments, time.process_time()
            size, updates = ("nano", 30) if a.size == "nano" else ("full", 500)
            network = gnn_opponent.train(material, a.out, updates, size=size, seed=a.seed)
            self.networks[material] = network, time.process_time() - began
        return self.networks[material]


def table(judge: Judge, methods, scenes, materials) -> None:
    size = judge.arguments.size
    for name in scenes:
        if name in COUPLED:
            for start in SOLIDS if name == "melting" else ("jelly",):
                scene = make_scene(name, start, size)
                if set(scene.materials) <= set(materials):
                    coupled(judge, methods, scene)
            continue
        for material in materials:
            scene = make_scene(name, material, size)
            for method in methods:
                if not judge.missing(scene, method, material):
                    continue
                if method == "gnn":
                    network, seconds = judge.gnn(material)
                    judge.row(scene, method, material, network, training_cpu_s=seconds)
                    continue
                trained = judge.law(method, material)
                if trained is not None:
                    seconds = trained.report.get("cpu_seconds")
                    judge.row(scene, method, material, trained.law, training_cpu_s=seconds)


def coupled(judge: Judge, methods, scene) -> None:
    """One scene of several materials: every method that has a law for each."""
    material = "+".join(scene.materials)
    for method in methods:
        if method == "gnn" or not judge.missing(scene, method, material):
            continue
        trained = {m: judge.law(method, m) for m in scene.materials}
        if None not in trained.values():
            laws = {m: one.law for m, one in trained.items()}
            melts = scene.melting[1] > 0
            if not melts or all(law.storage == "F" for law in laws.values()):
                judge.row(scene, method, material, laws)


def train(judge: Judge, methods, material: str) -> None:
    """Train, measure, and put the numbers beside the weights."""
    for method in methods:
        trained = judge.law(method, material)
        if trained is None:
            continue
        size, metrics = judge.arguments.size, {}
        seconds = trained.report.get("cpu_seconds")
        for name in MEASURED:
            scene = make_scene(name, material, size)
            metrics[name] = judge.row(scene, method, material, trained.law, training_cpu_s=seconds)
        report = {**trained.report, "mse_m2": metrics}
        trained.path.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")


def acceptance(judge: Judge, methods) -> None:
    """Labels in four materials, warm start from a tenth of the labels, transfer of the jelly law."""
    a = judge.arguments
    for method in methods:
        if METHODS[method].learns_from != "labels":
            continue
        for material in a.materials:
            trained = judge.law(method, material)
            scene = make_scene("reconstruction", material, a.size)
            row = {k: v for k, v in trained.report.items() if "error" in k}
            base = judge.row(scene, method, material, trained.law, entry="N4", **row)
            if material == "jelly":
                for name in ("sphere", "two"):
                    scene = make_scene(name, "jelly", "nano")
                    steps = 1000 if a.size == "full" else scene.steps
                    scene = dataclasses.replace(scene, steps=steps)
                    judge.row(scene, method, "jelly", trained.law, entry="N6", n4_mse_m2=base)
    if "warm" in methods:
        scene = make_scene("reconstruction", "jelly", a.size)
        judge.row(scene, "warm", "jelly", judge.law("warm", "jelly").law, entry="N5b")


def progress(name: str):
    """Prints now and then, on the error stream."""
    last = time.perf_counter()

    def tell(done: int, total: int, loss: float) -> None:
        nonlocal last
        if time.perf_counter() - last > 20 or done == total:
            last = time.perf_counter()
            print(f"{name}: {done}/{total}, loss {loss:.3g}", file=sys.stderr, flush=True)

    return tell


def main() -> None:
    p = parser(__doc__, again=True)
    p.add_argument("--size", choices=("nano", "medium", "full"), default="nano")
    p.add_argument("--out", default="runs/repro-nclaw", help="folder of trained laws")
    p.add_argument(
        "--train", metavar="MATERIAL", choices=MATERIALS, help="train one material, full size"
    )
    p.add_argument("--acceptance", action="store_true", help="labels, warm start, transfer")
    p.add_argument("--methods", nargs="+", choices=[*METHODS, "gnn"], default=None)
    p.add_argument("--scenes", nargs="+", choices=[*ALONE, *COUPLED, "large"], default=None)
    p.add_argument("--materials", nargs="+", choices=MATERIALS, default=list(MATERIALS))
    p.add_argument("--seed", type=int, default=0)
    arguments = p.parse_args()
    if "gnn" in (arguments.methods or ()) and (arguments.train or arguments.acceptance):
        p.error("gnn is no law; it is in the table alone.")
    arguments.size = "nano" if arguments.quick else "full" if arguments.train else arguments.size
    torch.set_num_threads(1)
    judge = Judge(arguments, Results("repro_nclaw", arguments))
    if arguments.train:
        train(judge, arguments.methods or ["nclaw"], arguments.train)
    elif arguments.acceptance:
        acceptance(judge, arguments.methods or ["labeled", "labeled-isotropic", "warm"])
    else:
        scenes = arguments.scenes or [*ALONE, *COUPLED]
        table(judge, arguments.methods or [*METHODS, "gnn"], scenes, arguments.materials)


if __name__ == "__main__":
    main()
