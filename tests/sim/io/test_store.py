"""Rollout store: what is written comes back, and the file says what it is."""

from __future__ import annotations

import json
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from rheograd.sim.io.store import Field, RolloutReader, RolloutWriter, StoreError, repair

B, N, T = 2, 40, 5
GROUPS = {"water": (0, 15), "jelly": (15, 40)}


def frames(dim, generator, dtype=torch.float32):
    def draw(*shape):
        return torch.rand(*shape, generator=generator, dtype=dtype)

    return [
        {
            "x": draw(B, N, dim),
            "C": draw(B, N, dim, dim),
            "F": draw(B, 25, 3, 3),
            "J": draw(B, 15),
        }
        for _ in range(T)
    ]


def writer(path, dim=3, **changes):
    options = {
        "n_trajectories": B,
        "particle_count": N,
        "fields": {
            "x": 1,
            "C": 2,
            "F": Field(2, groups=("jelly",)),
            "J": Field(0, groups=("water",)),
        },
        "dim": dim,
        "dt_frame": 0.01,
        "groups": GROUPS,
    }
    return RolloutWriter(path, **{**options, **changes})


def fill(path, dim, generator, **changes):
    data = frames(dim, generator)
    with writer(path, dim, **changes) as out:
        for t, frame in enumerate(data):
            out.append(0.01 * t, frame)
    return data


@pytest.mark.parametrize("dim", [2, 3])
def test_every_value_comes_back(tmp_path, generator, dim):
    data = fill(tmp_path / "r.h5", dim, generator, config={"E": 1e4, "name": "jelly"})
    with RolloutReader(tmp_path / "r.h5") as reader:
        assert (reader.n_frames, reader.n_trajectories, reader.particle_count) == (T, B, N)
        assert reader.dim == dim and reader.dt == 0.01 and reader.complete
        assert reader.groups == GROUPS and reader.config == {"E": 1e4, "name": "jelly"}
        np.testing.assert_array_equal(reader.times, [0.01 * t for t in range(T)])
        for t in range(T):
            for b in range(B):
                frame = reader.frame(t, b)
                assert list(frame) == ["x", "C", "F", "J"]
                for name, value in frame.items():
                    assert torch.equal(value, data[t][name][b])
        assert torch.equal(reader.particles("F"), torch.arange(15, 40))
        assert torch.equal(reader.particles("x"), torch.arange(N))
        group = reader.static()["group"]
        assert torch.equal(group, (torch.arange(N) >= 15).to(group.dtype))


def test_views_index_like_numpy(tmp_path, generator):
    data = fill(tmp_path / "r.h5", 3, generator)
    full = torch.stack([frame["x"] for frame in data], 1).numpy()
    with RolloutReader(tmp_path / "r.h5") as reader:
        x = reader["x"]
        assert x.shape == full.shape and x.dtype == np.float32 and len(x) == B
        assert (x.units, x.long_name) == ("m", "position")
        np.testing.assert_array_equal(np.asarray(x), full)
        for key in [1, (0, 2), (0, -1), (slice(None), slice(1, 99)), (..., 2), (0, ..., 1),
                    (1, slice(0, 5, 2), slice(3, 7)), (0, [0, 3]), (0, 1, [2, 5, 9]), ...]:
            np.testing.assert_array_equal(x[key], full[key])
        for key in [2, (0, T), (0, -T - 1), (0, [1, T]), (0, 0, 0, 0, 0)]:
            with pytest.raises(IndexError):
                x[key]
        with pytest.raises(KeyError, match="static"):
            reader["mass"]


def test_window_and_strided_window(tmp_path, generator):
    data = fill(tmp_path / "r.h5", 2, generator)
    with RolloutReader(tmp_path / "r.h5") as reader:
        window = reader.window(1, 1, 2, ["J", "x"], stride=2)
        assert list(window) == ["J", "x", "time"]
        expected = torch.stack([data[1]["x"][1], data[3]["x"][1]])
        assert torch.equal(window["x"], expected)
        assert window["time"].tolist() == [0.01, 0.03]
        for bad in [(0, 4, 2), (0, -1, 2), (0, 0, 0), (B, 0, 1)]:
            with pytest.raises(IndexError):
                reader.window(*bad)


def test_layout_follows_the_well(tmp_path, generator):
    fill(tmp_path / "r.h5", 2, generator, config={"E": 1e4, "steps": [1]},
         attributes={"license": "CC0"}, boundary_conditions={"floor": {"bc_type": "wall"}})
    with h5py.File(tmp_path / "r.h5") as file:
        assert file.attrs["dataset_name"] == "r" and file.attrs["grid_type"] == "particles"
        assert file.attrs["n_spatial_dims"] == 2 and file.attrs["n_trajectories"] == B
        assert list(file.attrs["simulation_parameters"]) == ["E"] and file.attrs["E"] == 1e4
        assert file.attrs["license"] == "CC0"
        assert json.loads(file.attrs["config"])["steps"] == [1]
        assert file["boundary_conditions/floor"].attrs["bc_type"] == "wall"
        assert list(file["dimensions"].attrs["spatial_dims"]) == ["particle"]
        assert file["dimensions/particle"][:].tolist() == list(range(N))
        assert file["dimensions/particle_F"][:].tolist() == [[15, 40]]
        assert list(file["t2_fields"].attrs["field_names"]) == ["C", "F"]
        assert list(file["t0_fields"].attrs["field_names"]) == ["J", "group"]
        assert file["t1_fields/x"].shape == (B, T, N, 2)
        assert file["t1_fields/x"].chunks == (1, 1, N, 2)
        assert file["t2_fields/F"].shape == (B, T, 25, 3, 3)
        for name in ("t1_fields/x", "t2_fields/F", "t0_fields/J"):
            attrs = file[name].attrs
            assert attrs["sample_varying"] and attrs["time_varying"]
            assert {"units", "long_name", "dim_varying", "axis"} <= set(attrs)
        assert not file["t0_fields/group"].attrs["time_varying"]


def test_tools_scalars_static_and_state_objects(tmp_path, generator):
    path = tmp_path / "r.h5"
    mass = torch.rand(B, N, generator=generator)
    pose = torch.rand(T, B, 2, 7, generator=generator)
    data = frames(3, generator)
    with writer(path, tool_count=2, scalars={"energy": "J", "loss": "1"},
                static={"mass": mass, "fixed": torch.arange(N) < 3}) as out:
        for t in range(T):
            state = SimpleNamespace(**data[t], tool_pose=pose[t], unrelated=None)
            out.append(t, state, scalars={"energy": torch.tensor([t, 2.0 * t]), "loss": -t})
    with RolloutReader(path) as reader:
        np.testing.assert_array_equal(np.asarray(reader.tool_pose), pose.transpose(0, 1).numpy())
        assert torch.equal(reader.frame(2, 1)["tool_pose"], pose[2, 1])
        assert reader.scalars["energy"][1].tolist() == [2.0 * t for t in range(T)]
        assert reader.scalars["loss"][:, 3].tolist() == [-3.0, -3.0]
        assert reader.scalars["energy"].units == "J"
        assert torch.equal(reader.static(1)["mass"], mass[1])
        assert reader.static()["fixed"].sum() == 3


def test_twists_of_rigid_bodies(tmp_path, generator):
    path = tmp_path / "r.h5"
    pose, twist = (torch.rand(T, B, k, n, generator=generator) for k, n in ((3, 7), (2, 6)))
    data = frames(3, generator)
    with writer(path, tool_count=3, bodies=[2, 0]) as out:
        for t in range(3):
            out.append(t, SimpleNamespace(**data[t], tool_pose=pose[t], body_twist=twist[t]))
        with pytest.raises(ValueError, match="body_twist of 2 bodies; got none"):
            out.append(3, data[3], tool_pose=pose[3])
        with pytest.raises(ValueError, match=r"body_twist of shape \(2, 2, 6\)"):
            out.append(3, data[3], tool_pose=pose[3], body_twist=twist[3, :, :1])
    with RolloutWriter.resume(path, keep=2) as out:
        for t in range(2, T):
            out.append(t, data[t], tool_pose=pose[t], body_twist=twist[t])
    with RolloutReader(path) as reader:
        assert reader.layout.bodies == (2, 0) and reader.body_twist.units == "m/s, rad/s"
        np.testing.assert_array_equal(np.asarray(reader.body_twist), twist.transpose(0, 1).numpy())
        assert torch.equal(reader.frame(2, 1)["body_twist"], twist[2, 1])
        assert set(reader.window(0, 1, 2, ["x", "body_twist"])) == {"x", "body_twist", "time"}
        assert "body_twist" not in reader.frame(0, fields=["x"])
    with pytest.raises(ValueError, match="bodies among the 1 tools"):
        writer(tmp_path / "no.h5", tool_count=1, bodies=[1])
    fill(tmp_path / "none.h5", 3, generator)
    with RolloutReader(tmp_path / "none.h5") as reader:
        assert reader.body_twist is None and reader.layout.bodies == ()
        with pytest.raises(KeyError, match="body_twist"):
            reader.frame(0, fields=["body_twist"])


def test_explicit_particles_precision_and_compression(tmp_path, generator):
    path = tmp_path / "r.h5"
    rows = [7, 3, 4, 5, 30]
    x = torch.rand(1, N, 3, generator=generator, dtype=torch.float64)
    with writer(path, n_trajectories=1, fields={"x": 1, "alpha": Field(0, particles=rows)},
                dtype=torch.float64, compression=4) as out:
        out.append(0.0, {"x": x, "alpha": torch.arange(5.0)[None]})
    with RolloutReader(path) as reader:
        assert reader.particles("alpha").tolist() == rows
        assert torch.equal(reader.frame(0)["x"], x[0])
        assert reader.frame(0)["x"].dtype == torch.float64
    with h5py.File(path) as file:
        assert file["t1_fields/x"].compression == "gzip"


def test_nan_is_stored_as_given(tmp_path):
    x = torch.zeros(1, N, 3)
    x[0, 4] = float("nan")
    with writer(tmp_path / "r.h5", n_trajectories=1, fields={"x": 1}) as out:
        out.append(0.0, {"x": x})
    with RolloutReader(tmp_path / "r.h5") as reader:
        assert torch.equal(reader.frame(0)["x"].isnan(), x[0].isnan())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dim": 4}, "dim 2 or 3"),
        ({"particle_count": 0}, "particle_count >= 1"),
        ({"dt_frame": 0.0}, "dt_frame > 0 s"),
        ({"dtype": torch.float16}, "float32 or float64"),
        ({"fields": {"v": 1}}, "positions 'x'"),
        ({"fields": {"x": 2}}, "vector field"),
        ({"fields": {"x": 1, "a/b": 0}}, "without '/'"),
        ({"fields": {"x": 1, "F": Field(2, groups=("sand",))}}, "Declare them"),
        ({"fields": {"x": 1, "F": Field(2, groups=())}}, "Leave the field out"),
        ({"fields": {"x": 1, "F": Field(0, particles=[N])}}, "particle indices"),
        ({"fields": {"x": 3}}, "tensor order"),
        ({"fields": {"x": 1, "F": Field(2, particles=[1], shown=True)}}, "Drop shown"),
        ({"groups": {"water": (10, 10)}}, "half-open"),
        ({"static": {"mass": torch.ones(N + 1)}}, "static field 'mass'"),
        ({"static": {"x": torch.ones(N)}}, "not among fields"),
        ({"config": {"a": torch.ones(1)}}, "JSON"),
        ({"attributes": {"grid_type": "mesh"}}, "Rename"),
    ],
)
def test_wrong_declarations_leave_no_file(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        writer(tmp_path / "r.h5", **changes)
    assert list(tmp_path.iterdir()) == []


def test_wrong_frames_are_refused_and_the_next_right_one_is_kept(tmp_path, generator):
    data = frames(3, generator)
    with writer(tmp_path / "r.h5", scalars=("loss",)) as out:
        good = {"scalars": {"loss": 0.0}}
        out.append(0.0, data[0], **good)
        with pytest.raises(ValueError, match="order of time"):
            out.append(0.0, data[1], **good)
        with pytest.raises(ValueError, match="order of time"):
            out.append(float("nan"), data[1], **good)
        with pytest.raises(ValueError, match=r"field 'x' of shape \(2, 40, 3\); got \(1, 40, 3\)"):
            out.append(1.0, {**data[1], "x": data[1]["x"][:1]}, **good)
        with pytest.raises(ValueError, match=r"got also \['v'\]"):
            out.append(1.0, {**data[1], "v": data[1]["x"]}, **good)
        with pytest.raises(ValueError, match=r"got none of \['F'\]"):
            out.append(1.0, {k: v for k, v in data[1].items() if k != "F"}, **good)
        with pytest.raises(ValueError, match="scalars"):
            out.append(1.0, data[1])
        with pytest.raises(ValueError, match="tools"):
            out.append(1.0, data[1], tool_pose=torch.zeros(B, 1, 7), **good)
        out.append(1.0, data[1], **good)
    with pytest.raises(StoreError, match="resume"):
        out.append(2.0, data[2], **good)
    with RolloutReader(tmp_path / "r.h5") as reader:
        assert reader.n_frames == 2
        assert torch.equal(reader.frame(1)["F"], data[1]["F"][0])


def test_existing_file_needs_overwrite_and_survives_a_failed_one(tmp_path, generator):
    path = tmp_path / "r.h5"
    fill(path, 3, generator)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        writer(path)
    with pytest.raises(ValueError, match="JSON"):
        writer(path, overwrite=True, config={"a": object()})
    with RolloutReader(path) as reader:
        assert reader.n_frames == T
    writer(path, overwrite=True).close()
    with RolloutReader(path) as reader:
        assert reader.n_frames == 0 and reader["x"].shape == (B, 0, N, 3)
    assert list(tmp_path.iterdir()) == [path]


def test_resume_continues_and_checks(tmp_path, generator):
    path = tmp_path / "r.h5"
    data = fill(path, 3, generator)
    for wrong in ({"particle_count": 3}, {"dim": 2}, {"fields": ["x"]}, {"n_trajectories": 1}):
        with pytest.raises(ValueError, match="same scene"):
            RolloutWriter.resume(path, **wrong)
    with RolloutWriter.resume(path, particle_count=N, fields=list(data[0])) as out:
        assert out.n_frames == T
        with pytest.raises(ValueError, match="order of time"):
            out.append(0.01, data[0])
        out.append(1.0, data[0])
    with RolloutReader(path) as reader:
        assert reader.n_frames == T + 1 and reader.complete
        assert torch.equal(reader.frame(T)["x"], data[0]["x"][0])
        assert torch.equal(reader.frame(T - 1)["x"], data[-1]["x"][0])
    assert repair(path) == T + 1
    with RolloutWriter.resume(path, keep=2) as out:
        assert out.n_frames == 2
        out.append(0.015, data[4])
    with RolloutReader(path) as reader:
        assert reader.times.tolist() == [0.0, 0.01, 0.015]
        assert torch.equal(reader.frame(2)["x"], data[4]["x"][0])
    with pytest.raises(ValueError, match="keep >= 0"):
        RolloutWriter.resume(path, keep=-1)


def test_reader_follows_a_growing_file(tmp_path, generator):
    data = frames(3, generator)
    with writer(tmp_path / "r.h5") as out, RolloutReader(tmp_path / "r.h5") as reader:
        assert reader.n_frames == 0 and not reader.complete
        for t in range(3):
            out.append(t, data[t])
            assert reader.refresh() == t + 1
            assert torch.equal(reader.frame(-1, 1)["C"], data[t]["C"][1])
