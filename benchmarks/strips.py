"""Pictures of tasks: moments of an episode side by side, with the best actions of a folder of runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rheograd.sim.io import load_checkpoint
from rheograd.viz import FrameRenderer, compose

GAP = 6
"""Between pictures [px]."""


def panel(height: int) -> tuple[int, int]:
    """Size of one of five pictures in 1200 px."""
    return (1200 - 4 * GAP) // 5, height


def best_actions(name: str, folders: Sequence[Path]) -> torch.Tensor | None:
    """Of all runs of a task below the folders, those of the least loss."""
    found = []
    for folder in folders:
        for file in folder.rglob("actions.safetensors"):
            if f"{name}-nano" in file.parts:
                stored = load_checkpoint(file)
                found.append((stored.config.get("loss", float("inf")), stored.tensors["actions"]))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def side_by_side(
    moments: Iterable[tuple[Any, str]], size: tuple[int, int], **options: Any
) -> np.ndarray:
    """Scenes with their titles, (H, W, 3) uint8; options are those of `FrameRenderer`."""
    images, titles = [], []
    with FrameRenderer((2 * size[0], 2 * size[1]), **options) as render:
        for scene, title in moments:
            image = Image.fromarray(render(scene))
            images.append(np.asarray(image.resize(size, Image.Resampling.LANCZOS)))
            titles.append(title)
    return compose(images, titles, gap=GAP)


def save_small(
    image: np.ndarray, file: Path, colors: int = 256, method: Any = Image.Quantize.MAXCOVERAGE
) -> None:
    """With a palette, which makes a third of the file; coverage keeps the colors of small things."""
    small = Image.fromarray(image).quantize(colors, method, dither=Image.Dither.NONE)
    small.save(file, optimize=True)
    print(
        f"{file}: {small.width} x {small.height}, {file.stat().st_size / 1000:.0f} kB", flush=True
    )


def main(
    doc: str, names: Iterable[str], strip: Callable[[str, list[Path]], np.ndarray], runs: str,
    prefix: str, colors: int,
) -> None:  # fmt: skip
    """Command line of a script that draws `strip(name, folders of runs)` into PREFIX-NAME.png."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"out of {', '.join(names)}")
    parser.add_argument("--actions", type=Path, nargs="*", default=[Path(runs)])
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.names or names:
        save_small(strip(name, given.actions), given.out / f"{prefix}-{name}.png", colors)
