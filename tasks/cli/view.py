"""`rheograd render` and `rheograd view`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ..runs.configs import UsageError
from .common import console, quiet_vtk, steps_bar


def render(
    source: Path,
    /,
    *,
    out: Path | None = None,
    frame: int | None = None,
    style: Literal["surface", "particles"] = "surface",
    field: str | None = None,
    fps: float | None = None,
    stride: int = 1,
    size: Annotated[tuple[int, int] | None, Parameter(negative="")] = None,
    orbit: float = 0.0,
    theme: Literal["light", "dark"] = "light",
) -> None:
    """Pictures and movies of a stored motion, without a display.

    Args:
        source: Run folder or rollout file.
        out: .png or .jpg for one frame, .gif or .mp4 for a movie [default: beside the source].
        frame: Draw this frame; negative counts from the end [default: a movie of all].
        style: Skin or dots.
        field: Color by a field: speed, pressure, J, von_mises, displacement, … of the stored ones.
        fps: Frames per second of the movie [default: as simulated].
        stride: Every how many frames.
        size: Width and height [px] [default: 960 720; movies 720 540].
        orbit: Turn of the camera over the movie [deg].
        theme: Background.
    """
    path = rollout_file(source)
    picture = frame is not None or (out is not None and out.suffix in (".png", ".jpg", ".jpeg"))
    if stride < 1:
        raise UsageError(f"render: --stride ≥ 1; got {stride}. Pass 1 for every frame.")
    if out is not None and not picture and out.suffix.lower() not in (".gif", ".mp4"):
        raise UsageError(
            f"render: --out ending in .png, .jpg, .gif or .mp4; got {out.name!r}. Choose one."
        )
    quiet_vtk()
    from ...sim.io import RolloutReader
    from ...viz import render_frame, render_movie, scene_from_reader

    with RolloutReader(path) as reader:
        if picture:
            index = -1 if frame is None else frame
            target = out or path.with_name(f"{path.stem}-{index % max(1, reader.n_frames)}.png")
            scene = scene_from_reader(reader, index, field=field, **_beside(reader))
            render_frame(scene, target, size or (960, 720), style, theme=theme)
        else:
            target = out or path.with_suffix(".gif")
            frames = range(0, reader.n_frames, stride)
            natural = 1.0 / (reader.dt * stride)
            natural = min(natural, 50.0) if target.suffix.lower() == ".gif" else natural
            with steps_bar(f"render {target.name}") as update:
                render_movie(
                    reader, target, fps=fps or natural, size=size or (720, 540), style=style,
                    field=field, frames=frames, orbit=orbit, theme=theme, progress=update,
                    scene_options=_beside(reader),
                )  # fmt: skip
    console.print(str(target))


def view(
    source: Path,
    /,
    *,
    style: Literal["particles", "surface"] = "particles",
    field: str | None = None,
    theme: Literal["light", "dark"] = "light",
) -> None:
    """Look at a stored motion in a window: space plays, arrows step, c colors, g style, x exports.

    Args:
        source: Run folder or rollout file.
        style: Dots or skin.
        field: Color by a field, as for render.
        theme: Background.
    """
    path = rollout_file(source)
    from ...sim.io import RolloutReader
    from ...viz import view as open_window

    def saved(picture: Path) -> None:
        console.print(str(picture))

    with RolloutReader(path) as reader:
        open_window(
            reader, style=style, field=field, theme=theme, on_picture=saved,
            scene_options=_beside(reader),
        )  # fmt: skip


def _beside(reader: Any) -> dict[str, Any]:
    """Pictures beside the scene: what the cameras of gel sensors see, where a run has some."""
    if not reader.config.get("sensors"):
        return {}
    from ..tactile.stored import sensor_insets

    return {"insets": sensor_insets(reader)}


def rollout_file(source: Path) -> Path:
    """The rollout of a run folder, or the file itself.

    Raises:
        UsageError: nothing there.
    """
    path = source / "rollout.h5" if source.is_dir() else source
    if not path.is_file():
        raise UsageError(
            f"render: a run folder or a rollout file; got {source}, where there is no "
            f"{path.name}. Check the path; `rheograd simulate` makes one."
        )
    return path
