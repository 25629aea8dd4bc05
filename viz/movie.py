"""Movies of rollouts: GIF through Pillow, MP4 through imageio-ffmpeg.

A movie is written beside its final place and moved there when complete; an interrupt or an error
leaves whatever stood there before.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .convert import field_range, open_reader, scene_from_reader
from .frames import FrameRenderer
from .scene import Scene
from .theme import Theme, theme_of

__all__ = ["compose", "render_movie", "write_movie"]

logger = logging.getLogger(__name__)
_FORMATS = (".gif", ".mp4")


def compose(
    images: Sequence[np.ndarray],
    titles: Sequence[str] = (),
    *,
    columns: int | None = None,
    gap: int = 6,
    theme: Theme | str = "light",
) -> np.ndarray:
    """Pictures side by side, each under its title.

    Args:
        images: pictures (H, W, 3) uint8, of equal size.
        titles: one per picture, or none.
        columns: pictures per row; None puts all in one row.
        gap: space between them [px].
        theme: colors of gaps and titles.

    Returns:
        Picture (H', W', 3), uint8.

    Raises:
        ValueError: if sizes differ or the titles do not fit.
    """
    from PIL import Image, ImageDraw, ImageFont

    theme = theme_of(theme)
    images = [np.asarray(image)[..., :3] for image in images]
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        raise ValueError(
            f"compose: pictures of one size; got {sorted(shapes)}. Render them with the same size."
        )
    if titles and len(titles) != len(images):
        raise ValueError(
            f"compose: one title per picture, {len(images)}; got {len(titles)}. Use '' for none."
        )
    height, width, _ = images[0].shape
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    band = max(22, round(0.075 * height)) if any(titles) else 0
    total = (columns * width + (columns - 1) * gap, rows * (height + band) + (rows - 1) * gap)
    canvas = Image.new("RGB", total, theme.background)
    pen = ImageDraw.Draw(canvas)
    font = None
    if band:
        from matplotlib import font_manager

        font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), round(0.55 * band))
    for k, image in enumerate(images):
        left, top = (k % columns) * (width + gap), (k // columns) * (height + band + gap)
        canvas.paste(Image.fromarray(image), (left, top + band))
        if band and titles[k]:
            center = (left + width / 2, top + band / 2)
            pen.text(center, titles[k], font=font, fill=theme.text, anchor="mm")
    return np.asarray(canvas)


def render_movie(
    source: Any,
    path: str | os.PathLike,
    *,
    fps: float = 25.0,
    size: tuple[int, int] = (720, 540),
    style: str = "particles",
    field: str | None = None,
    titles: Sequence[str] = (),
    frames: Iterable[int] | None = None,
    trajectory: int = 0,
    orbit: float = 0.0,
    columns: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    scene_options: dict[str, Any] | None = None,
    theme: Theme | str = "light",
    **options: Any,
) -> Path:
    """Movie of a rollout, of scenes or of pictures.

    Args:
        source: a path or reader of a stored rollout (see `scene_from_reader`); a list of
            these, shown side by side; or an iterable whose items are `Scene`s, pictures
            (H, W, 3), or lists of either to show side by side.
        path: .gif or .mp4 file.
        fps: frames per second; a GIF can show 50 at most.
        size: width and height of one panel [px].
        style: "particles" or "surface".
        field: color by this field, with one range for the whole movie (readers only).
        titles: one per panel, such as ("truth", "learned", "untrained").
        frames: which frames of a reader; None takes all.
        trajectory: which trajectory of a reader.
        orbit: degrees that the camera turns over the movie.
        columns: panels per row; None puts all in one row.
        progress: called with (frames done, frames in all or None if unknown).
        scene_options: fields of `Scene` for every frame of a reader, such as colors or target, and
            `insets` of `scene_from_reader`.
        theme: "light" or "dark".
        options: see `FrameRenderer` (camera, surface_method, floor, antialias).

    Returns:
        The path written.

    Raises:
        ValueError: for another ending, no frames, or an fps the format cannot hold.
        ImportError: for MP4 without imageio-ffmpeg.
    """
    path = _checked_path(path, fps)
    source = open_reader(source)
    readers = _readers(source)
    if readers:
        panels, total = _reader_scenes(readers, frames, trajectory, field, scene_options or {})
    else:
        panels, total = source, len(source) if hasattr(source, "__len__") else None
    images = _panel_images(
        panels, total, size, style, titles, orbit, columns, theme, options, progress
    )
    return write_movie(images, path, fps=fps)


def write_movie(
    images: Iterable[np.ndarray], path: str | os.PathLike, *, fps: float = 25.0
) -> Path:
    """Write pictures as .gif or .mp4, in one go or not at all.

    Args:
        images: pictures (H, W, 3) uint8, of equal size.
        path: .gif or .mp4 file; its folder is made if needed.
        fps: frames per second.

    Returns:
        The path written.

    Raises:
        ValueError: for another ending, no frames, or an fps the format cannot hold.
        ImportError: for MP4 without imageio-ffmpeg.
    """
    path = _checked_path(path, fps)
    images = iter(images)
    first = next(images, None)
    if first is None:
        raise ValueError(
            "write_movie: at least one frame; got none. Check the source and `frames`."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
    try:
        with contextlib.closing(_chained(first, images)) as frames:
            write(frames, part, fps)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _checked_path(path, fps: float) -> Path:
    """Path with a known ending and a possible frame rate; fails before any work is done."""
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in _FORMATS:
        raise ValueError(
            f"render_movie: a file ending in .gif or .mp4; got {path.name!r}. Choose one of them."
        )
    if not 0 < fps <= (50 if ending == ".gif" else 1000):
        raise ValueError(
            f"render_movie: 0 < fps ≤ {50 if ending == '.gif' else 1000} for {ending}; got {fps}. "
            "Lower fps, skip frames, or write .mp4."
        )
    if ending == ".mp4":
        _ffmpeg()
    return path


def _chained(first, rest) -> Iterator[np.ndarray]:
    yield first
    yield from rest


def _readers(source) -> list[Any]:
    """The readers in a source; empty if it is something else."""

    def is_reader(item):
        return hasattr(item, "frame") and hasattr(item, "n_frames")

    if is_reader(source):
        return [source]
    if isinstance(source, (list, tuple)) and source:
        opened = [open_reader(item) for item in source]
        return opened if all(map(is_reader, opened)) else []
    return []


def _reader_scenes(readers, frames, trajectory, field, scene_options):
    """Scenes of all readers, frame by frame, with one color range, spacing and rest state."""
    shortest = min(int(reader.n_frames) for reader in readers)
    indices = list(range(shortest) if frames is None else frames)
    shared = dict(scene_options)
    if field is not None and "clim" not in shared:
        ranges = [field_range(reader, field, trajectory=trajectory) for reader in readers]
        shared["clim"] = (min(r[0] for r in ranges), max(r[1] for r in ranges))
    starts = [
        scene_from_reader(reader, indices[0] if indices else 0, trajectory=trajectory)
        for reader in readers
    ]
    shared.setdefault("spacing", min(scene.particle_spacing() for scene in starts))

    def scenes():
        for index in indices:
            yield [
                scene_from_reader(reader, index, trajectory=trajectory, field=field, **shared)
                for reader in readers
            ]

    return scenes(), len(indices)


def _panel_images(
    panels, total, size, style, titles, orbit, columns, theme, options, progress
) -> Iterator[np.ndarray]:
    """Pictures of all panels, composed."""
    with contextlib.ExitStack() as stack:
        renderer = stack.enter_context(FrameRenderer(size, style=style, theme=theme, **options))
        base = None
        for index, panel in enumerate(panels):
            items = list(panel) if isinstance(panel, (list, tuple)) else [panel]
            images = []
            for item in items:
                if isinstance(item, Scene):
                    if base is not None and orbit and total and total > 1:
                        renderer.camera = base.orbit(orbit * index / (total - 1))
                    images.append(renderer(item))
                    base = renderer.camera if base is None else base
                else:
                    images.append(np.asarray(item))
            if len(images) == 1 and not any(titles):
                yield images[0]
            else:
                yield compose(images, titles, columns=columns, theme=theme)
            if progress is not None:
                progress(index + 1, total)


def _write_gif(images: Iterable[np.ndarray], path: Path, fps: float) -> None:
    """GIF with one palette for all frames, so that still regions do not flicker."""
    from PIL import Image

    # Frames wait compressed, as the palette must know the whole movie before the first is written.
    packed = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(image)[..., :3]).save(buffer, "PNG", compress_level=1)
        packed.append(buffer)
    chosen = np.unique(np.linspace(0, len(packed) - 1, 10).round().astype(int))
    samples = [Image.open(packed[i]).convert("RGB") for i in chosen]
    width, height = samples[0].size
    sheet = Image.new("RGB", (width, height * len(samples)))
    for k, sample in enumerate(samples):
        sheet.paste(sample, (0, k * height))
    palette = sheet.quantize(256, method=Image.Quantize.MEDIANCUT)

    def quantized():
        for buffer in packed:
            frame = Image.open(buffer).convert("RGB")
            yield frame.quantize(palette=palette, dither=Image.Dither.NONE)

    # GIF time counts in hundredths; rounding the sum instead of the parts keeps the total right.
    ticks = np.round(np.arange(len(packed) + 1) * 100.0 / fps).astype(int)
    frames = quantized()
    head = next(frames)
    head.save(
        path,
        format="GIF",
        save_all=True,
        append_images=list(frames),
        duration=[int(10 * d) for d in np.diff(ticks)],
        loop=0,
        disposal=1,
        optimize=False,
    )


def _ffmpeg():
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ImportError(
            "render_movie: .mp4 needs imageio-ffmpeg; it is not installed. "
            'Run: pip install "rheograd[viz]", or write a .gif.'
        ) from error
    return imageio_ffmpeg


def _write_mp4(images: Iterable[np.ndarray], path: Path, fps: float) -> None:
    """H.264 that browsers play; odd sides are padded by one row or column of the border color."""
    images = iter(images)
    first = np.asarray(next(images))[..., :3]
    height, width = first.shape[:2]
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    writer = _ffmpeg().write_frames(
        str(path),
        (width + width % 2, height + height % 2),
        fps=fps,
        codec="libx264",
        quality=7,
        macro_block_size=2,
        ffmpeg_log_level="error",
        output_params=["-movflags", "+faststart"],
    )
    writer.send(None)
    try:
        for image in itertools.chain([first], images):
            frame = np.pad(np.asarray(image)[..., :3], pad, mode="edge")
            writer.send(np.ascontiguousarray(frame))
    finally:
        writer.close()
