"""`rheograd info` and `rheograd list`."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from ... import __version__
from ...assets import weights, weights_names
from ...sim.io import Metrics
from ..runs.configs import UsageError
from ..runs.folder import RunFolder
from .common import console, show_table
from .sources import field_files, is_motion, open_field_source

_PACKAGES = (
    "torch", "warp-lang", "numpy", "scipy", "h5py", "pyvista", "taichi", "cma", "gymnasium",
    "pyamg", "imageio-ffmpeg", "pysplashsurf",
)  # fmt: skip

MANY = 12
"""Files, or numbers, that are listed one by one."""


def info(path: Path | None = None, /) -> None:
    """Versions, devices and caches; or what a run folder, data set, rollout, checkpoint or file of
    fields holds.

    Args:
        path: Run folder, rollout or fields (.h5, .mat, …) or checkpoint (.safetensors).
    """
    if path is None:
        _installation()
    elif path.is_dir():
        if (path / "config.toml").is_file() or not field_files(path):
            _run(path)
        if not is_motion(path):
            _fields(path)
    elif not path.exists():
        raise UsageError(f"info: a run folder or file; got {path}, not found. Check the path.")
    elif path.suffix == ".safetensors":
        _checkpoint(path)
    elif is_motion(path):
        _rollout(path)
    else:
        _fields(path)


def list_() -> None:
    """Scenes, materials, laws, tasks, optimizers, engines and trained weights there are."""
    from ...sim.core.laws import LAWS
    from ..runs.scenes import MATERIALS, SCENES

    _names("Scenes", {n: f.__doc__ for n, f in SCENES.items()}, "rheograd simulate NAME")
    _names("Materials", {n: m.about for n, m in MATERIALS.items()}, "--bodies.NAME.material NAME")
    laws = {}
    for name, cls in sorted(LAWS.items()):
        settings = [f.name for f in dataclasses.fields(cls) if f.metadata.get("setting")]
        if all(hasattr(cls, setting) for setting in settings):  # else it needs a module
            laws[name] = ", ".join(cls().parameters())
    _names("Laws and their parameters", laws, "materials too; --bodies.NAME.params.E 2e5")
    tasks = {name: _first_line(cls) for name, cls in _tasks().items()}
    _names("Tasks", tasks, "rheograd optimize NAME")
    _names("Optimizers", _optimizers(), "rheograd optimize TASK --optimizer NAME")
    _names("Engines", _engines(), "--engine NAME")
    _names("Trained laws", _shipped("laws"), "rheograd evaluate NAME --scene torus")
    _names("Trained steppers", _shipped("steppers"), "rheograd.tasks.runs.stepping.load_stepper")


def _tasks() -> dict[str, Any]:
    from .. import fluid, shell, tactile  # noqa: F401  registers the built-in tasks
    from ..core import TASKS

    return {name: load() for name, load in sorted(TASKS.items())}


def _optimizers() -> dict[str, str | None]:
    from ..optim.registry import OPTIMIZERS

    classes = {
        name: getattr(import_module(f"..optim.{module}", __package__), cls)
        for name, (module, cls, _) in OPTIMIZERS.items()
    }
    return {name: _first_line(cls).split(";")[0].rstrip(".") for name, cls in classes.items()}


def _engines() -> dict[str, str]:
    taichi = _version("taichi")
    return {
        "warp": "CPU and CUDA; default",
        "torch": "plain reference",
        "taichi": f"taichi {taichi}" if taichi else 'missing; pip install "rheograd[taichi]"',
    }


def _shipped(kind: str) -> dict[str, str | None]:
    """What each file of shipped weights was trained on, and how well it predicts."""
    rows: dict[str, str | None] = {}
    for name in weights_names(kind):
        file = weights(kind, name).with_suffix(".json")
        report = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        errors = report.get("mse_m2")
        source = report.get("material") or report.get("dataset")
        parts = [f"trained on {source}" if source else ""]
        if isinstance(errors, dict):
            worst = max(errors.values())
            parts.append(f"mean square error ≤ {worst:.2g} m² in {len(errors)} motions")
        parts += [
            f"{key} {value:.2g}"
            for key, value in report.items()
            if "rollout" in key and isinstance(value, float)
        ]
        rows[name] = "; ".join(filter(None, parts))
    return rows


def _names(title: str, rows: dict[str, str | None], usage: str) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    for name, text in rows.items():
        table.add_row(f"[bold]{name}[/bold]", escape((text or "").strip()))
    console.print(f"\n[bold]{title}[/bold]   [dim]{usage}[/dim]")
    console.print(table if rows else "  none")


def _first_line(cls: Any) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _installation() -> None:
    import torch

    from ...sim.core.backend import CPU_THREADS, warp

    wp = warp()
    rows: dict[str, Any] = {"rheograd": __version__, "python": platform.python_version()}
    rows |= {name: _version(name) or "not installed" for name in _PACKAGES}
    rows["cpu"] = f"{os.cpu_count()} cores, {CPU_THREADS} used; {platform.machine()}"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows["cuda"] = ", ".join(names) if names else "none"
    rows["kernel cache"] = f"{wp.config.kernel_cache_dir} (WARP_CACHE_PATH moves it)"
    show_table(rows)


def _run(path: Path) -> None:
    folder = RunFolder.open(path)
    names = ("scene", "task", "system", "data", "material", "dim", "duration", "method", "seed")
    rows: dict[str, Any] = {"command": f"rheograd {folder.command}"}
    rows |= {n: folder.config[n] for n in names if n in folder.config}
    metrics = path / "metrics.jsonl"
    if metrics.is_file():
        found = Metrics.read(metrics)
        rows["metrics"] = f"{len(found)} rows"
        if found:
            rows["last row"] = json.dumps(found[-1])
    files = sorted(p for p in path.iterdir() if p.is_file())
    rows["files"] = ", ".join(f"{p.name} ({_size(p)})" for p in files[:MANY])
    if len(files) > MANY:
        rows["files"] += f", … {len(files)} in all"
    show_table(rows, str(path))
    if folder.rollout.is_file():
        _rollout(folder.rollout)


def _rollout(path: Path) -> None:
    from ...sim.io import RolloutReader

    with RolloutReader(path) as reader:
        times = reader.times
        span = f"{times[0]:.4g} … {times[-1]:.4g} s" if len(times) else "none"
        rows = {
            "size": _size(path),
            "frames": f"{reader.n_frames}, {span}, every {reader.dt:.4g} s",
            "state": "complete" if reader.complete else "being written, or its writer was killed",
            "scenes": reader.n_trajectories,
            "particles": f"{reader.particle_count:,} in {reader.dim}-D",
            "groups": ", ".join(f"{n} ({b - a:,})" for n, (a, b) in reader.groups.items()),
            "fields": ", ".join(
                f"{name} {field.shape} {field.dtype} [{field.units}]"
                for name, field in ((name, reader[name]) for name in reader.fields)
            ),
            "tools": 0 if reader.tool_pose is None else reader.tool_pose.shape[2],
        }
    show_table(rows, str(path))


def _fields(path: Path) -> None:
    """Fields on a grid: how many, when, where, what is held at the sides."""
    data = open_field_source(path)
    files = [part.path for part in data.parts]
    rows: dict[str, Any] = {"layout": data.layout}
    rows["files"] = f"{len(files)}, {_bytes(sum(float(f.stat().st_size) for f in files))}"
    equation = data.attributes.get("equation")
    if equation:
        rows["equation"] = equation
    rows["trajectories"] = data.n_trajectories
    times = data.times
    if data.n_frames > 1:
        rows["frames"] = str(data.n_frames)
        if times is not None:
            first = times[0] if times.ndim > 1 else times
            step = float(first[-1] - first[0]) / (len(first) - 1)
            rows["frames"] += f", {first[0]:.4g} … {first[-1]:.4g} s, every {step:.4g} s"
            rows["frames"] += " (of the first trajectory)" * (times.ndim > 1)
    else:
        rows["frames"] = "one: stationary"
    rows["cells"] = " × ".join(map(str, data.cells))
    spans = {a: v[0] if v.ndim > 1 else v for a, v in data.coordinates.items()}
    if spans:
        rows["centres"] = ", ".join(f"{a} {v[0]:.4g} … {v[-1]:.4g} m" for a, v in spans.items())
    if data.sides:
        rows["sides"] = ", ".join(f"{side} {kind}" for side, kind in data.sides.items())
    for name in data.names:
        channels, units = data.channels(name), data.units(name)
        parts = [", ".join(channels) if len(channels) > 1 else "scalar", f"[{units}]" * bool(units)]
        parts += ["" if data.varies(name) else "constant in time"]
        rows[f"field {name}"] = " ".join(filter(None, parts))
    for name, value in data.scalars.items():
        rows[f"scalar {name}"] = _spread(value)
    numbers = {k: v for k, v in data.attributes.items() if isinstance(v, (int, float))}
    hidden = {"n_spatial_dims", "n_trajectories", "rheograd_fields"}
    given = [f"{k} {v:.6g}" for k, v in numbers.items() if k not in hidden]
    if given:
        rows["parameters"] = ", ".join(given)
    show_table(rows, str(path))


def _spread(value: Any) -> str:
    """Few numbers, or the ends of many."""
    flat = [float(v) for v in value.flatten()]
    if len(set(flat)) == 1:
        return f"{flat[0]:.6g}"
    if len(flat) <= MANY:
        return ", ".join(f"{v:.6g}" for v in flat)
    return f"{min(flat):.6g} … {max(flat):.6g}"


def _checkpoint(path: Path) -> None:
    from ...sim.io import load_checkpoint

    stored = load_checkpoint(path)
    rows: dict[str, Any] = {"size": _size(path), "version": stored.version}
    rows["config"] = json.dumps(stored.config)[:2000]
    for name, tensor in stored.tensors.items():
        rows[name] = f"{tuple(tensor.shape)} {tensor.dtype}".replace("torch.", "")
    show_table(rows, str(path))


def _size(path: Path) -> str:
    return _bytes(float(path.stat().st_size))


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
