"""Pictures and movies of the demonstration, from its stored files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...sim.io import RolloutReader
from ...viz import (
    Curve,
    FrameRenderer,
    Marker,
    compose,
    plot_bars,
    plot_curves,
    plot_gradient_norm,
    plot_losses,
    render_frame,
    scene_from_reader,
)
from ...viz.movie import write_movie

if TYPE_CHECKING:
    from . import Demo

__all__ = ["draw_all"]

_JELLY = {"truth": "#6b7684", "learned": "#e8593f", "untrained": "#c99a2e", "classical": "#7d5bb5"}


def draw_all(demo: Demo, update: Callable[..., None]) -> None:
    """Draw everything into `pictures/` of the demonstration's folder.

    Args:
        demo: The finished demonstration.
        update: Progress callback `(done, total, note)`.
    """
    folder = demo.folder / "pictures"
    folder.mkdir(exist_ok=True)
    width, frames = demo.config.width, demo.config.frames
    total = len(demo.throw_files) * frames + 2 * frames + 8
    done = 0

    def tick(note: str) -> None:
        nonlocal done
        done += 1
        update(min(done, total), total, note)

    _splash(demo, folder, width, tick)
    _throw(demo, folder, width, tick)
    _paddle(demo, folder, width, tick)
    _plots(demo, folder)
    update(total, total, "")


def _frames(count: int, wanted: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(count, wanted)).round().astype(int).tolist()))


def _splash(demo: Demo, folder: Path, width: int, tick: Callable[[str], None]) -> None:
    size = (width, int(0.8 * width))
    with RolloutReader(demo.folder / "jelly-and-water" / "rollout.h5") as reader:
        indices = _frames(reader.n_frames, demo.config.frames)
        still = indices[len(indices) // 4]
        start = scene_from_reader(reader, 0)
        render_frame(
            scene_from_reader(reader, still, spacing=start.particle_spacing()),
            folder / "splash.png", (int(1.4 * width), int(1.05 * width)), "surface",
        )  # fmt: skip
        tick("splash")

        def pictures() -> Any:
            with FrameRenderer(size, style="surface", antialias=False) as render:
                for index in indices:
                    scene = scene_from_reader(reader, index, spacing=start.particle_spacing())
                    yield render(scene)
                    tick("splash")

        fps = max(1.0, (len(indices) - 1) / float(reader.times[-1]))
        write_movie(pictures(), folder / "splash.gif", fps=min(25.0, fps))


def _throw(demo: Demo, folder: Path, width: int, tick: Callable[[str], None]) -> None:
    size = (width // 2, width // 2)
    readers = {name: RolloutReader(path) for name, path in demo.throw_files.items()}
    colors = {name: {name.split(" ")[0]: _JELLY[name.split(" ")[0]]} for name in readers}
    truth = readers["truth"]
    spacing = scene_from_reader(truth, 0).particle_spacing()
    indices = _frames(truth.n_frames, demo.config.frames)
    titles, shown = [], indices[-1]
    for name in readers:
        broke = name != "truth" and demo.lasted(name) < demo.config.steps * demo.frame_time
        short = name.split(" (")[0]  # the table names the classical law
        titles.append(f"{short}, broke at {1e3 * demo.lasted(name):.0f} ms" if broke else short)
        if broke:  # the still shows the last moment of all
            whole = [i for i in indices if truth.times[i] <= demo.lasted(name)]
            shown = min(shown, whole[-1])

    def pictures() -> Any:
        with FrameRenderer(size, style="surface", antialias=False) as render:
            for index in indices:
                images = []
                for name, reader in readers.items():
                    scene = scene_from_reader(
                        reader, index, spacing=spacing, colors=colors[name], time=None
                    )
                    images.append(render(scene))
                    tick("throw")
                image = compose(images, titles)
                if index == shown:
                    _save(image, folder / "throw.png")
                yield image

    # Slow motion: a quarter of a second fills some three seconds.
    write_movie(pictures(), folder / "throw.gif", fps=8.0)
    for reader in readers.values():
        reader.close()


def _paddle(demo: Demo, folder: Path, width: int, tick: Callable[[str], None]) -> None:
    task = demo.task
    assert task is not None
    config: Any = task.config
    place = config.target[: task.solver.model.dim - 1]
    target = Marker((*place, config.depth), config.tolerance, label="target")
    size = (width, int(0.62 * width))
    look = {"colors": {"body": "#e8833a"}, "markers": [target]}
    folder_of = demo.folder / "paddle"
    files = {"at rest": folder_of / "before.h5", "optimized": folder_of / "rollout.h5"}
    for name, path in files.items():
        with RolloutReader(path) as reader:
            last = reader.n_frames - 1
            indices = _frames(reader.n_frames, demo.config.frames)
            spacing = scene_from_reader(reader, 0).particle_spacing()
            start, stop = reader.groups["body"]
            path_of = np.asarray(reader["x"][0][:, start:stop].mean(1))
            scene = scene_from_reader(
                reader, last, spacing=spacing, curves=[Curve(path_of)], **look
            )
            render_frame(scene, folder / f"paddle-{name.replace(' ', '-')}.png", size, "surface")
            tick("paddle")
            if name == "optimized":
                with FrameRenderer(size, style="surface", antialias=False) as render:
                    images = []
                    for index in indices:
                        scene = scene_from_reader(reader, index, spacing=spacing, **look)
                        images.append(render(scene))
                        tick("paddle")
                fps = max(1.0, (len(indices) - 1) / float(reader.times[-1]))
                write_movie(iter(images), folder / "paddle.gif", fps=min(25.0, fps))


def _plots(demo: Demo, folder: Path) -> None:
    assert demo.plan is not None and demo.gradient_norm is not None
    time = np.arange(len(next(iter(demo.errors.values())))) * demo.frame_time * 1e3
    for name, errors in (("seen", demo.training_errors), ("unseen", demo.errors)):
        curves = {k: (time[1:], 1e3 * v[1:].numpy()) for k, v in errors.items()}
        word = "training motion" if name == "seen" else "unseen throw"
        plot_curves(
            curves, folder / f"error-{name}.png", log=True, title=f"Distance from the truth, {word}",
            xlabel="time [ms]", ylabel="root mean square [mm]",
        )  # fmt: skip
    loss = [row["loss"] for row in demo.training]
    plot_losses({"neural law": loss}, folder / "loss-law.png", title="Training of the neural law",
                xlabel="update")  # fmt: skip
    records = demo.plan.history
    plot_curves(
        {"at the end of its horizon": ([r.wall_s for r in records],
                                       [1e3 * r.distance for r in records])},
        folder / "loss-paddle.png", title="Search for the paddle's motion",
        xlabel="wall time [s]", ylabel="distance to the target [mm]",
    )  # fmt: skip
    plot_gradient_norm(
        {"gathering": demo.gradient_norm.numpy()}, folder / "gradient.png",
        title="Gradient through time, paddle",
    )  # fmt: skip
    bars = {name: 1e3 * demo.mean_error(name) for name in demo.errors}
    finite = {k: v for k, v in bars.items() if np.isfinite(v)}
    if finite:
        plot_bars(finite, folder / "errors.png", log=True, title="Error on the unseen throw",
                  ylabel="root mean square distance [mm]")  # fmt: skip


def _save(image: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray(image).save(path)
