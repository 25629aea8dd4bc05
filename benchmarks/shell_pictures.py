"""What does a crease do, and what does a plate mesh cost? Draws docs/images/shell.png.

Paper strips start bent to a U, are pressed by a plate with self-contact, and are let go; a cotton
square hangs from two corners. What was measured on the way, and the error of plate meshes, goes to
benchmarks/results/shell.<machine>.json.

python benchmarks/shell_pictures.py [--quick]
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from results import Results, parser
from rheograd.sim.core.colliders import Collider
from rheograd.sim.core.shapes import Box, Plane
from rheograd.sim.fem import FEMConfig, FEMControl, FEMModel, Handle, SolverFEM
from rheograd.sim.fem.contact import ObstacleContact, Surface, SurfaceContact
from rheograd.sim.shell import SheetMesh, disc, rectangle

NONE = (0.0, 0.0, 0.0)


def press(steps: int) -> tuple[SheetMesh, list[torch.Tensor], dict[str, float]]:
    """A paper strip in a U, pressed onto a floor and let go: positions of the three, and angles."""
    dx, d_hat = 2.5e-3, 3e-4
    mesh = rectangle((16 * dx, 2 * dx), dx).u_bent(4 * dx / math.pi)
    sheet = mesh.sheet("strip", "paper")
    base = mesh.rows(0, 1, 2, 3)
    driven = torch.isin(torch.arange(len(mesh.X)), base)
    surface = Surface(mesh.x, mesh.cells, driven=driven)
    start = float(mesh.x[:, 2].max()) + 5e-4
    place = (0.02, 0.0, start + 2e-3)
    plate = Collider(Box((0.04, 0.04, 2e-3)), position=place, name="plate")
    floor = Collider(Plane(), position=(0.0, 0.0, -4e-4), name="floor")
    contacts = [
        SurfaceContact(surface, d_hat=d_hat, stiffness=2e4),
        ObstacleContact(surface, [plate, floor], d_hat=d_hat, stiffness=2e4, handles=[1, None]),
    ]
    handles = [Handle("base", base), Handle("plate", (), position=place)]
    model = FEMModel(mesh.X, [sheet], handles, contacts, gravity=NONE, drag=20.0)
    solver = SolverFEM(model, FEMConfig(dt=2e-3, tol=1e-4, max_iterations=300))
    state = model.initial_state(x=mesh.x)
    down = torch.zeros(1, 2, 6, dtype=torch.float64)
    down[0, 1, 2] = -(start - 1.0e-3) / (steps * solver.step_time)
    for _ in range(steps):
        state = solver.step(state, FEMControl(twist=down))
    pressed = state
    # Nothing touches it any more; larger steps of implicit Euler bring it to rest.
    free = FEMModel(mesh.X, [sheet], handles[:1], gravity=NONE, drag=20.0)
    solver = SolverFEM(free, FEMConfig(dt=0.01, tol=1e-6, max_iterations=400))
    state = state.replace(pose=state.pose[:, :1], v=0 * state.v)
    for _ in range(20):
        state = solver.step(state)
    direction = [(x[0, mesh.rows(-1)] - x[0, mesh.rows(-3)]).mean(0) for x in (pressed.x, state.x)]
    turned = [math.degrees(math.atan2(float(d[2]), float(d[0]))) % 360 for d in direction]
    row = {
        "folded_deg": turned[0],
        "released_deg": turned[1],
        "rest_deg": math.degrees(float(state.theta_ref.sum())) / 2,
        "speed_at_end_m_s": float(state.v.norm(dim=-1).max()),
        "pressed_height_mm": 1e3 * float(pressed.x[..., 2].max()),
    }
    return mesh, [mesh.x, pressed.x[0], state.x[0]], row


def hang(cells: int) -> tuple[SheetMesh, torch.Tensor]:
    """A cotton square of 20 cm hanging from two corners that are 16 cm apart."""
    mesh = rectangle((0.2, 0.2), 0.2 / cells, "equilateral").placed(
        orientation=(1.0, 0.1, 0.0, 0.0)
    )
    cloth = mesh.sheet("cloth", "cotton")
    corners = mesh.sets["corners"][[1, 3]]
    near = [Handle(f"corner {k}", corners[k : k + 1]) for k in (0, 1)]
    model = FEMModel(mesh.X, [cloth], near, drag=8.0)
    solver = SolverFEM(model, FEMConfig(dt=0.01, tol=1e-6, max_iterations=300))
    twist = torch.zeros(1, 2, 6, dtype=torch.float64)
    twist[0, 0, 0], twist[0, 1, 0] = 0.02 / 0.2, -0.02 / 0.2
    state = model.initial_state()
    for k in range(80):
        state = solver.step(state, FEMControl(twist=twist if k < 20 else None))
    return mesh, state.x[0]


def plate_error(mesh: SheetMesh, exact: float) -> float:
    """Relative error of the deflection of a plate pinned at its border, in units of q/D."""
    sheet = mesh.sheet("plate", "pet", creases=False, E=1e9, nu=0.3, h=0.01, rho=1.0)
    model = FEMModel(mesh.X, [sheet], [Handle("rim", mesh.sets["border"])], gravity=(0, 0, -100.0))
    solver = SolverFEM(model, FEMConfig(scheme="static", tol=1e-9))
    deepest = -float(solver.step(model.initial_state()).x[..., 2].min())
    return deepest * 1e9 * 1e-6 / 12 / (1 - 0.09) / exact - 1


def draw(path: Path, strip: SheetMesh, shapes: list, labels: list[str], cloth: tuple) -> None:
    import pyvista as pv

    plotter = pv.Plotter(shape=(1, 4), window_size=(1400, 380), off_screen=True, border=False)
    views = [(strip, x, 0.018) for x in shapes] + [(*cloth, 0.15)]
    for k, ((mesh, x, size), label) in enumerate(zip(views, labels, strict=True)):
        plotter.subplot(0, k)
        faces = torch.cat((torch.full((len(mesh.cells), 1), 3), mesh.cells), dim=1)
        surface = pv.PolyData(x.numpy(), faces.numpy().reshape(-1))
        plotter.add_mesh(
            surface,
            color="#9fbcd6" if k == 3 else "#f0e2bd",
            show_edges=True,
            edge_color="#60707c",
            line_width=1,
            smooth_shading=False,
        )
        plotter.add_text(label, position=(16, 345), font_size=10, color="#202830")
        focus = x.mean(0).tolist() if k == 3 else [0.013, 0.0025, 0.012]
        away = (0.15, -1.0, 0.2) if k == 3 else (-0.5, -1.0, 0.55)
        place = [f + 10 * size * a for f, a in zip(focus, away, strict=True)]
        plotter.camera_position = [place, focus, (0, 0, 1)]
        plotter.camera.parallel_projection = True
        plotter.camera.parallel_scale = size
    plotter.set_background("white")
    image = plotter.screenshot(return_img=True)
    plotter.close()
    from PIL import Image

    Image.fromarray(image).quantize(128).save(path, optimize=True)


def main() -> None:
    arguments = parser(__doc__).parse_args()
    results = Results("shell", arguments)
    for pattern in ("parallel", "equilateral", "crossed", "random"):
        for n in (4, 8) if arguments.quick else (4, 8, 16):
            error = plate_error(rectangle((1.0, 1.0), 1 / n, pattern), 0.0040624)
            results.add(measure="square plate", pattern=pattern, cells=n, relative_error=error)
    for n in (3, 6) if arguments.quick else (3, 6, 12):
        error = plate_error(disc(0.5, 0.5 / n), 5.3 / 1.3 * 0.5**4 / 64)
        results.add(measure="round plate", pattern="disc", cells=n, relative_error=error)
    if arguments.quick:
        return
    strip, shapes, row = press(40)
    results.add(measure="fold", **row)
    labels = [
        "bent to a U",
        "pressed by a plate",
        f"let go: keeps {row['rest_deg']:.0f} of 180 degrees",
        "cotton, 20 x 20 cm",
    ]
    draw(Path(__file__).parents[1] / "docs/images/shell.png", strip, shapes, labels, hang(12))


if __name__ == "__main__":
    main()
