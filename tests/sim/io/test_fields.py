"""Files of fields: what The Well's readers look for, round trips, what is refused."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from rheograd.sim.core.errors import InputError
from rheograd.sim.io import FieldFile, StoreError, load_fields, open_fields, write_fields

B, T, CELLS = 2, 3, (4, 5)


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def parts():
    return {
        "fields": {"u": draw(B, T, 1, *CELLS), "velocity": draw(B, T, 2, *CELLS)},
        "constant": {"a": draw(B, 1, *CELLS)},
        "times": [0.0, 0.1, 0.2],
        "coordinates": {"x": torch.arange(4) + 0.5, "z": torch.arange(5) + 0.5},
        "scalars": {"seed": torch.tensor([5, 6])},
        "sides": {"z-": "1 u = 0", "z+": "1 u = 1"},
        "config": {"viscosity": 0.1, "equation": "NavierStokes2D"},
    }


def test_what_goes_in_comes_out(tmp_path):
    given = parts()
    write_fields(tmp_path / "f.h5", **given)
    file = FieldFile(tmp_path / "f.h5")
    for name, value in {**given["fields"], **given["constant"]}.items():
        assert torch.equal(file.read(name), value)
    assert torch.equal(file.read("velocity", slice(1, 2), slice(0, 2)),
                       given["fields"]["velocity"][1:2, :2])  # fmt: skip
    assert file.read("a", slice(0, 1)).shape == (1, 1, *CELLS)
    assert sorted(file.names) == ["a", "u", "velocity"] and file.n_trajectories == B
    assert file.times.tolist() == given["times"] and file.scalars["seed"].tolist() == [5, 6]
    assert list(file.coordinates) == ["x", "z"] and file.config == given["config"]
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]


def test_the_file_is_in_the_layout_of_the_well(tmp_path):
    write_fields(tmp_path / "f.h5", **parts(), dataset_name="flow")
    with h5py.File(tmp_path / "f.h5") as file:
        head = dict(file.attrs)
        assert (head["dataset_name"], head["grid_type"]) == ("flow", "cartesian")
        assert (head["n_spatial_dims"], head["n_trajectories"]) == (2, B)
        assert list(head["simulation_parameters"]) == ["viscosity"] and head["viscosity"] == 0.1
        assert list(file["dimensions"].attrs["spatial_dims"]) == ["x", "z"]
        assert list(file["t0_fields"].attrs["field_names"]) == ["u", "a"]
        assert list(file["t1_fields"].attrs["field_names"]) == ["velocity"]
        assert list(file["t2_fields"].attrs["field_names"]) == []
        assert file["t0_fields/u"].shape == (B, T, *CELLS)
        assert file["t1_fields/velocity"].shape == (B, T, *CELLS, 2)
        assert file["t0_fields/a"].shape == (B, *CELLS)
        for name, varies in (("t0_fields/u", True), ("t0_fields/a", False)):
            attrs = file[name].attrs
            assert attrs["time_varying"] == varies and attrs["sample_varying"]
            assert list(attrs["dim_varying"]) == [True, True]
        walls = file["boundary_conditions"]
        kinds = {k: walls[k].attrs["bc_type"] for k in walls}
        assert kinds == {"x_periodic": "PERIODIC", "z_lower": "WALL", "z_upper": "WALL"}
        assert walls["z_lower/mask"][:].tolist() == [True] + 4 * [False]
        assert walls["x_periodic/mask"][:].tolist() == [True, False, False, True]
        assert list(walls["z_upper"].attrs["associated_dims"]) == ["z"]
        # channels are components, in the order of the axes
        np.testing.assert_array_equal(
            file["t1_fields/velocity"][1, 2, ..., 0], parts()["fields"]["velocity"][1, 2, 0]
        )


def test_sides_have_types_and_fields_units(tmp_path):
    sides = {"x-": ("OPEN", "inflow"), "x+": "u = 0", "z-": ("PERIODIC", "periodic")}
    write_fields(tmp_path / "f.h5", **parts() | {"sides": sides, "units": {"u": "m"}})
    with h5py.File(tmp_path / "f.h5") as file:
        walls = file["boundary_conditions"]
        kinds = {k: (v.attrs["bc_type"], v.attrs["condition"]) for k, v in walls.items()}
        assert file["t0_fields/u"].attrs["units"] == "m"
    assert kinds == {
        "x_lower": ("OPEN", "inflow"), "x_upper": ("WALL", "u = 0"),
        "z_periodic": ("PERIODIC", "periodic"),
    }  # fmt: skip
    data = open_fields(tmp_path / "f.h5")
    assert (data.units("u"), data.units("velocity")) == ("m", "")
    assert data.sides == {"x-": "inflow", "x+": "u = 0", "z-": "periodic", "z+": "periodic"}
    for wrong in ({"y-": "wall"}, {"x-": ("DOOR", "shut")}):
        with pytest.raises(InputError, match="sides out of .* or a type out of"):
            write_fields(tmp_path / "g.h5", **parts() | {"sides": wrong})


def test_what_is_refused(tmp_path):
    given = parts()
    with pytest.raises(InputError, match="finite u"):
        write_fields(tmp_path / "f.h5", **given | {"fields": {"u": draw(B, T, 1, *CELLS) / 0}})
    with pytest.raises(InputError, match="Store each channel by name"):
        write_fields(tmp_path / "f.h5", **given | {"fields": {"u": draw(B, T, 3, *CELLS)}})
    with pytest.raises(InputError, match="one number of trajectories"):
        write_fields(tmp_path / "f.h5", **given | {"constant": {"a": draw(1, 1, *CELLS)}})
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="a file of fields"):
        FieldFile(tmp_path / "file")
    with pytest.raises(StoreError, match="writable disk"):
        write_fields(tmp_path / "file" / "f.h5", **given)
    write_fields(tmp_path / "f.h5", **given)
    with pytest.raises(InputError, match="a field out of"):
        FieldFile(tmp_path / "f.h5").read("p")
    with pytest.raises(InputError, match="metadata.json"):
        load_fields(tmp_path, ["u"])
