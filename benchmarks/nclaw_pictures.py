"""Pictures of docs/nclaw.md: the truth above, below it a shipped law that never saw such a scene.

    python benchmarks/nclaw_pictures.py [--size full] [--out docs/images]

Truth and prediction start in the same state and run freely; the titles give the time and the root mean
square distance between the two.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from rheograd.tasks.nclaw import load_law, make_scene, simulate
from rheograd.viz import FrameRenderer, compose, scene_from_state
from strips import save_small

PICTURES = {"torus": ("jelly", (100, 300, 600)), "two": ("plasticine", (100, 250, 500))}
"""Material and steps that are shown, per scene."""


def states(scene, law, steps) -> dict:
    """State and solver of some steps of a free run."""
    found = {}

    def keep(step: int, state) -> None:
        if step in steps:
            found[step] = state

    simulate(dataclasses.replace(scene, steps=max(steps)), law, on_frame=keep)
    return found


def picture(name: str, size: str, pixels: tuple[int, int]):
    """Truth above prediction, one column per time, (H, W, 3) uint8."""
    material, steps = PICTURES[name]
    scene = make_scene(name, material, size)
    if size == "nano":
        steps = tuple(step // 5 for step in steps)
    law = load_law(material)
    runs = {"truth": states(scene, None, steps), "learned law": states(scene, law, steps)}
    images, titles = [], []
    model = scene.solver().model
    spacing = scene.bodies[0].volume ** (1 / 3)
    options = {"azimuth": -60.0, "elevation": 14.0, "margin": 0.92}
    with FrameRenderer(pixels, style="surface", camera=options) as render:
        for run, found in runs.items():
            for step in steps:
                look = scene_from_state(model, found[step], spacing=spacing)
                images.append(render(look))
                title = f"{run}, {1e3 * step * scene.dt:.0f} ms"
                if run != "truth":
                    error = (found[step].x - runs["truth"][step].x).square().sum(-1).mean().sqrt()
                    title = f"{run}, {1e3 * float(error):.2f} mm off"
                titles.append(title)
    return compose(images, titles, columns=len(steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("nano", "medium", "full"), default="full")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in PICTURES:
        image = picture(name, arguments.size, (420, 340))
        save_small(image, arguments.out / f"nclaw-{name}.png", method=None)


if __name__ == "__main__":
    main()
