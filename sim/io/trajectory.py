"""Motions of tools as tables, for robot controllers and back.

    tool,time,x,y,z,qw,qx,qy,qz,vx,vy,vz,wx,wy,wz

One row per tool and time: position [m] and unit quaternion at that time, in the frame of the scene; and
the twist, linear [m/s] and angular [rad/s] about world axes through the tool's position, which holds
until the tool's next row and carries its pose there:

    p' = p + Δt v,   q' = exp(Δt ω) q

Source: zero-order hold of twists; Shoemake 1985 (slerp) between poses.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import InputError, message
from ..core.poses import integrate_pose, twists_from_poses
from ..core.rotations import slerp
from .metrics import write_whole

__all__ = ["ToolTrajectory", "read_trajectory", "resample", "write_trajectory"]

POSE = ("x", "y", "z", "qw", "qx", "qy", "qz")
TWIST = ("vx", "vy", "vz", "wx", "wy", "wz")
FORMAT = "rheograd tool trajectory"
UNITS = {
    "time": "s", "position": "m", "quaternion": "w x y z",
    "linear": "m/s, world axes", "angular": "rad/s, world axes, about the position",
}  # fmt: skip
UNIT_TOLERANCE = 1e-3
"""Largest | |q| − 1 |: what four decimals leave."""


@dataclass(frozen=True)
class ToolTrajectory:
    """Poses of K tools at T + 1 times, and the twists between them, in float64.

    Raises:
        InputError: shapes that do not fit, times that do not grow, values that are not finite,
            quaternions that are not of unit length, names that are not unique.
    """

    time: Tensor
    """Times [s], (T + 1,), growing."""
    names: tuple[str, ...]
    """K tools."""
    pose: Tensor
    """Position [m] and quaternion (w, x, y, z), (T + 1, K, 7), in the frame of the scene."""
    twist: Tensor
    """Linear [m/s] and angular [rad/s] velocity, (T, K, 6), each held until the next time."""

    def __post_init__(self) -> None:
        for name in ("time", "pose", "twist"):
            value = torch.as_tensor(getattr(self, name)).detach().to("cpu", torch.float64)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "names", tuple(self.names))
        _check(self, "ToolTrajectory")

    @property
    def steps(self) -> int:
        """T, twists per tool."""
        return self.twist.shape[0]

    @property
    def duration(self) -> float:
        """From the first to the last time [s]."""
        return float(self.time[-1] - self.time[0])

    def of(self, *names: str) -> ToolTrajectory:
        """Some of the tools, in the order asked for.

        Raises:
            InputError: a tool that is not there.
        """
        missing = [n for n in names if n not in self.names]
        if missing or not names:
            where, known = "ToolTrajectory.of", f"tools out of {list(self.names)}"
            raise InputError(message(where, known, f"{missing or 'none'}", "Correct the names"))
        rows = [self.names.index(n) for n in names]
        return ToolTrajectory(self.time, names, self.pose[:, rows], self.twist[:, rows])

    def gap(self) -> float:
        """Largest distance [m] or quaternion difference [-] between a pose and where the twist before
        it leads; round-off for trajectories of the simulator."""
        step = self.time.diff()[:, None, None]
        led = integrate_pose(self.pose[:-1], self.twist * step, 1.0, 1)[1]
        sign = torch.where(
            (led[..., 3:] * self.pose[1:, :, 3:]).sum(-1, keepdim=True) < 0, -1.0, 1.0
        )
        turn = (sign * led[..., 3:] - self.pose[1:, :, 3:]).abs().max()
        return float(torch.maximum((led[..., :3] - self.pose[1:, :, :3]).abs().max(), turn))


def resample(trajectory: ToolTrajectory, step: float) -> ToolTrajectory:
    """The same motion at equal time steps: positions interpolated linearly, quaternions by slerp.

    The result starts at the same time and ends at the first step that reaches the last time, standing
    still beyond it. Twists are those that carry each new pose into the next, the mean velocities of the
    step: exact where the new steps divide the old ones; for motions sampled from a smooth one within
    O(old step) of its velocity.

    Args:
        trajectory: Motion.
        step: Time between poses [s]; 1/rate.

    Raises:
        InputError: a step that is not positive.

    Differentiable in nothing: files hold numbers. Source: Shoemake 1985, Sec. 3.3.
    """
    if not 0 < step < math.inf:
        raise InputError(message("resample", "step > 0 s", step, "Give 1/rate"))
    count = max(1, math.ceil(trajectory.duration / step - 1e-6))
    time = trajectory.time[0] + step * torch.arange(count + 1, dtype=torch.float64)
    inside = time.clamp(max=float(trajectory.time[-1]))
    right = torch.searchsorted(trajectory.time, inside).clamp(1, len(trajectory.time) - 1)
    left = right - 1
    span = trajectory.time[right] - trajectory.time[left]
    share = ((inside - trajectory.time[left]) / span)[:, None]
    a, b = trajectory.pose[left], trajectory.pose[right]
    place = torch.lerp(a[..., :3], b[..., :3], share[..., None])
    pose = torch.cat((place, slerp(a[..., 3:], b[..., 3:], share)), -1)
    return ToolTrajectory(time, trajectory.names, pose, twists_from_poses(pose, step))


def write_trajectory(trajectory: ToolTrajectory, path: str | os.PathLike[str]) -> Path:
    """Write a motion as .csv or .json; numbers come back as they were, in the precision they had.

    The last row of a tool has twist 0: the motion has ended.

    Args:
        trajectory: Motion.
        path: File, replaced as a whole.

    Raises:
        InputError: another ending.
    """
    path = Path(path)
    kind = _kind(path, "write_trajectory")
    twist = torch.cat((trajectory.twist, torch.zeros_like(trajectory.twist[:1])))
    if kind == ".csv":
        stream = io.StringIO()
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(("tool", "time", *POSE, *TWIST))
        for k, name in enumerate(trajectory.names):
            for t, p, v in zip(trajectory.time, trajectory.pose[:, k], twist[:, k], strict=True):
                rows.writerow((name, f"{float(t):.12g}", *map(_text, [*p.tolist(), *v.tolist()])))
        text = stream.getvalue()
    else:
        tools = {}
        for k, name in enumerate(trajectory.names):
            p, v = trajectory.pose[:, k], twist[:, k]
            parts = {"position": p[:, :3], "quaternion": p[:, 3:]}
            parts |= {"linear": v[:, :3], "angular": v[:, 3:]}
            tools[name] = {
                n: [[float(_text(z)) for z in r] for r in x.tolist()] for n, x in parts.items()
            }
        time = [float(f"{t:.12g}") for t in trajectory.time.tolist()]
        data = {"format": FORMAT, "version": 1, "units": UNITS, "time": time, "tools": tools}
        text = json.dumps(data) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    return path


def read_trajectory(path: str | os.PathLike[str]) -> ToolTrajectory:
    """Read a motion from .csv or .json.

    Columns may come in any order and others beside them. Without any twist, twists are those that carry
    each pose into the next. All tools have the same times.

    Args:
        path: File as `write_trajectory` makes it, or a robot's log in that form.

    Raises:
        FileNotFoundError: no such file.
        InputError: missing columns, text that is no number, NaN, times that do not grow, quaternions
            that are not of unit length; says where.
    """
    path = Path(path)
    kind = _kind(path, "read_trajectory")
    where = f"read_trajectory: {path}"
    if not path.is_file():
        raise FileNotFoundError(f"{where}: expected an existing file; got none. Check the path.")
    tools = _from_csv(path, where) if kind == ".csv" else _from_json(path, where)
    if not tools:
        raise InputError(message(where, "at least one tool", "none", "Export it again"))
    width = min(table.shape[1] for table in tools.values())  # 8 where a tool has no twists
    first = next(iter(tools.values()))[:, 0]
    for name, values in tools.items():
        if len(values) < 2:
            fix = "Give the start and the end at least"
            raise InputError(message(where, f"two rows or more of {name!r}", len(values), fix))
        if not np.isfinite(values).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
            got = f"{('time', *POSE, *TWIST)[column]} = {values[row, column]} in row {row + 1}"
            raise InputError(message(where, f"finite numbers of {name!r}", got, "Correct the row"))
        if len(values) != len(first) or not np.array_equal(values[:, 0], first):
            got, fix = f"others of {name!r}", "Write one file per tool, or resample them"
            raise InputError(message(where, "the same times for all tools", got, fix))
    table = torch.from_numpy(np.stack([t[:, 1:width] for t in tools.values()], 1))
    time, pose = torch.from_numpy(first.copy()), table[..., :7]
    _check_time(time, where)
    _check_unit(pose, tuple(tools), time, where)
    if width == 14:
        twist = table[:-1, :, 7:]
    else:
        twist = twists_from_poses(pose, time.diff()[:, None, None])
    return ToolTrajectory(time, tuple(tools), pose, twist)


def _from_csv(path: Path, where: str) -> dict[str, np.ndarray]:
    """Rows of time, pose and, if there, twist of each tool, in the order of the file."""
    with open(path, newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream, skipinitialspace=True)
        header = [name.strip() for name in next(reader, [])]
        columns = ["time", *POSE, *(TWIST if any(n in header for n in TWIST) else ())]
        missing = [n for n in ("tool", *columns) if n not in header]
        if missing:
            fix = f"Name them in the first line: tool, time, {', '.join((*POSE, *TWIST))}"
            raise InputError(message(where, "columns of a tool trajectory", f"no {missing}", fix))
        index = [header.index(n) for n in columns]
        tools: dict[str, list[list[float]]] = {}
        for row in reader:
            if not row:
                continue
            try:
                numbers = [float(row[i]) for i in index]
                name = row[header.index("tool")]
            except (ValueError, IndexError):
                got, fix = f"{','.join(row)!r}", "Correct or remove it"
                line = f"{where}: line {reader.line_num}"
                raise InputError(message(line, f"numbers in {columns}", got, fix)) from None
            tools.setdefault(name, []).append(numbers)
    return {name: np.array(rows) for name, rows in tools.items()}


def _from_json(path: Path, where: str) -> dict[str, np.ndarray]:
    try:
        data = json.loads(path.read_text("utf-8"))
        time, tools, found = data["time"], data["tools"], {}
        for name, parts in tools.items():
            keys = ["position", "quaternion"]
            keys += ["linear", "angular"] if "linear" in parts or "angular" in parts else []
            table = np.column_stack([time, *(np.array(parts[k], dtype=float) for k in keys)])
            if table.shape[1] not in (8, 14):
                raise ValueError(f"{table.shape[1] - 1} numbers per row of {name!r}")
            found[str(name)] = table
    except (ValueError, TypeError, AttributeError) as error:  # JSON errors are ValueErrors
        fix = "Export it again, or write the columns as .csv"
        raise InputError(message(where, f"a {FORMAT} in JSON", f"{error}", fix)) from None
    except KeyError as error:
        fix = "Name time, and of each tool position and quaternion; linear with angular"
        raise InputError(message(where, f"a {FORMAT} in JSON", f"no {error}", fix)) from None
    return found


def _kind(path: Path, where: str) -> str:
    kind = path.suffix.lower()
    if kind not in (".csv", ".json"):
        raise InputError(
            message(where, "a name ending in .csv or .json", f"{path.name!r}", "Choose one")
        )
    return kind


def _text(value: float) -> str:
    """Shortest text that reads back as this number, in the precision that it has."""
    short = f"{value:.9g}"
    return short if float(np.float32(short)) == value else repr(value)


def _check(trajectory: ToolTrajectory, where: str) -> None:
    time, pose, twist, names = trajectory.time, trajectory.pose, trajectory.twist, trajectory.names
    K, T = len(names), len(time) - 1 if time.ndim == 1 else 0
    if T < 1 or tuple(pose.shape) != (T + 1, K, 7) or tuple(twist.shape) != (T, K, 6):
        expected = "time (T + 1,) with T ≥ 1, pose (T + 1, K, 7) and twist (T, K, 6) for K names"
        got = f"{tuple(time.shape)}, {tuple(pose.shape)}, {tuple(twist.shape)} and {K} names"
        raise InputError(message(where, expected, got, "Correct the shapes"))
    if len(set(names)) != K or not all(names):
        raise InputError(message(where, "different names, none empty", f"{names}", "Rename"))
    for name, value in (("time", time), ("pose", pose), ("twist", twist)):
        if not bool(torch.isfinite(value).all()):
            raise InputError(
                message(where, f"a finite {name}", "NaN or infinity", "Find its source")
            )
    _check_time(time, where)
    _check_unit(pose, names, time, where)


def _check_time(time: Tensor, where: str) -> None:
    if bool((time.diff() <= 0).any()):
        row = int((time.diff() <= 0).nonzero()[0])
        got = f"{float(time[row + 1])} s after {float(time[row])} s"
        raise InputError(
            message(where, "times that grow", got, "Sort the rows, drop repeated ones")
        )


def _check_unit(pose: Tensor, names: Sequence[str], time: Tensor, where: str) -> None:
    length = pose[..., 3:].norm(dim=-1)
    wrong: Any = ((length - 1).abs() > UNIT_TOLERANCE).nonzero()
    if len(wrong):
        row, tool = (int(i) for i in wrong[0])
        got = f"length {float(length[row, tool]):.4g} of {names[tool]!r} at {float(time[row])} s"
        fix = "Write (w, x, y, z) and divide by its length"
        raise InputError(message(where, "unit quaternions", got, fix))
