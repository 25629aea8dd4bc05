"""Inputs and targets of operators on grids, read from files of fields when asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ...sim.core.errors import InputError, message
from ...sim.io.field_parts import BLOCK
from ...sim.io.field_set import FieldSet
from .fields import RowBatch

__all__ = ["FieldPairs", "PairBatches"]


class FieldPairs:
    """What an operator maps, x, and to what, y, as rows of a file.

    A row is a trajectory and a frame s: x has the frames s … s + past − 1, y the frames from
    s + past − 1 + lead on, `future` of them. Frames and components are channels, in the order of
    time; fields constant in time, and scalars of a trajectory, enter x once.

    Args:
        data: fields, see `open_fields`; `data.thin(cells=2, frames=4)` for coarser ones.
        inputs: names of fields or scalars.
        targets: names of fields.
        past: frames of the inputs.
        future: frames of the targets.
        lead: frames from the last input to the first target; 1 is the next one.
        starts: frames s to use, negative ones from the end; None is all that fit. If no input
            varies in time, s is the first frame of the target.
        trajectories: which ones; None is all.
        dtype: of the tensors.
        check: whether NaN and infinity are refused.

    `pairs[i]` is (x, y) of (C, *cells); `pairs[2:9]`, `pairs[[3, 1]]` and `pairs[:]` are (S, C, *cells).

    Raises:
        InputError: names that are not there, windows that do not fit; reading: as `FieldSet.read`.
    """

    def __init__(
        self,
        data: FieldSet,
        inputs: str | Sequence[str],
        targets: str | Sequence[str],
        *,
        past: int = 1,
        future: int = 1,
        lead: int = 1,
        starts: Iterable[int] | None = None,
        trajectories: Iterable[int] | None = None,
        dtype: torch.dtype = torch.float32,
        check: bool = True,
    ) -> None:
        self.data, self.dtype, self.check = data, dtype, check
        self.inputs = [inputs] if isinstance(inputs, str) else list(inputs)
        self.targets = [targets] if isinstance(targets, str) else list(targets)
        self._scalars = {
            n: data.scalars[n] for n in self.inputs if n not in data.names and n in data.scalars
        }
        moving = [n for n in self.inputs if n not in self._scalars and data.varies(n)]
        aim = [data.varies(n) for n in self.targets]
        if not self.targets or any(aim) != all(aim) or min(past, future, lead) < 1:
            expected = (
                "targets that all vary in time or all do not, past, future and lead of at least 1"
            )
            raise InputError(
                message("FieldPairs", expected, f"{self.targets}", "Make two FieldPairs")
            )
        before = past - 1 + lead if moving else 0
        self.past = range(past) if moving else range(0)
        self.future = range(before, before + future) if all(aim) else range(0)
        span = max([0, *(r[-1] + 1 for r in (self.past, self.future) if len(r))])
        last = data.n_frames - span
        if span and last < 0:
            got, fix = f"{data.n_frames}", "Lower past, future or lead"
            raise InputError(message("FieldPairs", f"at least {span} frames", got, fix))
        given = range(last + 1 if span else 1) if starts is None else list(starts)
        self.starts = [s + data.n_frames if s < 0 else s for s in given]
        if any(not 0 <= s <= max(last, 0) for s in self.starts) or not self.starts:
            raise InputError(
                message("FieldPairs", f"starts in [0, {last}]", list(given), "Correct them")
            )
        count = data.n_trajectories
        rows = range(count) if trajectories is None else list(trajectories)
        self.trajectories = [r + count if r < 0 else r for r in rows]
        if any(not 0 <= r < count for r in self.trajectories) or not self.trajectories:
            got = "another one, or none"
            raise InputError(
                message("FieldPairs", f"trajectories in [0, {count})", got, "Correct them")
            )

    def __len__(self) -> int:
        return len(self.trajectories) * len(self.starts)

    def __getitem__(self, index: int | slice | Sequence[int]) -> tuple[Tensor, Tensor]:
        if isinstance(index, int):
            x, y = self[[index]]
            return x[0], y[0]
        wanted = range(len(self))[index] if isinstance(index, slice) else [int(i) for i in index]
        for i in wanted:
            if not -len(self) <= i < len(self):
                raise IndexError(
                    f"FieldPairs: expected an index in [0, {len(self)}); got {i}. Check len()."
                )
        wanted = [i % len(self) for i in wanted]
        x = torch.empty((len(wanted), self.in_channels, *self.data.cells), dtype=self.dtype)
        y = torch.empty((len(wanted), self.out_channels, *self.data.cells), dtype=self.dtype)
        for rows, starts, places in self._groups(wanted):
            x[places] = self._join(self.inputs, rows, starts, self.past)
            y[places] = self._join(self.targets, rows, starts, self.future)
        return x, y

    def _groups(self, wanted: Sequence[int]) -> Iterator[tuple[list[int], list[int], Tensor]]:
        """Trajectories with the same starts, these, and the places (B, J) of both in the result.

        A trajectory is read once, whatever the number of its windows.
        """
        own: dict[int, list[tuple[int, int]]] = {}
        for place, i in enumerate(wanted):
            row, start = divmod(i, len(self.starts))
            own.setdefault(self.trajectories[row], []).append((self.starts[start], place))
        alike: dict[tuple[int, ...], list[int]] = {}
        for row in sorted(own):  # files like rising indices
            alike.setdefault(tuple(s for s, _ in own[row]), []).append(row)
        cells = math.prod(self.data.cells)
        for starts, rows in alike.items():
            channels = self.in_channels + self.out_channels
            many = max(1, BLOCK // (8 * channels * cells * len(starts)))
            for k in range(0, len(rows), many):
                part = rows[k : k + many]
                places = torch.tensor([[place for _, place in own[row]] for row in part])
                yield part, list(starts), places

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[i] for i in range(len(self)))

    @property
    def in_channels(self) -> int:
        """Channels of x."""
        return self._count(self.inputs, len(self.past))

    @property
    def out_channels(self) -> int:
        """Channels of y."""
        return self._count(self.targets, len(self.future))

    @property
    def nbytes(self) -> int:
        """Memory that `pairs[:]` takes."""
        row = (self.in_channels + self.out_channels) * math.prod(self.data.cells)
        return len(self) * row * self.dtype.itemsize

    def batches(self, size: int, seed: int | None = 0) -> PairBatches:
        """Batches that are read while training runs; see `PairBatches`."""
        return PairBatches(self, size, seed)

    def _count(self, names: Sequence[str], frames: int) -> int:
        sizes = {n: 1 if n in self._scalars else len(self.data.channels(n)) for n in names}
        times = {n: frames if n not in self._scalars and self.data.varies(n) else 1 for n in names}
        return sum(sizes[n] * times[n] for n in names)

    def _join(
        self, names: Sequence[str], rows: list[int], starts: list[int], offsets: range
    ) -> Tensor:
        """(B, J, C, *cells): the frames start + offset of each trajectory and each of J starts."""
        cells, values = self.data.cells, []
        frames = sorted({s + k for s in starts for k in offsets})
        place = {t: k for k, t in enumerate(frames)}
        index = torch.tensor([[place[s + k] for k in offsets] for s in starts])
        for name in names:
            if name in self._scalars:
                number = self._scalars[name][rows].to(self.dtype)
                if number.ndim > 1:  # the one at the last frame of the input
                    number = number[:, [s + (offsets[-1] if len(offsets) else 0) for s in starts]]
                else:
                    number = number[:, None].expand(-1, len(starts))
                value = number.reshape(*number.shape, *[1] * (1 + len(cells)))
            else:
                value = self.data.read(name, rows, frames, dtype=self.dtype, check=self.check)
                varies = self.data.varies(name)
                value = value[:, index].flatten(2, 3) if varies else value.unsqueeze(1)
            values.append(value.expand(len(rows), len(starts), value.shape[2], *cells))
        return torch.cat(values, 2)


class PairBatches:
    """Batches of rows {"x", "y"} for a `Trainer`, read when they are asked for.

    What index i gives depends on the seed and the epoch alone, as with `RowBatches`. Rows that do not
    fill a batch wait for another epoch.

    Args:
        pairs: the rows.
        size: rows per batch.
        seed: of the order; None keeps the order, and the last batch may be smaller.
    """

    def __init__(self, pairs: FieldPairs, size: int, seed: int | None = 0) -> None:
        if not 1 <= size <= len(pairs):
            got, fix = f"{size}", "Correct the size of batches"
            raise InputError(message("PairBatches", f"a size in [1, {len(pairs)}]", got, fix))
        self.pairs, self.size, self.seed = pairs, size, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of an epoch."""
        self._order = torch.arange(len(self.pairs))
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._order = torch.randperm(len(self.pairs), generator=generator)

    def __len__(self) -> int:
        full = len(self.pairs) // self.size
        return full if self.seed is not None else -(-len(self.pairs) // self.size)

    def __getitem__(self, index: int) -> RowBatch:
        if not 0 <= index < len(self):
            raise IndexError(
                f"PairBatches: expected an index in [0, {len(self)}); got {index}. Check len()."
            )
        x, y = self.pairs[self._order[index * self.size : (index + 1) * self.size].tolist()]
        return RowBatch({"x": x, "y": y})
