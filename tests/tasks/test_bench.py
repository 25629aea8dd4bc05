"""`rheograd bench tasks`: equal cost, failures, interruption, what is written, and what is refused."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from rheograd.sim.core.errors import StateError
from rheograd.sim.io import load_checkpoint
from rheograd.tasks.cli import run
from rheograd.tasks.core import TASKS
from rheograd.tasks.optim import Attraction, Budget, make_optimizer, optimize
from rheograd.tasks.runs import bench as benchmark
from rheograd.tasks.runs.bench_config import BenchConfig
from rheograd.tasks.runs.bench_pictures import draw, text_rows
from rheograd.tasks.runs.configs import UsageError, load_toml, to_dict
from rheograd.tasks.runs.folder import Interrupted, RunFolder
from rheograd.viz import plot_searches, plot_table

sys.path.insert(0, str(Path(__file__).parent / "optim"))  # for worker processes, too
from toy_tasks import Cart, Tracking  # noqa: E402

pytest.importorskip("cma")
pytest.importorskip("stable_baselines3")


class Moody(Cart):
    """Fails as long as it likes."""

    well = False

    def loss(self, state, t):
        if not self.well:
            raise StateError("not today")
        return super().loss(state, t)


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    for cls in (Cart, Moody, Tracking):
        monkeypatch.setitem(TASKS, f"toy/{cls.__name__.lower()}", lambda cls=cls: cls)


@pytest.fixture
def no_pictures(monkeypatch):
    """Save their seconds where they are not looked at."""
    monkeypatch.setattr(benchmark, "draw", lambda rows, folder: None)


def started(path, **values):
    config = benchmark.checked(BenchConfig(**{"tasks": ("toy/cart",), "iterations": 12, **values}))
    return config, RunFolder(path, "bench tasks", to_dict(config))


def timeless(rows):
    return [{k: v for k, v in row.items() if k not in ("wall_s", "cpu_s")} for row in rows]


def stored(folder):
    return json.loads((folder.path / "table.json").read_text("utf-8"))["rows"]


def test_an_interrupted_table_equals_a_whole_one_bit_by_bit(tmp_path, no_pictures):
    whole = benchmark.bench(*started(tmp_path / "whole"))["rows"]
    config, folder = started(tmp_path / "part")

    def stop_at(method, iteration):
        def report(done, count, name, event):
            if f"/{method}-" in name and event.get("iteration") == iteration:
                raise KeyboardInterrupt

        return report

    for method, iteration in (("gradient", 3), ("gradient", 12), ("cma", 2), ("ppo", 1)):
        with pytest.raises(Interrupted, match=f"{method}-0.*bench tasks --resume {folder.path}"):
            benchmark.bench(config, folder, stop_at(method, iteration))
        folder = RunFolder.open(folder.path, "bench tasks")
    part = benchmark.bench(config, folder)["rows"]
    assert timeless(part) == timeless(whole) == timeless(stored(folder))
    for method in config.methods:
        files = [
            tmp_path / k / f"toy/cart/{method}-0/actions.safetensors" for k in ("whole", "part")
        ]
        a, b = (load_checkpoint(file).tensors["actions"] for file in files)
        assert torch.equal(a, b) and a.shape == (30, 1)
    sittings = [json.loads(line) for line in open(folder.path / "metrics.jsonl")]
    assert [s["ended"] for s in sittings] == ["stopped"] * 2 + ["done", "stopped"] * 2 + ["done"]
    for row in part:
        mine = [s["cpu_s"] for s in sittings if s["method"] == row["method"]]
        assert row["cpu_s"] == pytest.approx(sum(mine), abs=0.01) and row["wall_s"] > 0
    again = benchmark.bench(config, folder)["rows"]  # nothing left to do
    assert again == part
    shutil.rmtree(folder.path / "toy/cart/cma-0")
    again = benchmark.bench(config, folder)["rows"]
    assert timeless(again) == timeless(part) and again[::2] == part[::2]
    sittings = [json.loads(line) for line in open(folder.path / "metrics.jsonl")]
    assert [s["method"] for s in sittings[-2:]] == ["ppo", "cma"] and len(sittings) == 6


def test_rows_say_what_was_reached_at_equal_cost(tmp_path, no_pictures, monkeypatch):
    monkeypatch.setattr(Tracking, "search_defaults", {"gradient": {"expand": False, "lr": 0.1}})
    config, folder = started(tmp_path / "a", tasks=("toy/tracking",), methods=("gradient", "cma"))
    rows = benchmark.bench(config, folder)["rows"]
    first, second = rows
    task = Tracking()
    idle = float(task.total_loss(torch.zeros(25, 4)))
    assert first["do_nothing"]["loss"] == first["start"]["loss"] == pytest.approx(idle)
    # 12 rollouts of 25 steps, their adjoints at 2.5 times as much (rounded up), and the final one.
    assert first["simulator_steps"] == 12 * (25 + 63) + 25 and first["iterations"] == 12
    assert 0.5 * first["simulator_steps"] < second["simulator_steps"] <= first["simulator_steps"]
    assert second["stopped"] == "simulator_steps"
    for row in rows:
        actions = load_checkpoint(
            folder.path / "toy/tracking" / f"{row['method']}-0/actions.safetensors"
        ).tensors["actions"]
        assert row["loss"] == pytest.approx(float(task.total_loss(actions)))
        distance = float(task.metrics(task.rollout(actions).final)["distance"])
        assert row["metrics"] == {"distance": pytest.approx(distance)}
        assert row["success"] == (distance < 0.01)
        assert row["reduction"] == pytest.approx(1 - row["loss"] / idle)
        assert len(row["history"]) == row["iterations"]
    assert first["reduction"] > 0.5 and first["options"] == {"expand": False, "lr": 0.1}
    shared, folder = started(
        tmp_path / "b", tasks=("toy/tracking",), methods=("gradient", "cma"), workers=2
    )
    assert timeless(benchmark.bench(shared, folder)["rows"]) == timeless(rows)


def test_all_get_the_steps_that_are_given_and_random_methods_their_seeds(tmp_path, no_pictures):
    config, folder = started(
        tmp_path / "a", methods=("gradient", "cma"), simulator_steps=900, seeds=2
    )
    rows = benchmark.bench(config, folder)["rows"]
    assert [(r["method"], r["seed"]) for r in rows] == [("gradient", 0), ("cma", 0), ("cma", 1)]
    assert all(600 < r["simulator_steps"] <= 900 for r in rows)
    assert rows[1]["history"] != rows[2]["history"]


def test_a_cluster_gets_the_candidates(tmp_path, no_pictures, monkeypatch):
    """The wiring, with threads as the cluster; `optim/test_executors.py` uses a real one."""
    asked = []

    class Client(contextlib.nullcontext):
        def __init__(self, address, timeout):
            super().__init__(self)
            if "nowhere" in address:
                raise OSError("no answer")
            asked.append(address)

        def get_executor(self, pure):
            assert not pure
            pool = ThreadPoolExecutor(2)
            submit = pool.submit
            pool.submit = lambda *a: asked.append("candidates") or submit(*a)
            return pool

    monkeypatch.setitem(sys.modules, "distributed", types.SimpleNamespace(Client=Client))
    values = {"tasks": ("toy/tracking",), "methods": ("cma",), "iterations": 2}
    here = benchmark.bench(*started(tmp_path / "a", **values))["rows"]
    there = benchmark.bench(*started(tmp_path / "b", cluster="tcp://host:1", **values))["rows"]
    assert timeless(there) == timeless(here)
    assert asked[0] == "tcp://host:1" and asked.count("candidates") == 4
    with pytest.raises(UsageError, match="no answer.*dask scheduler"):
        benchmark.bench(*started(tmp_path / "c", cluster="tcp://nowhere:1", **values))


def test_failures_are_rows_and_are_tried_again(tmp_path, no_pictures, monkeypatch):
    tasks = ("toy/moody", "toy/tracking")
    config, folder = started(tmp_path / "a", tasks=tasks, methods=("gradient", "ppo"))
    rows = benchmark.bench(config, folder)["rows"]
    failed = {(r["task"], r["method"]): r.get("error", "") for r in rows}
    assert "StateError: not today" in failed["toy/moody", "gradient"]
    assert "gradient has used" in failed["toy/moody", "ppo"]
    assert failed["toy/tracking", "gradient"] == ""
    assert "NotImplementedError" in failed["toy/tracking", "ppo"]  # it has no observation
    texts = text_rows(rows)
    assert [t[3] for t in texts].count("failed") == 3 and any("not today" in t[6] for t in texts)
    assert draw(rows, tmp_path)[1].is_file()  # the table; there are curves of one task
    monkeypatch.setattr(Moody, "well", True)
    again = benchmark.bench(config, RunFolder.open(folder.path))["rows"]
    assert ["error" in r for r in again] == [False, False, False, True]
    assert again[2] == rows[2]  # what had succeeded is not run again


def test_a_task_of_particles_from_the_command_line(tmp_path, monkeypatch):
    """Folder, pictures, and the motion of a search afterwards."""
    from rheograd.tasks.fluid.gathering import GatheringNano, GatheringNanoConfig

    monkeypatch.setattr(GatheringNano, "horizon", 4)
    monkeypatch.setattr(
        GatheringNano, "search_defaults", {"cma": {"knots": 2, "population": 4}}, raising=False
    )
    folder = tmp_path / "run"
    words = ["bench", "tasks", "fluid/gathering-nano", "--methods", "gradient", "cma"]
    assert run([*words, "--iterations", "6", "--out", str(folder)]) == 0
    assert GatheringNanoConfig().horizon == 32
    assert load_toml(folder / "config.toml")["tasks"] == ["fluid/gathering-nano"]
    rows = json.loads((folder / "table.json").read_text("utf-8"))["rows"]
    assert not any("error" in r for r in rows) and rows[1]["options"] == {
        "knots": 2,
        "population": 4,
    }
    from PIL import Image

    for name in ("curves", "table"):
        assert min(Image.open(folder / f"{name}.png").size) > 200
        assert "</svg>" in (folder / f"{name}.svg").read_text("utf-8")
    cell = folder / "fluid/gathering-nano/gradient-0"
    assert not (cell / "rollout.h5").exists()
    assert run(["optimize", "--resume", str(cell)]) == 0
    from rheograd import RolloutReader

    with RolloutReader(cell / "rollout.h5") as reader:
        assert reader.n_frames == 5


def test_resuming_with_other_options_is_refused(tmp_path, no_pictures, capsys):
    config, folder = started(tmp_path / "a", methods=("gradient",))
    benchmark.bench(config, folder)
    for words in (["--seeds", "2"], ["--methods", "cma"], ["--iterations", "3"]):
        assert run(["bench", "tasks", "--resume", str(folder.path), *words]) == 2
        assert "another table" in capsys.readouterr().err
    assert run(["bench", "tasks", "toy/tracking", "--resume", str(folder.path)]) == 2
    assert run(["optimize", "--resume", str(folder.path)]) == 2
    assert "bench tasks" in capsys.readouterr().err
    assert run(["bench", "tasks", "--resume", str(folder.path), "--workers", "1"]) == 0
    assert "toy/cart" in capsys.readouterr().out
    assert run(["bench", "tasks", "--out", str(folder.path)]) == 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"tasks": ("toy/carts",)}, "Did you mean 'toy/cart'"),
        ({"methods": ("newton",)}, "newton"),
        ({"methods": ("cma", "cma")}, "each once"),
        ({"seeds": 0}, "seeds"),
        ({"simulator_steps": 0}, "simulator steps ≥ 1"),
        ({"device": "gpu"}, "--device cpu"),
    ],
)
def test_wrong_requests_name_the_remedy(values, expected):
    with pytest.raises(UsageError, match=expected):
        benchmark.checked(BenchConfig(**values))


def test_both_limits_are_refused_before_anything_is_made(tmp_path, capsys):
    words = ["bench", "tasks", "--iterations", "2", "--simulator-steps", "9", "--out"]
    assert run([*words, str(tmp_path / "a")]) == 2
    assert "Leave one out" in capsys.readouterr().err and not (tmp_path / "a").exists()


def test_settings_of_a_task_are_defaults_of_its_searches(monkeypatch):
    monkeypatch.setattr(Tracking, "search_defaults", {"gradient": {"lr": 0.07, "expand": False}})
    task = Tracking()
    assert make_optimizer(task).config.lr == 0.07 and not make_optimizer(task).config.expand
    assert make_optimizer(task, lr=0.3).config.lr == 0.3
    wrapped = Attraction(task, lambda s: s.x[:, None], lambda s: s.x)
    assert make_optimizer(wrapped).config.lr == 0.07
    other = make_optimizer(task, "gradient", config=make_optimizer(Cart()).config).config
    assert other.lr == 0.2 and other.expand  # a complete configuration is taken as it is
    found = optimize(task, budget=Budget(iterations=1))
    assert found.history[0].horizon == 25


def test_pictures_refuse_what_they_cannot_draw(tmp_path):
    with pytest.raises(ValueError, match="at least one search"):
        plot_searches({"a": []}, tmp_path / "a.png")
    with pytest.raises(ValueError, match="rows of 2 texts"):
        plot_table(["a", "b"], [["1"]], tmp_path / "a.png")
    assert not draw([], tmp_path)


def test_help_is_lazy():
    code = """
import sys
from rheograd.tasks.cli import run
assert run(["bench", "--help"]) == 0 and run(["bench", "tasks", "--help"]) == 0
print("HEAVY", [m for m in "torch numpy scipy h5py warp vtk matplotlib".split() if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout and "--simulator-steps" in done.stdout
