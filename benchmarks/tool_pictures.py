"""What do the tools look like? Draws docs/images/tools.png: all eight, each at its own scale.

python benchmarks/tool_pictures.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyvista as pv
import torch
from rheograd.tasks.fluid.tools import TOOLS, tool
from rheograd.viz.shapes import shape_mesh


def draw(path: Path) -> None:
    plotter = pv.Plotter(shape=(2, 4), window_size=(1200, 640), off_screen=True, border=False)
    for i, name in enumerate(TOOLS):
        plotter.subplot(i // 4, i % 4)
        shape = tool(name, resolution=200)
        mesh = shape_mesh(shape)
        # Normals of the exact surface: flat faces of a net would show its cells.
        normal = shape.exact.signed_distance(torch.from_numpy(np.array(mesh.points, dtype=float)))[
            1
        ]
        mesh.point_data["Normals"] = normal.numpy().astype(np.float32)
        mesh.point_data.active_normals_name = "Normals"
        plotter.add_mesh(mesh, color="#b9c6d2", smooth_shading=name != "tank", specular=0.2)
        low, high = shape.bounds()
        sides = " x ".join(f"{1000 * (b - a):.0f}" for a, b in zip(low, high, strict=True))
        plotter.add_text(f"{name}  {sides} mm", font_size=8, color="#202830")
        plotter.camera_position = [(0.5, -1.6, 0.95), (0, 0, 0), (0, 0, 1)]
        plotter.reset_camera()
    plotter.set_background("white")
    image = plotter.screenshot(return_img=True)
    plotter.close()
    from PIL import Image

    Image.fromarray(image).quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    draw(Path(__file__).parents[1] / "docs/images/tools.png")
