"""What does the camera of a dome see of a simulated press? Draws docs/images/tactile-optics.png.

    python benchmarks/optics_pictures.py [--quick] [--machine NAME]

A dome of finite elements, its rim held, is pressed 1.5 mm onto a ball of 6 mm beside its axis. The
learned model is the shipped one, calibrated on geometric presses of other balls; how near it comes,
against the no-contact image in its place, goes to results/optics.<machine>.json. `--quick`: a coarse gel,
no files.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from bench_optics import SENSORS
from results import Results, parser
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.shapes import Sphere
from rheograd.sim.tactile import GelSensor, dome
from rheograd.sim.tactile.markers import fibonacci_markers
from rheograd.sim.tactile.optics import load_optics, measure_optics
from rheograd.sim.tactile.presses import surface_presses
from rheograd.viz import plot_press

DOCS = Path(__file__).parent.parent / "docs/images"


def press(cuts: int, steps: int, radius: float = 6e-3, depth: float = 1.5e-3):
    """Points of the pressed dome in its frame, (1, N, 3), and the gel."""
    mesh = dome(cuts=cuts, layers=1, rim=True)
    way = torch.tensor([0.3, -0.25, 0.92], dtype=torch.float64)
    way = way / way.norm()
    place = tuple((way * (15.1e-3 + radius)).tolist())
    ball = Collider(Sphere(radius), position=place, name="ball")
    sensor = GelSensor(mesh, "ecoflex_00_30", obstacles=[ball], friction=0.5, gravity=(0, 0, 0))
    state = sensor.start()
    speed = (depth + 1e-4) / (steps * sensor.dt)
    twist = torch.cat((way * speed, torch.zeros(3).double()))
    with torch.no_grad():
        for _ in range(steps):
            state = sensor.step(state, twist=twist)
        return sensor.in_frame(state), mesh


def main() -> None:
    given = parser(__doc__).parse_args()
    given.device = "cpu"
    torch.set_num_threads(1)
    results = Results("optics", given)
    x, mesh = press(*((4, 4) if given.quick else (12, 12)))
    camera, _, lights = SENSORS["dome"]
    rest, triangles = mesh.X.float(), mesh.triangles
    model, _ = load_optics("dome")
    half = surface_presses(camera.scaled(0.5), lights, x.float(), rest, triangles)
    for name, one in (("no-contact image", None), ("shipped model", model)):
        found = measure_optics(one, half)
        del found["ssim_contact_least"]  # there is one press
        results.add(measure="fem", sensor="dome", image=name, **found)
    seen = surface_presses(camera, lights, x.float(), rest, triangles)
    with torch.no_grad():
        image = model.image(camera, seen.view.normal, seen.rest.normal[0], seen.background)
    markers = fibonacci_markers(mesh.X, triangles)
    indent = torch.where(seen.view.seen & seen.rest.seen, seen.indent, float("nan"))
    folder = Path(tempfile.mkdtemp()) if given.quick else DOCS
    plot_press(
        folder / "tactile-optics.png",
        image=seen.image[0],
        background=seen.background,
        rendered=image[0],
        indent=indent[0],
        normal=seen.view.normal[0],
        markers=markers.project(camera, mesh.X[None]).uv[0],
        flow=markers.flow(camera, x, mesh.X)[0],
        crop=(132, 491, 60, 419),
        scale=3.0,
        title="A ball of 6 mm pressed 1.5 mm into a dome, seen from inside",
    )


if __name__ == "__main__":
    main()
