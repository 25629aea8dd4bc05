"""`rheograd render` and `rheograd view`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ..runs.configs import UsageError
from .common import console, quiet_vtk, steps_bar
from .sources import is_motion, open_field_source, rollout_file

Several = Parameter(negative="", consume_multiple=True)
Style = Literal["surface", "particles", "volume", "slices"]
PICTURES, MOVIES = (".png", ".jpg", ".jpeg"), (".gif", ".mp4")
SPEEDS = (5.0, 25.0)
"""Frames per second of movies of fields, least and most: their times may be anything."""


def render(
    source: Path,
    /,
    *,
    out: Path | None = None,
    frame: int | None = None,
    time: float | None = None,
    moments: int | None = None,
    trajectory: Annotated[list[int] | None, Several] = None,
    field: Annotated[list[str] | None, Parameter(negative="")] = None,
    beside: Annotated[list[Path] | None, Several] = None,
    style: Style | None = None,
    fps: float | None = None,
    stride: int = 1,
    size: Annotated[tuple[int, int] | None, Parameter(negative="")] = None,
    orbit: float = 0.0,
    theme: Literal["light", "dark"] = "light",
) -> None:
    """Pictures and movies of a stored motion or of fields on a grid, without a display.

    Args:
        source: Run folder, data set, rollout file or file of fields.
        out: .png or .jpg for a picture, .gif or .mp4 for a movie [default: beside the source].
        frame: Draw this frame; negative counts from the end [default: a movie of all; in a picture the
            last one, and of fields a strip of moments].
        time: Draw the frame that is nearest to this time [s].
        moments: Pictures of such a strip [default: 5].
        trajectory: Which one; of fields several [default: 0].
        field: Color by a field of a motion: speed, pressure, J, von_mises, displacement, … of the
            stored ones; or draw this field of a grid, a component of it, speed or vorticity. Give
            the option again for several fields of a grid [default: what varies in time, or all].
        beside: Other fields of the same kind, such as predictions; one on the same cells is followed
            by its difference.
        style: Skin or dots of a motion; volume, surface or slices of fields in space
            [default: surface; volume, or streamlines of vectors].
        fps: Frames per second of the movie [default: as simulated, of fields within 5 to 25].
        stride: Every how many frames.
        size: Width and height [px] [default: 960 720; movies 720 540; fields as large as they need].
        orbit: Turn of the camera over the movie [deg].
        theme: Background.
    """
    if frame is not None and time is not None:
        raise UsageError("render: --frame or --time; got both. Leave one out.")
    picture = frame is not None or time is not None
    picture = picture or (out is not None and out.suffix.lower() in PICTURES)
    if stride < 1:
        raise UsageError(f"render: --stride ≥ 1; got {stride}. Pass 1 for every frame.")
    if out is not None and out.suffix.lower() not in (PICTURES if picture else MOVIES):
        kinds = ", ".join(PICTURES if picture else (*PICTURES[:2], *MOVIES))
        raise UsageError(f"render: --out ending in {kinds}; got {out.name!r}. Choose one.")
    options = {"style": style, "theme": theme, "size": size}
    if is_motion(source):
        one = _one_motion(trajectory, field, beside, moments)
        path, which = rollout_file(source, one[0])
        _render_motion(
            path, which, one[1], out, picture, (frame, time), stride, fps, orbit, options
        )
    else:
        _render_fields(
            source, trajectory or [0], field or [], beside or [], out, picture, (frame, time),
            moments or 5, stride, fps, orbit, options,
        )  # fmt: skip


def view(
    source: Path,
    /,
    *,
    trajectory: int = 0,
    style: Style | None = None,
    field: str | None = None,
    theme: Literal["light", "dark"] = "light",
) -> None:
    """Look at a stored motion or at fields in a window: space plays, arrows step (up and down: through
    trajectories of fields), c goes through fields, g through styles, x exports.

    Args:
        source: Run folder, data set, rollout file or file of fields.
        trajectory: Which one.
        style: Dots or skin of a motion; volume, surface or slices of fields in space
            [default: particles; volume, or streamlines of vectors].
        field: Field to begin with, as for render.
        theme: Background.
    """

    def saved(picture: Path) -> None:
        console.print(str(picture))

    if not is_motion(source):
        data = open_field_source(source)
        _check_style(style, len(data.cells))
        from ...viz import FieldScenes, view_fields

        quiet_vtk()
        view_fields(
            FieldScenes(data, _name(source)), trajectory=trajectory, style=style, field=field,
            theme=theme, on_picture=saved,
        )  # fmt: skip
        return
    path, which = rollout_file(source, trajectory)
    style = _motion_style(style, "particles")
    from ...sim.io import RolloutReader
    from ...viz import view as open_window

    with RolloutReader(path) as reader:
        _require_trajectory(reader, which)
        open_window(
            reader, trajectory=which, style=style, field=field, theme=theme, on_picture=saved,
            scene_options=_beside(reader),
        )  # fmt: skip


def _render_motion(
    path: Path, trajectory: int, field: str | None, out: Path | None, picture: bool,
    moment: tuple[int | None, float | None], stride: int, fps: float | None, orbit: float,
    options: dict[str, Any],
) -> None:  # fmt: skip
    """A motion of particles."""
    style = _motion_style(options["style"], "surface")
    theme, size = options["theme"], options["size"]
    quiet_vtk()
    from ...sim.io import RolloutReader
    from ...viz import render_frame, render_movie, scene_from_reader

    with RolloutReader(path) as reader:
        _require_trajectory(reader, trajectory)
        if picture:
            frame, time = moment
            index = -1 if frame is None else frame
            if time is not None:
                index = min(range(reader.n_frames), key=lambda k: abs(reader.times[k] - time))
            target = out or path.with_name(f"{path.stem}-{index % max(1, reader.n_frames)}.png")
            scene = scene_from_reader(
                reader, index, trajectory=trajectory, field=field, **_beside(reader)
            )
            render_frame(scene, target, size or (960, 720), style, theme=theme)
        else:
            target = out or path.with_suffix(".gif")
            frames = range(0, reader.n_frames, stride)
            natural = 1.0 / (reader.dt * stride)
            natural = min(natural, 50.0) if target.suffix.lower() == ".gif" else natural
            with steps_bar(f"render {target.name}") as update:
                render_movie(
                    reader, target, fps=fps or natural, size=size or (720, 540), style=style,
                    field=field, frames=frames, trajectory=trajectory, orbit=orbit, theme=theme,
                    progress=update, scene_options=_beside(reader),
                )  # fmt: skip
    console.print(str(target))


def _render_fields(
    source: Path, trajectories: list[int], fields: list[str], beside: list[Path], out: Path | None,
    picture: bool, moment: tuple[int | None, float | None], moments: int, stride: int,
    fps: float | None, orbit: float, options: dict[str, Any],
) -> None:  # fmt: skip
    """Fields on a grid."""
    data = open_field_source(source)
    dim = len(data.cells)
    _check_style(options["style"], dim)
    if orbit and dim < 3:
        raise UsageError(f"render: --orbit for fields in space; got {dim}-D ones. Leave it out.")
    if moments < 1:
        raise UsageError(f"render: --moments ≥ 1; got {moments}. Correct it.")
    quiet_vtk()
    from ...viz import FieldScenes, render_field_movie, render_fields

    scenes = FieldScenes(data, _name(source))
    others = [FieldScenes(open_field_source(p), _name(p)) for p in beside]
    for one in others:
        if one.dim != dim:
            raise UsageError(
                f"render: --beside {dim}-D fields; got {one.title}, {one.dim}-D ones. Leave it out."
            )
    options |= {"fields": fields, "trajectories": trajectories, "beside": others}
    frame, time = moment
    if time is not None:
        frame = scenes.nearest(time, trajectories[0])
    for one in (scenes, *others):
        one.check(fields, trajectories)
    scenes.check((), (), [] if frame is None else [frame])
    if scenes.n_frames == 1 and not picture:
        if out is not None:
            raise UsageError(
                f"render: a picture of {source}, which has one frame; got {out.name!r}. Name a .png."
            )
        picture = True
    place = source / source.name if source.is_dir() else source.with_suffix("")
    if picture:
        tail = "" if frame is None else f"-{frame % scenes.n_frames}"
        target = out or place.with_name(f"{place.name}{tail}.png")
        render_fields(scenes, target, frame=frame, moments=moments, **options)
    else:
        target = out or place.with_name(f"{place.name}.gif")
        frames = range(0, scenes.n_frames, stride)
        times = scenes.times(trajectories[0])
        natural = 10.0
        if times is not None and times[-1] > times[0]:
            natural = (len(times) - 1) / float(times[-1] - times[0]) / stride
        natural = min(max(natural, SPEEDS[0]), SPEEDS[1])
        with steps_bar(f"render {target.name}") as update:
            render_field_movie(
                scenes, target, fps=fps or natural, frames=frames, orbit=orbit, progress=update,
                **options,
            )  # fmt: skip
    console.print(str(target))


def _one_motion(
    trajectory: list[int] | None, field: list[str] | None, beside: Any, moments: int | None
) -> tuple[int, str | None]:
    """Trajectory and field of a motion, of which there is one in a picture."""
    for name, given in (("trajectory", trajectory), ("field", field)):
        if given is not None and len(given) > 1:
            raise UsageError(f"render: one --{name} of a motion; got {given}. Choose one.")
    if beside or moments:
        raise UsageError(
            "render: --beside and --moments with fields on a grid; got a motion. Leave them out."
        )
    return (trajectory or [0])[0], (field or [None])[0]


def _motion_style(style: str | None, default: str) -> str:
    if style in ("volume", "slices"):
        raise UsageError(
            f"--style: surface or particles of a motion; got {style}, which fields in space have. "
            "Choose another."
        )
    return style or default


def _check_style(style: str | None, dim: int) -> None:
    if style is not None and (dim < 3 or style == "particles"):
        what = "volume, surface or slices of fields in space"
        raise UsageError(f"--style: {what}; got {style} of {dim}-D fields. Leave it out.")


def _require_trajectory(reader: Any, trajectory: int) -> None:
    count = int(reader.n_trajectories)
    if not -count <= trajectory < count:
        raise UsageError(
            f"--trajectory: in [0, {count}), as the file has; got {trajectory}. Correct it."
        )


def _name(source: Path) -> str:
    return source.resolve().name if source.is_dir() else source.stem


def _beside(reader: Any) -> dict[str, Any]:
    """Pictures beside the scene: what the cameras of gel sensors see, where a run has some."""
    if not reader.config.get("sensors"):
        return {}
    from ..tactile.stored import sensor_insets

    return {"insets": sensor_insets(reader)}
