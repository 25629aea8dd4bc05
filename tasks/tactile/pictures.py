"""Pictures of a simulated gel for a `Probe`, differentiable in the points of the gel.

    points → rasterize (depth, normals) → colours of a coat under diodes, or of a learned optical model

Source: Si et al. 2024 (DiffTactile), optical response; see `rheograd.sim.tactile.optics`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from ...sim.tactile import GelMesh
from ...sim.tactile.camera import Camera
from ...sim.tactile.lights import Lights
from ...sim.tactile.optics import OpticalModel
from ...sim.tactile.presses import View
from ...sim.tactile.raster import rasterize

__all__ = ["learned_pictures", "lit_pictures"]


def lit_pictures(mesh: GelMesh, camera: Camera, lights: Lights) -> Callable[[Tensor], Tensor]:
    """Points in the frame of the sensor (B, N, 3) to colours (B, H, W, 3) of a coat under lights."""

    def render(x: Tensor) -> Tensor:
        seen = rasterize(camera, x, mesh.triangles)
        return View(seen.depth, seen.normal, seen.points, seen.seen).image(camera, lights)

    return render


def learned_pictures(
    mesh: GelMesh, camera: Camera, model: OpticalModel, background: Tensor
) -> Callable[[Tensor], Tensor]:
    """The same by a calibrated optical model.

    Args:
        mesh: the gel.
        camera: that the model was calibrated with.
        model: for that camera, its lights and its gel.
        background: photograph without contact [-], (H, W, 3).
    """
    model = copy.deepcopy(model).double()
    with torch.no_grad():
        rest = rasterize(camera, mesh.X[None], mesh.triangles)
    ground = background.to(rest.normal)

    def render(x: Tensor) -> Tensor:
        seen = rasterize(camera, x, mesh.triangles)
        both = seen.seen & rest.seen
        return model.image(camera, seen.normal, rest.normal[0], ground, both)

    return render
