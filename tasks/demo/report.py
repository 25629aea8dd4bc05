"""The report of the demonstration: one HTML file that needs nothing beside it."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...viz import Report

if TYPE_CHECKING:
    from . import Demo

__all__ = ["write_report"]


def write_report(demo: Demo, path: Path) -> Path:
    """Write the report of a finished demonstration.

    Args:
        demo: Numbers and files; pictures must have been drawn.
        path: HTML file.
    """
    assert demo.plan is not None and demo.task is not None
    pictures = demo.folder / "pictures"
    names = list(demo.errors)
    best = demo.fitted[0]
    report = Report(
        "Rheograd: simulate, learn, plan, look",
        f"{time.strftime('%d %B %Y, %H:%M')} · rheograd {__version__} · seed {demo.config.seed} · "
        f"{sum(demo.seconds.values()):.0f} s on {os.cpu_count()} cores",
    )
    report.add_metrics(
        {
            "error of the learned law, unseen throw": _card(demo, "learned"),
            "error of the untrained law": _card(demo, "untrained"),
            "error of the best fitted classical law": _card(demo, names[-1]),
            "block left from target, paddle at rest": (1e3 * demo.distance_before, "mm"),
            "block left from target, optimized": (1e3 * demo.plan.distance, "mm"),
        }
    )
    report.add_text("## Simulate\n" + _splash_text(demo))
    report.add_images(
        [pictures / "splash.png", pictures / "splash.gif"],
        ["Jelly ball in the pool.", "The whole splash, in real time."],
    )
    report.add_text("## Learn\n" + _learn_text(demo))
    report.add_movie(
        pictures / "throw.gif",
        "The unseen throw in slow motion: truth, learned, untrained and fitted classical law, all "
        "from the same first state.",
    )
    rows = []
    for name in names:
        rows.append(
            {
                "law": name,
                "training motion [mm]": (
                    1e3 * demo.mean_error(name, training=True)
                    if name in demo.training_errors
                    else ""
                ),
                "unseen throw [mm]": 1e3 * demo.mean_error(name),
                "unseen throw, last frame [mm]": _last(demo, name),
            }
        )
    report.add_table(
        rows,
        caption="Root mean square distance of the particles from the truth, over the trained "
        f"horizon of {demo.config.steps} steps ({demo.config.steps * demo.frame_time:.3g} s), or "
        "as far as the simulation went.",
    )
    report.add_image(pictures / "throw.png", "The last moment that every law reaches.")
    report.add_images(
        [pictures / "error-unseen.png", pictures / "loss-law.png"],
        ["Error over time on the unseen throw.", "Loss of the training; its horizon grows."],
    )
    report.add_images([pictures / "error-seen.png"], ["Error over time on the training motion."])
    report.add_table(
        [
            {
                "law": f.name,
                "parameters": ", ".join(f"{k} = {v:.4g}" for k, v in f.fit.values.items()),
                "evaluations": len(f.fit.history),
                "error² on the training motion [m²]": f.error,
                "wall time [s]": f.fit.seconds,
            }
            for f in demo.fitted
        ],
        caption=f"Classical laws fitted to the training motion; {best.name} is the best of them.",
    )
    report.add_text("## Plan\n" + _plan_text(demo))
    report.add_images(
        [pictures / "paddle-at-rest.png", pictures / "paddle-optimized.png"],
        ["End with the paddle at rest.", "End of the optimized motion; the line is the block's way."],
    )
    report.add_images(
        [pictures / "paddle.gif", pictures / "loss-paddle.png", pictures / "gradient.png"],
        ["The optimized motion.", "Progress of the search.", "Size of the gradient over the horizon."],
    )
    report.add_text("## How this was made\nEvery number above was computed by this run.")
    report.add_table(
        [{"stage": name, "wall time [s]": seconds} for name, seconds in demo.seconds.items()]
    )
    report.add_table(_versions(), caption="Versions and machine.")
    return report.save(path)


def _last(demo: Demo, name: str) -> float | str:
    """Error at the end [mm], or when the simulation broke."""
    error = float(demo.errors[name][-1])
    return 1e3 * error if error == error else f"broke after {1e3 * demo.lasted(name):.0f} ms"


def _card(demo: Demo, name: str) -> Any:
    """Error of a law as a number with its unit, or when the simulation broke."""
    broke = isinstance(_last(demo, name), str)
    return _last(demo, name) if broke else (1e3 * demo.mean_error(name), "mm")


def _splash_text(demo: Demo) -> str:
    s: dict[str, Any] = demo.splash
    return (
        f"A light jelly ball falls into water: {s['particles']:,} particles of MLS-MPM in 3-D, "
        f"{s['substeps']:,} substeps of {1e3 * s['substep [s]']:.3g} ms in "
        f"{s['wall time [s]']:.1f} s, that is {s['particle updates per second'] / 1e6:.2g} million "
        "particle updates per second. The motion is in `jelly-and-water/rollout.h5`."
    )


def _learn_text(demo: Demo) -> str:
    c, last = demo.config, demo.training[-1]
    return (
        f"A block of {c.material} flies, turns and hits the walls of a box. Two small networks that "
        "respect frame indifference learn its law from the positions of its particles alone: "
        "gradients run through the simulator. "
        f"{len(demo.training)} updates took {last['seconds']:.0f} s and "
        f"{last['simulated']:,} simulated steps.\n\n"
        "Then the block is thrown in another direction with another spin, and every law predicts "
        f"the motion for as long as was trained. The classical law is the best of "
        f"{len(demo.fitted)} fitted by the same simulator to the same motion; the family that made "
        "the data is left out."
    )


def _plan_text(demo: Demo) -> str:
    task, plan = demo.task, demo.plan
    assert task is not None and plan is not None
    end = "solved" if plan.success else "not solved within this time"
    return (
        f"Task `{demo.config.task}`: {_first_line(type(task).__doc__)} {task.horizon} velocities of "
        f"the paddle are optimized by the gradient through {task.horizon * task.substeps:,} "
        f"substeps. {len(plan.history)} iterations took {plan.wall_s:.0f} s; the block ends "
        f"{1e3 * plan.distance:.1f} mm from the target instead of {1e3 * demo.distance_before:.1f} "
        f"mm: {end}."
    )


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


def _versions() -> list[dict[str, str]]:
    packages = ("torch", "warp-lang", "numpy", "h5py", "pyvista")
    rows = [{"what": "rheograd", "version": __version__}]
    rows += [{"what": name, "version": version(name)} for name in packages]
    rows += [{"what": "python", "version": platform.python_version()}]
    return [*rows, {"what": "machine", "version": f"{platform.machine()}, {os.cpu_count()} cores"}]
