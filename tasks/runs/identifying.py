"""Identification runs: a gel sensor and its contact from stored data, or from a synthetic sensor.

    seen.npz       what was explained: markers (M, T, n, 2) [px], force (M, T, 3) [N], and what is known
                   of twists (M, T, 6) [m/s, rad/s], dots (n, 2) [px], pictures, background (H, W, 3)
    metrics.jsonl  every simulated candidate;   result.json  parameters, their deviations, what it took

Source: `tasks.tactile.identify`, whose searches these are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...sim.io import write_whole
from .configs import UsageError
from .folder import Interrupted, Metrics, RunFolder
from .identify_config import IdentifyConfig

__all__ = ["identify_run", "numbers"]

HIDDEN = {"E": 1.18e5, "nu": 0.47, "stiffness": 1.2e4, "friction": 0.5}
GUESSES = {"E": 2.5e5, "nu": 0.42, "stiffness": 4e4, "friction": 0.25}
"""Of the synthetic sensor, and where the search begins."""
NAMES = ("markers", "force", "pictures", "twists", "dots", "background")
"""Arrays of a data file."""


def numbers(option: str, pairs: tuple[str, ...], usual: dict[str, float]) -> dict[str, float]:
    """`("E=2e5", "nu")` as numbers, those without one from `usual`; UsageError where there is none."""
    out = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            out[name] = float(value) if equals else usual[name]
        except (ValueError, KeyError):
            form = f"--{option}: NAME=VALUE such as E=2e5; got {pair!r}. Give it a number."
            raise UsageError(form) from None
    return out


def identify_run(
    c: IdentifyConfig, folder: RunFolder, on_row: Callable[[Any], None] = lambda row: None
) -> dict[str, Any]:
    """Carry it out in a folder, going on from the best candidate that the folder knows.

    Raises:
        Interrupted: the user stopped it; all candidates are in the folder.
        UsageError, InputError: names, numbers or data that do not fit.
    """
    import numpy as np

    from ..tactile.identify import identify
    from ..tactile.residuals import Noise

    guess, truth = numbers("guess", c.guess, GUESSES), numbers("truth", c.truth, {})
    hidden, stored = HIDDEN | truth, folder.path / "seen.npz"
    # What is not sought of the synthetic sensor is known, unless it is to be taken for something else.
    known = {} if c.data else {k: v for k, v in hidden.items() if k not in guess}
    known |= numbers("known", c.known, HIDDEN)
    source = stored if stored.is_file() else Path(c.data) if c.data else None
    data = _load(source) if source else {}
    probe, seen = _probe(c, data)
    if seen is None:
        seen = probe.observe(hidden).noisy(c.pixels, c.newtons, c.colour, c.seed)
    if not stored.is_file():
        kept = {k: v.numpy() for k, v in vars(seen).items() if v is not None}
        np.savez_compressed(stored, **(data | kept))
    rows = folder.path / "metrics.jsonl"
    before = Metrics.read(rows) if rows.is_file() else []
    whole = [row for row in before if row["loss"] is not None]
    best = min(whole, key=lambda row: row["loss"], default=guess)
    start = {name: best[name] for name in guess}
    with folder.metrics() as metrics:

        def note(row: Any) -> None:
            took = {k: v for k, v in vars(row).items() if k != "values"}
            metrics.add(**took, **row.values)
            on_row(row)

        try:
            found = identify(
                probe, seen, start, known=known, method=c.method, use=c.use,
                noise=Noise(c.pixels, c.newtons, c.colour), budget=max(c.budget - len(before), 1),
                seed=c.seed, on_evaluation=note,
            )  # fmt: skip
        except KeyboardInterrupt:
            say = f"identify: stopped. Continue with `rheograd identify --resume {folder.path}`."
            raise Interrupted(say) from None
    sure = found.certainty.deviation if found.certainty else {}
    table = {
        k: {"true": None if c.data else hidden.get(k), "found": v, "initial": guess[k],
            "error": None if c.data else v / hidden[k] - 1, "deviation": sure.get(k)}
        for k, v in found.values.items()
    }  # fmt: skip
    result = {"parameters": table, "loss": found.loss, "pixels": found.pixels,
              "newtons": found.newtons, "simulations": found.simulations + len(before),
              "seconds": found.seconds, "stopped": found.stopped}  # fmt: skip
    write_whole(folder.path / "result.json", json.dumps(result, indent=1) + "\n")
    return result


def _load(path: Path) -> dict[str, Any]:
    """Arrays of a file by name."""
    import h5py
    import numpy as np

    if not path.is_file() or path.suffix not in (".npz", ".h5", ".hdf5"):
        raise UsageError(f"identify: a file .npz or .h5 that exists; got {path}. Check the path.")
    if path.suffix == ".npz":
        with np.load(path) as file:
            return dict(file)
    with h5py.File(path) as file:
        return {name: file[name][...] for name in NAMES if name in file}


def _probe(c: IdentifyConfig, data: dict[str, Any]) -> tuple[Any, Any]:
    """The simulated sensor, and what was seen if there is data."""
    import torch

    from ...sim.tactile.camera import dome_camera
    from ...sim.tactile.lights import three_lights
    from ...sim.tactile.markers import pixel_markers
    from ...sim.tactile.optics import load_optics
    from ..tactile.pictures import learned_pictures, lit_pictures
    from ..tactile.probe import Probe, Seen, dome_probe

    arrays = {k: torch.from_numpy(data[k]).double() for k in NAMES if k in data}
    seen = arrays.get("markers")
    count = c.markers if seen is None or seen.ndim != 4 else seen.shape[2]
    plain = dome_probe(c.cuts, c.layers, count, material=c.material, dt=c.dt)
    mesh, dots = plain.sensor.mesh, plain.markers
    if "dots" in arrays:
        dots = pixel_markers(plain.camera, arrays["dots"], mesh.X, mesh.triangles)
    camera, render, pictures = dome_camera().scaled(0.1), None, arrays.get("pictures")
    if pictures is not None:
        camera = dome_camera().scaled(pictures.shape[2] / dome_camera().width)
    if "pictures" in c.use and "background" in arrays:
        model = load_optics("dome")[0]
        render = learned_pictures(mesh, camera, model, arrays["background"])
    elif "pictures" in c.use:
        render = lit_pictures(mesh, camera, three_lights())
    probe = Probe(
        plain.sensor, arrays.get("twists", plain.twists), plain.camera, dots, render=render,
        pictured=range(1 if pictures is None else len(pictures)), gap=plain.defaults["gap"],
    )  # fmt: skip
    if not data:
        return probe, None
    M, T = probe.twists.shape[:2]
    nothing = {"markers": (M, T, len(dots), 2), "force": (M, T, 3)}
    for name, shape in nothing.items():
        arrays.setdefault(name, torch.full(shape, math.nan, dtype=torch.float64))
        if arrays[name].shape != shape:
            got = f"{tuple(arrays[name].shape)}. Give a row per motion and step, or `twists` and `dots`."
            raise UsageError(f"identify: {name} of shape {shape}; got {got}")
    return probe, Seen(arrays["markers"], arrays["force"], pictures)
