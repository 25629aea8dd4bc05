"""Rollout files outlive kills, full disks and cuts, and say what to do about damage."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from rheograd.sim.io.store import RolloutReader, RolloutWriter, StoreError, repair
from rheograd.sim.io.store_superblock import read_superblock

N = 500
def frame(t):
    return {"x": torch.full((2, N, 3), float(t)), "J": torch.full((2, N), -float(t))}


def whole_writer(path):
    return RolloutWriter(
        path, n_trajectories=2, particle_count=N, dim=3, dt_frame=1.0, fields={"x": 1, "J": 0}
    )


def append_for_ever(path, first, pipe):
    out = whole_writer(path) if first else RolloutWriter.resume(path)
    while True:
        out.append(out.n_frames, frame(out.n_frames))
        os.write(pipe, b"%d\n" % (out.n_frames - 1))


def append_until_full(path, pipe):
    import resource

    before = open_objects()
    out = whole_writer(path)
    # One frame has 16 kB, and 256 kB are kept for HDF5's tables.
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
    message = ""
    while not message:
        try:
            out.append(out.n_frames, frame(out.n_frames))
        except StoreError as error:
            message = str(error)
    out.close()
    # Whatever HDF5 could not close, it would try to write again, and crash, at exit.
    pipe.send((message, out.n_frames, open_objects() - before))


def open_objects():
    return h5py.h5f.get_obj_count(types=h5py.h5f.OBJ_ALL)


def check(path: Path, at_least: int) -> int:
    """Every frame up to the last is whole; returns their number."""
    with RolloutReader(path) as reader:
        assert reader.n_frames >= at_least
        t = np.arange(reader.n_frames, dtype=np.float32)
        np.testing.assert_array_equal(reader.times, t)
        expected = np.broadcast_to(t[None, :, None], (2, len(t), N))
        np.testing.assert_array_equal(reader["J"][...], -expected)
        np.testing.assert_array_equal(reader["x"][..., 1], expected)
        return reader.n_frames


def small(path: Path, count: int = 3) -> RolloutWriter:
    out = RolloutWriter(
        path, n_trajectories=1, particle_count=4, dim=3, dt_frame=1.0, fields={"x": 1}
    )
    for t in range(count):
        out.append(t, {"x": torch.full((1, 4, 3), float(t))})
    return out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the writer is a forked process")
def test_every_frame_before_a_kill_is_there_and_the_run_goes_on(tmp_path):
    path, choose = tmp_path / "r.h5", random.Random(5)
    seen = 0
    for attempt in range(8):
        read, write = os.pipe()
        child = multiprocessing.get_context("fork").Process(
            target=append_for_ever, args=(path, attempt == 0, write)
        )
        child.start()
        os.close(write)
        with os.fdopen(read) as pipe:
            assert pipe.readline(), "the writer failed before its first frame"
            # At no particular moment of an append, which takes some milliseconds.
            time.sleep(0.03 * choose.random())
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            lines = pipe.readlines()
        seen = check(path, int(lines[-1]) + 1 if lines else seen + 1)
        with RolloutReader(path) as reader:
            assert not reader.complete
    assert repair(path) == seen == check(path, seen)
    with h5py.File(path) as file:
        assert file["VTKHDF/Steps"].attrs["NSteps"] == seen
        assert file["VTKHDF/Points"].shape == (seen * N, 3)
        np.testing.assert_array_equal(file["VTKHDF/Points"][-1], [seen - 1.0] * 3)
        assert all(file[name].shape[1] == seen for name in ("t1_fields/x", "t0_fields/J"))


def test_a_half_written_frame_is_dropped(tmp_path):
    path = tmp_path / "r.h5"
    out = small(path)
    # What append does before its last step, then the process dies.
    for dataset, axis in out._series:
        dataset.resize(4, axis=axis)
    out._flush()
    out._file.close()
    with RolloutReader(path) as reader:
        assert reader.n_frames == 3 and reader["x"].shape == (1, 3, 4, 3)
        with pytest.raises(IndexError):
            reader["x"][0, 3]
    with RolloutWriter.resume(path) as again:
        again.append(9.0, {"x": torch.full((1, 4, 3), 9.0)})
    with RolloutReader(path) as reader:
        assert reader["x"][0, :, 0, 0].tolist() == [0, 1, 2, 9]


def test_the_mark_of_a_dead_writer_is_no_obstacle(tmp_path):
    path = tmp_path / "r.h5"
    out = small(path)
    # Between HDF5's flush and the removal of its mark, as a kill may leave the file.
    out._file.flush()
    raw = bytearray(path.read_bytes())
    out.close()
    marked = tmp_path / "marked.h5"
    with h5py.File(tmp_path / "swmr.h5", "w", libver=("v110", "v110")) as file:
        file.swmr_mode = True
        assert read_superblock(tmp_path / "swmr.h5").open_for_writing
        assert (tmp_path / "swmr.h5").read_bytes()[11] == 5
    marked.write_bytes(with_flags(raw, 5))
    assert read_superblock(marked).open_for_writing
    with pytest.raises(OSError, match="already open for write"):
        h5py.File(marked)
    with RolloutReader(marked) as reader:
        assert reader.n_frames == 3
    assert repair(marked) == 3
    with h5py.File(marked) as file:
        assert file["t1_fields/x"].shape[1] == 3
    marked.write_bytes(with_flags(raw, 1))
    with pytest.raises(StoreError, match=r"repair\(path\)"):
        RolloutReader(marked)
    assert repair(marked) == 3
    with RolloutReader(marked) as reader:
        assert reader.complete and reader.n_frames == 3


def with_flags(raw: bytes, flags: int) -> bytes:
    from rheograd.sim.io.store_superblock import _lookup3

    head = bytearray(raw[:44])
    head[11] = flags
    return bytes(head) + _lookup3(bytes(head)).to_bytes(4, "little") + bytes(raw[48:])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a file size limit")
def test_full_disk_keeps_the_frames_and_the_run_goes_on(tmp_path):
    path, context = tmp_path / "r.h5", multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=append_until_full, args=(path, send))
    child.start()
    assert receive.poll(30), "the writer neither stopped nor failed"
    message, count, still_open = receive.recv()
    child.join()
    assert child.exitcode == 0 and still_open == 0
    assert "expected room for frame" in message and "Free disk space" in message
    assert check(path, count) == count > 5
    with RolloutWriter.resume(path) as out:
        out.append(count, frame(count))
    assert check(path, count + 1) == count + 1
    with RolloutReader(path) as reader:
        assert reader.complete


def test_damaged_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "r.h5"
    small(path).close()
    whole = path.read_bytes()
    with pytest.raises(FileNotFoundError, match="Check the path"):
        RolloutReader(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("particles,1,2,3\n")
    for use in (RolloutReader, RolloutWriter.resume, repair):
        with pytest.raises(StoreError, match="expected an HDF5 file; got 16 bytes"):
            use(tmp_path / "text.h5")
    for length in (20, 200, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.h5").write_bytes(whole[:length])
        for use in (RolloutReader, RolloutWriter.resume, repair):
            with pytest.raises(StoreError, match="[Cc]opy it again"):
                use(tmp_path / "cut.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = 1
    with pytest.raises(StoreError, match="no rollout"):
        RolloutReader(tmp_path / "other.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["rheograd_format"] = 99
    with pytest.raises(StoreError, match="Update rheograd"):
        RolloutReader(path)


def test_a_live_writer_is_not_pushed_aside(tmp_path):
    path = tmp_path / "r.h5"
    small(path).close()
    with h5py.File(path, "r+") as file:
        owner = json.dumps({"host": os.uname().nodename, "pid": os.getppid()})
        file.attrs["writer"] = owner
    with pytest.raises(StoreError, match="force=True"):
        RolloutWriter.resume(path)
    RolloutWriter.resume(path, force=True).close()
    with RolloutReader(path) as reader:
        assert reader.complete


def test_an_interrupted_append_can_be_repeated(tmp_path, monkeypatch):
    path = tmp_path / "r.h5"
    with small(path) as out:
        real = out._flush
        monkeypatch.setattr(out, "_flush", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            out.append(5.0, {"x": torch.ones(1, 4, 3)})
        monkeypatch.setattr(out, "_flush", real)
        out.append(6.0, {"x": torch.full((1, 4, 3), 6.0)})
    with RolloutReader(path) as reader:
        assert reader.times.tolist() == [0, 1, 2, 6]
        assert reader["x"][0, 3].tolist() == [[6.0] * 3] * 4


def test_a_repacked_file_is_read_but_not_written(tmp_path):
    path, packed = tmp_path / "r.h5", tmp_path / "packed.h5"
    small(path).close()
    with h5py.File(path) as source, h5py.File(packed, "w", libver="earliest") as out:
        out.attrs.update(source.attrs)
        for name in source:
            source.copy(name, out)
    assert read_superblock(packed) is None
    with RolloutReader(packed) as reader:
        assert reader["x"][0, :, 0, 0].tolist() == [0, 1, 2]
    with pytest.raises(StoreError, match="h5repack"):
        RolloutWriter.resume(packed)
