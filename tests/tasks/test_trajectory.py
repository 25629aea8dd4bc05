"""Record, export, import, replay: tool motions of tasks, runs and scenes give the same states again."""

from __future__ import annotations

import json

import pytest
import torch
from rheograd.sim.core.errors import InputError
from rheograd.sim.io import (
    RolloutReader,
    ToolTrajectory,
    read_trajectory,
    resample,
    write_trajectory,
)
from rheograd.tasks.cli import run
from rheograd.tasks.core import task_by_name
from rheograd.tasks.runs import building, configs, scenes, simulation
from rheograd.tasks.runs.configs import UsageError
from rheograd.tasks.runs.folder import RunFolder
from rheograd.tasks.trajectory import replay, stored_trajectory, tool_trajectory

TASKS = {
    "fluid/latte-art-nano": {"jug"},  # a jet on the tool
    "fluid/transporting-nano": {"nozzle"},  # slides and turns; a rigid body
    "fluid/pouring-nano": {"glass"},  # 2-D, turns
    "fluid/gathering-easy-nano": {"plate"},  # cycles that read the state
    "fluid/circulation-nano": {"fan"},  # gas
}


def some_actions(task, count=10):
    generator = torch.Generator().manual_seed(3)
    unit = 2 * torch.rand(count, task.action_size, generator=generator) - 1
    return 0.3 * unit * task.action_limit


@pytest.fixture(scope="module", params=sorted(TASKS))
def recorded(request):
    task = task_by_name(request.param)
    actions = some_actions(task)
    with torch.no_grad():
        run_ = task.rollout(actions)
    assert set(tool_trajectory(task, run_, actions).names) == TASKS[request.param]  # what moves
    return task, actions, run_


def assert_same(first, second):
    for a, b in zip(first.states, second.states, strict=True):
        for name, value in a.tensors().items():
            assert torch.equal(b.tensors()[name], value), name


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_record_export_import_replay_gives_the_same_states(recorded, kind, tmp_path):
    task, actions, first = recorded
    motion = tool_trajectory(task, first, actions)
    assert motion.steps == len(actions) and motion.gap() < 1e-6
    file = write_trajectory(motion, tmp_path / f"tool.{kind}")
    with torch.no_grad():
        assert_same(first, replay(task, read_trajectory(file)))


def test_poses_alone_give_the_same_states_up_to_rounding(recorded):
    """Differences of float32 poses carry a rounding of 6e-8 per step, which the flow spreads."""
    task, _, first = recorded
    with torch.no_grad():
        again = replay(task, tool_trajectory(task, first))
    names = ("x", "tool_pose", "nozzle_pose", "temperature")
    a, b = (r.final.tensors() for r in (first, again))
    for name in [n for n in names if n in a]:
        scale = float(a[name].abs().max())
        assert float((a[name] - b[name]).abs().max()) < 1e-5 * scale, name


def test_another_time_step_follows_the_same_way(recorded):
    task, actions, first = recorded
    motion = tool_trajectory(task, first, actions)
    fine = resample(motion, task.solver.step_time / 4)
    with torch.no_grad():
        again = replay(task, fine)
        poses = tool_trajectory(task, again, tools=motion.names).pose
    torch.testing.assert_close(poses, motion.pose, rtol=0, atol=1e-6)


def test_what_cannot_be_driven_says_so():
    task = task_by_name("fluid/transporting-nano")
    actions = some_actions(task, 2)
    with torch.no_grad():
        first = task.rollout(actions)
    motion = tool_trajectory(task, first, actions)
    for name in ("cube", "spoon"):
        other = ToolTrajectory(motion.time, (name,), motion.pose, motion.twist)
        with pytest.raises(InputError, match=f"driven tools out of .*nozzle.*got .*{name}"):
            replay(task, other)
    with pytest.raises(InputError, match="save_every=1"):
        tool_trajectory(task, task.rollout(actions, save_every=2), actions)
    flat = task_by_name("fluid/pouring-nano")
    still = flat.rollout(0 * some_actions(flat, 2))
    tilted = tool_trajectory(flat, still, tools=["glass"])
    tilted.pose[..., 1] = 0.1
    with pytest.raises(InputError, match="plane y = 0"):
        replay(flat, tilted)


def test_contradicting_twists_give_way_to_poses():
    task = task_by_name("fluid/transporting-nano")
    actions = some_actions(task, 3)
    with torch.no_grad():
        motion = tool_trajectory(task, task.rollout(actions), actions)
        wrong = ToolTrajectory(motion.time, motion.names, motion.pose, 0 * motion.twist)
        found = tool_trajectory(task, replay(task, wrong), tools=motion.names)
    torch.testing.assert_close(found.pose, motion.pose, rtol=0, atol=1e-6)


def test_a_run_goes_to_a_file_and_back(tmp_path, capsys):
    """optimize → export → replay on the command line: the same particles as the run's own."""
    folder, table, again = (str(tmp_path / n) for n in ("run", "tool.csv", "again"))
    optimize = [
        "optimize",
        "fluid/transporting-nano",
        "--method",
        "random",
        "--iterations",
        "1",
        "--out",
        folder,
    ]
    assert run([*optimize, "--task.horizon", "6", "--optimizer.knots", "3"]) == 0
    assert run(["export", folder, "--out", table]) == 0
    assert run(["replay", table, folder, "--out", again]) == 0
    assert "solved" in capsys.readouterr().out
    with RolloutReader(f"{folder}/rollout.h5") as a, RolloutReader(f"{again}/rollout.h5") as b:
        assert a.n_frames == b.n_frames == 7 and a.layout.bodies == b.layout.bodies == (1,)
        assert abs(a["x"][:] - b["x"][:]).max() < 1e-5
        assert set(stored_trajectory(a, tools=["cube"]).names) == {"cube"}
    fast = str(tmp_path / "fast.json")
    assert run(["export", folder, "--out", fast, "--rate", "500", "--tools", "nozzle", "cube"]) == 0
    data = json.loads((tmp_path / "fast.json").read_text())
    assert list(data["tools"]) == ["nozzle", "cube"] and data["time"][1] == 0.002
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "nowhere"], ["holds no rollout.h5"]),
        (["export", "nowhere", "--out", "a.txt"], [".csv or .json"]),
        (["export", "nowhere", "--rate", "-1"], ["--rate > 0"]),
        (["replay", "none.csv", "fluid/pouring-nano"], ["none.csv", "existing file"]),
    ],
)
def test_wrong_requests_are_one_line(arguments, words, capsys):
    assert run(arguments) == 2
    text = capsys.readouterr().err
    assert all(word in text for word in words) and text.count("\n") == 1


def test_gas_is_run_again_to_be_exported(tmp_path, capsys):
    folder = str(tmp_path / "run")
    optimize = [
        "optimize",
        "fluid/circulation-nano",
        "--method",
        "random",
        "--iterations",
        "1",
        "--out",
        folder,
    ]
    assert run([*optimize, "--task.horizon", "5", "--optimizer.knots", "3"]) == 0
    assert run(["export", folder]) == 0
    motion = read_trajectory(tmp_path / "run/tool.csv")
    assert motion.names == ("fan",) and motion.steps == 5
    assert (
        run(["replay", str(tmp_path / "run/tool.csv"), folder, "--out", str(tmp_path / "b")]) == 0
    )
    capsys.readouterr()


SMALL = {"resolution": 12, "particles_per_cell": 1.0, "duration": 0.2}


def scene(name, **changes):
    data = configs.merge(scenes.scene_defaults(name, 2), SMALL, changes)
    return building.build(configs.from_dict(scenes.SimulateConfig, data))


def test_a_stored_frame_continues_exactly(tmp_path):
    """With a rigid body: its twist is in the file, so frame 2 leads to the same last frame."""
    made = scene("raft", fields=["x", "v", "C", "J"])
    folder = RunFolder(tmp_path / "raft", "simulate", configs.to_dict(made.config))
    simulation.simulate(made, folder)
    with RolloutReader(folder.rollout) as reader:
        assert reader.layout.bodies == (0,)
        state = simulation.stored_state(made, reader, 2)
        for _ in range(2, reader.n_frames - 1):
            state = made.solver.step(state, made.control(state))
        last = simulation.stored_state(made, reader, -1)
    assert state.substep == last.substep
    for name, value in last.tensors().items():
        assert torch.equal(state.tensors()[name], value), name


def test_a_frame_without_everything_is_refused(tmp_path):
    made = scene("raft")
    folder = RunFolder(tmp_path / "raft", "simulate", configs.to_dict(made.config))
    simulation.simulate(made, folder)
    with (
        RolloutReader(folder.rollout) as reader,
        pytest.raises(UsageError, match="--fields x v C J"),
    ):
        simulation.stored_state(made, reader, 2)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_raft_floats(dim):
    """A block of 0.6 of the density of water sinks 0.6 of its height in, give or take the waves."""
    data = configs.merge(scenes.scene_defaults("raft", dim), {"resolution": 20})
    made = building.build(configs.from_dict(scenes.SimulateConfig, data))
    body = made.solver.model.colliders[0]
    assert body.rho == 600.0 and made.solver.model.bodies.index == [0]
    state = made.state
    with torch.no_grad():
        for _ in range(12 if dim == 3 else 40):
            state = made.solver.step(state, made.control(state))
    height = float(state.tool_pose[0, 0, 2])
    assert 0.2 < height < 0.45  # neither on the floor (0.06) nor where it began (0.5)


def test_a_tool_of_a_scene_follows_a_file(tmp_path):
    step = 1 / 25
    t = step * torch.arange(4, dtype=torch.float64)
    pose = torch.zeros(4, 1, 7, dtype=torch.float64)
    pose[..., 3] = 1
    pose[:, 0, 0], pose[:, 0, 2] = 0.5 + 2 * t, 0.5
    motion = ToolTrajectory(t, ("hand",), pose, torch.zeros(3, 1, 6))
    file = str(write_trajectory(motion, tmp_path / "hand.csv"))
    tools = {"ball": {"shape": "sphere", "size": [0.05], "path": file}}
    made = scene("dam-break", tools=tools)
    state = made.state
    assert state.tool_pose[0, 1, :3].tolist() == [0.5, 0.0, 0.5]
    with torch.no_grad():
        for _ in range(5):  # longer than the motion
            state = made.solver.step(state, made.control(state))
    assert float(state.tool_pose[0, 1, 0]) == pytest.approx(0.5 + 2 * 3 * step, abs=1e-6)
    with pytest.raises(UsageError, match="got also .'velocity'"):
        scene("dam-break", tools={"ball": {**tools["ball"], "velocity": [1.0, 0.0]}})
    with pytest.raises(UsageError, match="rigid body without start, stop and path"):
        scene("dam-break", tools={"ball": {**tools["ball"], "rho": 500.0}})
    with pytest.raises(UsageError, match="rigid body without start, stop and path"):
        scene("raft", tools={"raft": {"stop": 0.1}})
    pose[..., 1] = 0.2
    write_trajectory(ToolTrajectory(t, ("hand",), pose, motion.twist), file)
    with pytest.raises(UsageError, match="plane y = 0"):
        scene("dam-break", tools=tools)
