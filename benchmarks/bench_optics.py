"""How well does the learned optical model render presses it has not seen, and how fast is the rasterizer?

    python benchmarks/bench_optics.py [--quick] [--ship] [--only SENSOR] [--machine NAME]

Calibrated on 50 synthetic photographs, 320 × 240, of balls of 1.9 to 5.5 mm spread evenly over places,
sizes and depths, with noise of 0.01 in every colour; measured on 20 presses without noise, drawn
independently of balls of 2 to 6 mm, and on 60 more. The no-contact image in the place of the model is the
baseline, and so is calibration on independent draws. One thread, three seeds; `--ship` writes the weights
of seed 0 to assets/tactile/.
Writes results/optics.<machine>.json; `--quick` runs small sizes and writes nothing.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from pathlib import Path

import torch
from results import Results, parser
from rheograd.sim.tactile import dome
from rheograd.sim.tactile.camera import dome_camera, pad_camera
from rheograd.sim.tactile.lights import three_lights
from rheograd.sim.tactile.optics import calibrate_optics, measure_optics, save_optics
from rheograd.sim.tactile.presses import (
    DomeFace,
    PadFace,
    ball_presses,
    random_balls,
    spread_balls,
)
from rheograd.sim.tactile.raster import rasterize, visible

ASSETS = Path(__file__).parent.parent / "assets/tactile"
SENSORS = {
    "dome": (dome_camera(), DomeFace(), three_lights()),
    "pad": (pad_camera(), PadFace(), three_lights(14e-3, -3e-3)),
}
"""Camera of 640 × 480, face and lights by name."""


def sets(name: str, scale: float, n: int, held_out: int):
    """Presses to calibrate with, spread and drawn; presses to measure with, and more of them."""
    camera, face, lights = SENSORS[name]
    camera = camera.scaled(scale)
    spread, drawn = (
        ball_presses(camera, face, lights, balls(face, n, 0).float(), noise=0.01)
        for balls in (spread_balls, random_balls)
    )
    test, more = (
        ball_presses(camera, face, lights, random_balls(face, count, seed).float())
        for count, seed in ((held_out, 1), (3 * held_out, 2))
    )
    return spread, drawn, test, more


def raster_times(results: Results, scale: float, cuts: int) -> None:
    """Processor seconds of one picture of a dome, best of five."""
    mesh = dome(cuts=cuts, layers=1)
    camera = dome_camera().scaled(scale)
    x = mesh.X[None].float()
    best = [float("inf")] * 3
    for _ in range(5):
        leaf = x.clone().requires_grad_()
        marks = [time.process_time()]
        triangle = visible(camera, x, mesh.triangles)
        marks.append(time.process_time())
        seen = rasterize(camera, leaf, mesh.triangles, triangle=triangle)
        marks.append(time.process_time())
        (seen.depth.sum() + seen.normal.sum()).backward()
        marks.append(time.process_time())
        best = [min(a, n - m) for a, m, n in zip(best, marks, marks[1:], strict=False)]
    results.add(
        measure="raster", width=camera.width, height=camera.height, triangles=len(mesh.triangles),
        visible_s=best[0], values_s=best[1], backward_s=best[2],
    )  # fmt: skip


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--ship", action="store_true", help="write assets/tactile/")
    arguments.add_argument("--only", choices=list(SENSORS), help="the sensor; rows of others stay")
    given = arguments.parse_args()
    given.device = "cpu"
    torch.set_num_threads(1)
    results = Results("optics", given)
    quick = given.quick
    scale, n, held_out, steps = (0.2, 8, 3, 60) if quick else (0.5, 50, 20, 600)
    if given.only and results.file.exists():
        rows = json.loads(results.file.read_text("utf-8"))["rows"]
        results.rows = [r for r in rows if r.get("sensor", given.only) != given.only]
    else:
        raster_times(results, scale, 3 if quick else 10)
    for name in [given.only] if given.only else SENSORS:
        spread, drawn, test, more = sets(name, scale, n, held_out)
        before = measure_optics(None, test)
        results.add(measure="baseline", sensor=name, **before)
        for balls, seed in [("spread", 0)] if quick else [
            ("spread", 0), ("spread", 1), ("spread", 2), ("drawn", 0),
        ]:  # fmt: skip
            train = spread if balls == "spread" else drawn
            model, went = calibrate_optics(train, seed=seed, steps=steps)
            after, other = measure_optics(model, test), measure_optics(model, more)
            results.add(
                measure="model", sensor=name, balls=balls, seed=seed, images=n, steps=steps,
                train_cpu_s=went.cpu_seconds, train_s=went.seconds, **after,
                more_ssim_contact=other["ssim_contact"],
                more_ssim_contact_least=other["ssim_contact_least"],
            )  # fmt: skip
            if balls == "drawn":
                continue
            if given.ship and seed == 0 and not quick:
                ship(name, model, went, before, after)


def ship(name, model, went, before, after) -> None:
    """Weights and the report beside them."""
    about = {
        "sensor": name,
        "about": "synthetic: three diodes on a coat, photographs of spread balls pressed in, 320 x 240",
        "command": "python benchmarks/bench_optics.py --ship",
        "seed": went.settings["seed"],
        "calibration": dataclasses.asdict(went),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "held_out": after,
        "held_out_no_contact_image": before,
    }
    save_optics(ASSETS / f"{name}.safetensors", model, sensor=name)
    (ASSETS / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
