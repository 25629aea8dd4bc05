"""Movies are complete or absent; reports stand alone."""

from __future__ import annotations

import base64
import re
import sys

import numpy as np
import pytest
from PIL import Image
from rheograd.viz import (
    Report,
    compose,
    plot_bars,
    plot_curves,
    plot_gradient_norm,
    plot_losses,
    render_movie,
    scene_from_reader,
)
from rheograd.viz.movie import write_movie

SMALL = {"size": (160, 120), "antialias": False}


def test_gif_has_every_frame_and_the_right_length(pool2d, tmp_path):
    calls = []
    path = render_movie(
        pool2d,
        tmp_path / "a.gif",
        fps=30,
        field="speed",
        progress=lambda done, total: calls.append((done, total)),
        **SMALL,
    )
    movie = Image.open(path)
    assert movie.n_frames == pool2d.n_frames and movie.size == (160, 120)
    assert calls == [(k + 1, 6) for k in range(6)]
    total = 0
    for k in range(movie.n_frames):
        movie.seek(k)
        total += movie.info["duration"]
    assert total == 200  # six frames at 30 fps, although one GIF tick is 10 ms


def test_panels_stand_side_by_side_under_their_titles(pool2d, tmp_path):
    path = render_movie(
        [pool2d, pool2d, pool2d],
        tmp_path / "b.gif",
        titles=["truth", "learned", "untrained"],
        frames=range(0, 6, 2),
        **SMALL,
    )
    movie = Image.open(path)
    assert movie.n_frames == 3 and movie.size[0] == 3 * 160 + 2 * 6 and movie.size[1] > 120
    frame = np.asarray(movie.convert("RGB"))
    panels = [frame[-120:, k * 166 : k * 166 + 160] for k in range(3)]
    assert np.array_equal(panels[0], panels[1]) and np.array_equal(panels[0], panels[2])
    assert (frame[:22, :160] < 128).any() and (frame[:22, 332:] < 128).any()


def test_scenes_and_pictures_are_sources_too(pool, tmp_path):
    scenes = (scene_from_reader(pool, k) for k in range(3))
    path = render_movie(scenes, tmp_path / "c.gif", style="surface", **SMALL)
    assert Image.open(path).n_frames == 3
    flat = [np.full((40, 60, 3), 60 * k, np.uint8) for k in range(4)]
    assert Image.open(write_movie(flat, tmp_path / "d.gif")).n_frames == 4


def test_mp4_decodes_to_every_frame(tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    flat = [np.full((41, 61, 3), 50 * k, np.uint8) for k in range(5)]
    path = write_movie(flat, tmp_path / "e.mp4", fps=10)
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
    assert count == 5 and seconds == pytest.approx(0.5, abs=0.05)
    frames = imageio_ffmpeg.read_frames(str(path))
    assert next(frames)["size"] == (62, 42)
    means = [np.frombuffer(frame, np.uint8).mean() for frame in frames]
    assert np.allclose(means, [0, 50, 100, 150, 200], atol=6)  # H.264 is lossy


@pytest.mark.parametrize("ending", [".gif", ".mp4"])
def test_an_interrupt_leaves_the_old_file(ending, tmp_path):
    if ending == ".mp4":
        pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / f"f{ending}"
    path.write_bytes(b"old")

    def images():
        yield np.zeros((16, 16, 3), np.uint8)
        yield np.ones((16, 16, 3), np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_movie(images(), path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_movie_errors_come_before_the_work(pool2d, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"\.gif or \.mp4; got 'a.avi'"):
        render_movie(pool2d, tmp_path / "a.avi")
    with pytest.raises(ValueError, match="fps ≤ 50"):
        render_movie(pool2d, tmp_path / "a.gif", fps=60)
    with pytest.raises(ValueError, match="at least one frame"):
        render_movie(iter(()), tmp_path / "a.gif")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match=r'pip install "rheograd\[viz\]"'):
        render_movie(pool2d, tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="pictures of one size"):
        compose([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)])
    assert list(tmp_path.iterdir()) == []


def test_plots_draw_and_leave_matplotlib_alone(tmp_path):
    import matplotlib

    before = (dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False))
    k = np.arange(1, 60)
    paths = [
        plot_losses({"a": 1 / k, "b": 1 / k**2}, tmp_path / "1.png"),
        plot_gradient_norm({"a": np.exp(k / 9)}, tmp_path / "2.png", theme="dark"),
        plot_curves(
            {"a": (k * 0.1, k**0.5)},
            tmp_path / "3.svg",
            bands={"a": (k**0.5 - 1, k**0.5 + 1)},
            reference={"bound": 5.0},
        ),
        plot_bars(
            {"x": {"forward": 1.0, "backward": 2.0}, "y": {"forward": 3}}, tmp_path / "4.png"
        ),
    ]
    for path in paths:
        assert path.stat().st_size > 3000
    for path in (paths[0], paths[3]):
        image = np.asarray(Image.open(path).convert("RGB"))
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 50
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )
    assert before == (dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False))
    with pytest.raises(ValueError, match="as many x as y"):
        plot_curves({"a": (k, k[:-1])}, tmp_path / "5.png")


def test_report_is_one_file(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    movie = write_movie([image, 255 - image], tmp_path / "m.gif")
    report = Report("Learning <laws>", "today")
    report.add_metrics({"error": (0.012345, "m"), "particles": 400})
    report.add_text("## Part\nA **bold** `a<b` *word*.\n\n- one\n- two\n\n```\nx < y\n```")
    report.add_table([{"run": "a", "loss": 1.23456e-5}, {"run": "b", "loss": 2}], caption="runs")
    report.add_table([["x", "y"]])
    report.add_images([image, movie], ["noise", "film"]).add_movie(movie)
    page = report.save(tmp_path / "sub" / "report.html").read_text(encoding="utf-8")

    assert "Learning &lt;laws&gt;" in page and "<laws>" not in page
    assert "0.01234 m" in page or "0.01235 m" in page
    assert "<h3>Part</h3>" in page and "<strong>bold</strong>" in page
    assert "<code>a&lt;b</code>" in page and "<li>two</li>" in page and "x &lt; y" in page
    assert '<td class="n">1.235e-05</td>' in page
    sources = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', page)
    assert len(sources) == 3 and all(source.startswith("data:") for source in sources)
    assert base64.b64decode(sources[1].split(",")[1]) == movie.read_bytes()
    outside = re.sub(r'"data:[^"]*"', "", page)
    assert "http" not in outside and "url(" not in outside and "<script" not in outside
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["report.html"]
    with pytest.raises(ValueError, match="cells in every row"):
        report.add_table([[1, 2], [3]])
    with pytest.raises(ValueError, match="picture or movie"):
        report.add_image(tmp_path / "notes.txt")
