"""`rheograd evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..runs.configs import UsageError, load_toml
from .common import console, show_table, steps_bar

OPERATORS = ("t1", "fno")


def evaluate(
    laws: list[Path],
    /,
    *,
    scene: str = "reconstruction",
    material: str | None = None,
    size: Literal["nano", "medium", "full"] = "nano",
    mesh: Path | None = None,
    data: Path | None = None,
    device: str = "cpu",
    keep: Path | None = None,
) -> None:
    """Measure a trained constitutive law in a scene it has not seen, beside the truth; or an operator
    on fields on the held-out solutions of a data set.

    Scenes: reconstruction, time, velocity-1 -7 -8, sphere, torus, capsule, mesh, slope, two, contact,
    pool, melting, large.

    Args:
        laws: Checkpoints or run folders of `rheograd train`; several for scenes of several materials.
            A material of the scene without one gets its true law. Or one run of `rheograd train t1`
            or `fno`.
        scene: Where to measure.
        material: True material [default: the one that the first law was trained on].
        size: nano takes seconds, medium minutes, full is the size of the paper.
        mesh: Watertight surface file for the scene mesh.
        data: Of an operator: another set of the same equation, on any grid [default: the one that it
            was trained on]. With it also a file of weights, or a name such as t1/flow-64.
        device: cpu or cuda.
        keep: Of an operator: folder for truth.h5 and prediction.h5, which `rheograd render` draws beside
            each other.
    """
    if not laws:
        raise UsageError("evaluate: at least one law; got none. See `rheograd train`.")
    if data is not None or _is_operator(laws[0]):
        if len(laws) > 1 or material or mesh or (scene, size) != ("reconstruction", "nano"):
            raise UsageError(
                "evaluate: one operator, --data and --device; got more, or options for laws. Leave them "
                "out."
            )
        return _operator(laws[0], data, device, keep)
    if keep is not None:
        raise UsageError("evaluate: --keep of an operator on fields; got a law. Leave it out.")
    with steps_bar("start torch, simulate the truth") as update:
        from ...operators.nclaw.data import MATERIALS
        from ..nclaw import evaluate as measure
        from ..nclaw import load_law, make_scene, simulate
        from ..nclaw.laws import trained_on

        given = {trained_on(path): load_law(path, device) for path in laws}
        first = next(iter(given))
        place = make_scene(scene, material or first, size, mesh=mesh)
        if len(place.materials) == 1:
            given = {place.materials[0]: given[first]}
        chosen = {m: given.get(m, MATERIALS[m]) for m in place.materials}
        truth = simulate(place, device=device)

        def report(step: int, state: object) -> None:
            update(step, place.steps, name=scene)

        found = measure(chosen, place, truth=truth, device=device, on_frame=report)
        still = float((truth - truth[0]).square().mean())
    rows = {
        "scene": f"{scene}, {size}: {place.particle_count:,} particles, {place.steps:,} steps",
        **{f"law of {m}": "learned" if m in given else "true" for m in place.materials},
        "error [m²]": found.mse if found.mse is not None else "broke the simulation",
        "error in the last frame [m²]": found.last if found.last is not None else "–",
        "error if nothing moved [m²]": still,
        "steps": found.steps,
        "wall time [s]": found.seconds,
    }
    show_table(rows)
    if found.failure:
        console.print(found.failure)


def _is_operator(path: Path) -> bool:
    """A run of one, its weights, or a name such as t1/flow-64."""
    config = (path.parent if path.is_file() else path) / "config.toml"
    if config.is_file():
        return load_toml(config).get("system") in OPERATORS
    return not path.exists() and path.parts[0] in OPERATORS


def _operator(path: Path, data: Path | None, device: str, keep: Path | None) -> None:
    with steps_bar("start torch, read the data"):
        from ..runs.pde_learning import evaluate_operator

        rows = evaluate_operator(path, data, device, keep)
    show_table(rows)
    if keep is not None:
        console.print(f"rheograd render {keep / 'truth.h5'} --beside {keep / 'prediction.h5'}")
