"""Tool trajectories: files come back as they were, other steps give the same motion; bad files."""

from __future__ import annotations

import json
import math

import pytest
import torch
from rheograd.sim.core.errors import InputError
from rheograd.sim.core.poses import integrate_pose, twists_from_poses
from rheograd.sim.core.rotations import from_rotation_vector
from rheograd.sim.io import ToolTrajectory, read_trajectory, resample, write_trajectory

F64 = torch.float64


def driven(generator, dtype=torch.float32, steps=12, dt=0.025, names=("jug", "cup, left")):
    """A motion as the simulator makes it: twists held over steps, poses integrated."""
    twist = torch.randn(steps, len(names), 6, generator=generator, dtype=dtype)
    pose = torch.tensor([[0.1, 0.2, 0.3, 1.0, 0, 0, 0]], dtype=dtype).repeat(len(names), 1)
    poses = [pose]
    for v in twist:
        poses.append(integrate_pose(poses[-1], v, dt, 1)[-1])
    return ToolTrajectory(dt * torch.arange(steps + 1, dtype=F64), names, torch.stack(poses), twist)


def smooth(step: float, duration: float = 1.2) -> tuple[torch.Tensor, torch.Tensor]:
    """Poses and velocities at steps of a motion with known velocity: a circle, turning about y."""
    t = step * torch.arange(round(duration / step) + 1, dtype=F64)
    angle = t + 0.3 * torch.sin(2 * t)
    turn = from_rotation_vector(torch.stack((0 * t, angle, 0 * t), -1))
    pose = torch.cat((torch.stack((t.cos(), t.sin(), t.square()), -1), turn), -1)[:, None]
    return t, pose


def velocity(t: torch.Tensor) -> torch.Tensor:
    zero = torch.zeros_like(t)
    rate = 1 + 0.6 * torch.cos(2 * t)
    return torch.stack((-t.sin(), t.cos(), 2 * t, zero, rate, zero), -1)[:, None]


@pytest.mark.parametrize("kind", ["csv", "json"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_file_comes_back_bit_by_bit(tmp_path, generator, kind, dtype):
    motion = driven(generator, dtype)
    again = read_trajectory(write_trajectory(motion, tmp_path / f"tool.{kind}"))
    assert again.names == motion.names
    for field in ("pose", "twist"):
        assert torch.equal(getattr(again, field).to(dtype), getattr(motion, field).to(dtype))
    torch.testing.assert_close(again.time, motion.time, rtol=1e-11, atol=0)


def test_the_table_says_what_the_columns_are(tmp_path, generator):
    motion = driven(generator, steps=3)
    lines = write_trajectory(motion, tmp_path / "tool.csv").read_text().splitlines()
    assert lines[0] == "tool,time,x,y,z,qw,qx,qy,qz,vx,vy,vz,wx,wy,wz"
    assert len(lines) == 1 + 2 * 4
    assert lines[4].endswith(",0,0,0,0,0,0")  # the motion has ended
    data = json.loads(write_trajectory(motion, tmp_path / "tool.json").read_text())
    assert data["units"]["position"] == "m" and len(data["tools"]["jug"]["quaternion"][0]) == 4


def test_twists_of_the_simulator_carry_each_pose_into_the_next(generator):
    assert driven(generator, F64).gap() < 1e-14
    assert driven(generator, torch.float32).gap() < 1e-6
    other = driven(generator, F64)
    assert ToolTrajectory(other.time, other.names, other.pose, 1.1 * other.twist).gap() > 1e-3


@pytest.mark.parametrize("parts", [2, 5])
def test_finer_steps_are_exact(generator, parts):
    motion = driven(generator, F64)
    fine = resample(motion, 0.025 / parts)
    assert fine.steps == parts * motion.steps
    torch.testing.assert_close(fine.pose[::parts], motion.pose, rtol=0, atol=1e-13)
    torch.testing.assert_close(
        fine.twist, motion.twist.repeat_interleave(parts, 0), rtol=0, atol=1e-10
    )
    back = resample(fine, 0.025)
    torch.testing.assert_close(back.twist, motion.twist, rtol=0, atol=1e-11)


def test_another_step_reaches_the_end_and_stays_there(generator):
    motion = driven(generator, F64)  # 0.3 s
    other = resample(motion, 0.07)
    assert other.steps == 5 and other.gap() < 1e-14
    torch.testing.assert_close(other.pose[-1].abs(), motion.pose[-1].abs(), rtol=0, atol=1e-13)
    lengths = other.pose[..., 3:].norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=1e-13)


def test_errors_of_interpolation_are_of_the_order_of_the_step():
    """Poses between samples: O(h²). Twists: O(h²) in the middle of the sampled steps, else O(h)."""
    errors = []
    for step in (0.1, 0.05, 0.025, 0.0125):
        t, pose = smooth(step)
        motion = ToolTrajectory(t, ("rod",), pose, twists_from_poses(pose, step))
        middle = (motion.twist - velocity(t[:-1] + 0.5 * step)).abs().max()
        other = resample(motion, step / 3)
        exact = smooth(step / 3)[1]
        sign = (other.pose[..., 3:] * exact[..., 3:]).sum(-1, keepdim=True).sign()
        at = torch.cat((other.pose[..., :3], sign * other.pose[..., 3:]), -1)
        place = (at - exact).abs().max()
        anywhere = (other.twist - velocity(other.time[:-1])).abs().max()
        errors.append([float(middle), float(place), float(anywhere)])
    slopes = (torch.tensor(errors)[:-1] / torch.tensor(errors)[1:]).log2().mean(0)
    torch.testing.assert_close(slopes, torch.tensor([2.0, 2.0, 1.0]), rtol=0, atol=0.1)


GOOD = "tool,time,x,y,z,qw,qx,qy,qz\nrod,0,0,0,0,1,0,0,0\nrod,0.1,0.01,0,0,1,0,0,0\n"


def test_a_log_of_poses_is_enough(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text(
        "force,time, qw,qx,qy,qz,x,y,z,tool\n9,0,1,0,0,0,0,0,0,rod\n\n8,0.1,1,0,0,0,0.01,0,0,rod\n"
    )
    motion = read_trajectory(file)
    assert motion.twist[0, 0].tolist() == pytest.approx([0.1, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("qz", "q3"), ["no ['qz']", "first line"]),
        (("qz\n", "qz,vx\n"), ["no ['vy', 'vz', 'wx', 'wy', 'wz']"]),
        (("0.1,", "0,"), ["times that grow", "0.0 s after 0.0 s"]),
        (("0.1,", "-0.1,"), ["times that grow", "-0.1 s after 0.0 s"]),
        (("1,0,0,0\nrod,0.1", "0.5,0,0,0\nrod,0.1"), ["unit quaternions", "0.5 of 'rod' at 0.0 s"]),
        (("0.01", "nan"), ["finite numbers of 'rod'", "x = nan in row 2"]),
        (("0.1,", "inf,"), ["finite numbers of 'rod'", "time = inf in row 2"]),
        (("0.01", "left"), ["line 3", "'rod,0.1,left"]),
        (("rod,0.1,0.01,0,0,1,0,0,0", "rod,0.1,0.01"), ["line 3"]),
        (("rod,0.1,0.01,0,0,1,0,0,0\n", ""), ["two rows or more of 'rod'", "got 1"]),
        (("rod,0.1", "cup,0.1"), ["two rows or more of 'rod'"]),
        ((GOOD, ""), ["columns of a tool trajectory"]),
        ((GOOD.split("\n", 1)[1], ""), ["at least one tool"]),
    ],
)  # fmt: skip
def test_bad_tables_get_one_clear_error(tmp_path, change, words):
    file = tmp_path / "bad.csv"
    assert change[0] in GOOD
    file.write_text(GOOD.replace(*change))
    with pytest.raises(InputError) as error:
        read_trajectory(file)
    assert all(word in str(error.value) for word in [str(file), *words]), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("{", "["), ["in JSON"]),
        (('"position"', '"place"'), ["no 'position'"]),
        (('"time"', '"t"'), ["no 'time'"]),
        (("[0.0, 0.1]", "[0.0, 0.1, 0.2]"), ["in JSON"]),
        (("[0.01, 0, 0]", "[0.01, 0]"), ["in JSON"]),
        (("[0.01, 0, 0]", "[NaN, 0, 0]"), ["finite numbers", "x = nan"]),
    ],
)  # fmt: skip
def test_bad_json_gets_one_clear_error(tmp_path, change, words):
    good = (
        '{"time": [0.0, 0.1], "tools": {"rod": {"position": [[0, 0, 0], [0.01, 0, 0]], '
        '"quaternion": [[1, 0, 0, 0], [1, 0, 0, 0]]}}}'
    )
    file = tmp_path / "motion.json"
    file.write_text(good)
    assert read_trajectory(file).steps == 1
    assert change[0] in good
    file.write_text(good.replace(*change))
    with pytest.raises(InputError) as error:
        read_trajectory(file)
    assert all(word in str(error.value) for word in [str(file), *words]), str(error.value)


def test_tools_with_other_times_and_wrong_names(tmp_path, generator):
    file = tmp_path / "two.csv"
    file.write_text(GOOD + "cup,0,0,0,0,1,0,0,0\ncup,0.2,0,0,0,1,0,0,0\n")
    with pytest.raises(InputError, match="same times for all tools; got others of 'cup'"):
        read_trajectory(file)
    motion = driven(generator)
    assert motion.of("cup, left").names == ("cup, left",)
    with pytest.raises(InputError, match="jug"):
        motion.of("mug")
    with pytest.raises(InputError, match="csv or .json"):
        write_trajectory(motion, tmp_path / "tool.txt")
    with pytest.raises(FileNotFoundError, match="none.csv"):
        read_trajectory(tmp_path / "none.csv")
    for step in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="step > 0"):
            resample(motion, step)
    with pytest.raises(InputError, match="K names"):
        ToolTrajectory(motion.time, ("jug",), motion.pose, motion.twist)
