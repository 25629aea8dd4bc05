"""Engine start and the border between torch tensors and Warp arrays.

Engines start at first use, silently. Two rules hold everywhere: Warp sees only detached, contiguous
tensors (so torch keeps sole ownership of `.grad`), and adjoint buffers belong to the solver.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib
import io
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import torch

from .errors import InputError

__all__ = ["CPU_THREADS", "Workers", "Command", "as_array", "one_thread", "real_type", "warp", "taichi"]

log = logging.getLogger(__name__)

CPU_THREADS = min(os.cpu_count() or 1, 8)
"""Threads used when a configuration leaves the number open."""

MOST = 1024
"""Threads that shards may use in all."""

POLLS = 1000
"""How often a shard asks for the others before it sleeps between questions."""


@functools.lru_cache(maxsize=1)
def warp() -> ModuleType:
    """The Warp module, initialised quietly once per process."""
    import warp as wp

    wp.config.log_level = wp.LOG_WARNING
    with _silence_missing_driver():
        wp.init()
    return wp


_taichi: ModuleType | None = None
_taichi_process = 0
_starting_taichi = threading.Lock()


def taichi(device: str = "cpu") -> ModuleType:
    """The Taichi module, initialised quietly once per process.

    A Taichi that the program has initialised already is left as it is: a second `ti.init` would
    destroy its fields. TI_ARCH in the environment overrides the device, TI_OFFLINE_CACHE_FILE_PATH
    moves the cache of compiled kernels. Taichi's query of a version server is turned off.

    Args:
        device: torch device type of the tensors to come; only the first call decides.

    Raises:
        ImportError: naming the extra to install.
        RuntimeError: in a process forked after Taichi started, where a launch would hang.
    """
    global _taichi, _taichi_process
    if _taichi is not None:
        if os.getpid() != _taichi_process:
            raise RuntimeError(
                "taichi: the process in which Taichi was started; got one forked from it, where "
                'every launch would hang. Start workers with multiprocessing_context="spawn", or '
                'use engine="warp".'
            )
        return _taichi
    with _starting_taichi:
        os.environ.setdefault("ENABLE_TAICHI_HEADER_PRINT", "False")
        os.environ.setdefault("TI_SKIP_VERSION_CHECK", "ON")
        try:
            ti = importlib.import_module("taichi")
        except ImportError as error:
            raise ImportError(
                f'engine="taichi": the package taichi (Python ≤ 3.12); got "{error}". '
                'Run pip install "rheograd[taichi]".'
            ) from error
        if ti.lang.impl.get_runtime().prog is None:
            arch = {"cpu": ti.cpu, "cuda": ti.cuda}.get(device, ti.gpu)
            # Taichi prints the device it starts on, whatever the log level.
            with contextlib.redirect_stdout(io.StringIO()) as banner:
                ti.init(arch=arch, log_level=ti.ERROR, cpu_max_num_threads=CPU_THREADS)
            log.debug(banner.getvalue().strip())
            atexit.register(_end_taichi, ti, os.getpid())
        _taichi, _taichi_process = ti, os.getpid()
    return ti


def _end_taichi(ti: ModuleType, process: int) -> None:
    """Taichi writes compiled kernels to its cache only when its program ends in order, which living
    kernels may prevent at exit; in a forked process it would hang."""
    if os.getpid() == process:
        ti.reset()


class _silence_missing_driver:
    """Warp warns on the standard error stream that no CUDA driver exists; on a CPU that is normal."""

    def __enter__(self) -> None:
        self._saved = None
        if os.path.exists("/dev/nvidiactl"):
            return
        try:
            self._saved = os.dup(2)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            os.close(null)
        except OSError:
            self._saved = None

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            os.dup2(self._saved, 2)
            os.close(self._saved)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch's CPU operations on one thread inside the block.

    Some thousand numbers are too little work for two, and on a machine that is busy otherwise the
    waiting of the second thread costs ten times the work.
    """
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def real_type(dtype: torch.dtype) -> Any:
    """Warp scalar type of a torch dtype (float32 or float64)."""
    wp = warp()
    types = {torch.float32: wp.float32, torch.float64: wp.float64}
    if dtype not in types:
        raise TypeError(
            f"real_type: dtype float32 or float64; got {dtype}. Convert the state with state.to()."
        )
    return types[dtype]


def as_array(tensor: torch.Tensor, dtype: Any, ndim: int = 1) -> Any:
    """Warp view of a contiguous tensor whose trailing axes form one `dtype` item."""
    wp = warp()
    scalar = tensor.element_size()
    item = wp.types.type_size_in_bytes(dtype) // scalar
    count = tensor.numel() // item
    shape: tuple[int, ...] = (count,) if ndim == 1 else (tensor.shape[0], count // tensor.shape[0])
    device = "cpu" if tensor.device.type == "cpu" else wp.device_from_torch(tensor.device)
    array = wp.array(ptr=tensor.data_ptr(), dtype=dtype, shape=shape, device=device, copy=False)
    array._tensor = tensor  # keeps the storage alive as long as the view
    return array


class Command:
    """A recorded kernel launch whose array arguments may be exchanged between launches.

    Recording once and exchanging pointers costs a fifth of a fresh launch, which decides the speed of
    scenes with few particles.
    """

    def __init__(
        self,
        kernel: Any,
        dim: int,
        args: Sequence[Any],
        *,
        adjoint_args: Sequence[Any] | None = None,
        device: Any = "cpu",
    ) -> None:
        wp = warp()
        self._dim = dim
        self._args = list(args)
        self._adjoint_args = None if adjoint_args is None else list(adjoint_args)
        self._launch = wp.launch(
            kernel,
            dim=dim,
            inputs=self._args,
            adj_inputs=self._adjoint_args or [],
            device=device,
            adjoint=adjoint_args is not None,
            record_cmd=True,
        )
        self._packed: tuple[Any, ...] = ()
        # The kernels' calling convention is Warp's own affair: only where it is known to be this.
        known = wp.__version__.startswith("1.19.")
        if known and self._launch.device.is_cpu and getattr(self._launch, "block_dim", 0) <= 1:
            self._packed = self._pack()

    def _pack(self) -> tuple[Any, ...]:
        """Arguments, and adjoint ones, in the structures that the compiled CPU kernel reads: kept, they
        need not be filled anew for every launch."""
        params, n = self._launch.params[1:], len(self._args)
        halves = [params[:n]] if self._adjoint_args is None else [params[:n], params[n:]]
        packed = []
        for half in halves:
            names = [(f"a{i}", type(value)) for i, value in enumerate(half)]
            packed.append(type("Arguments", (ctypes.Structure,), {"_fields_": names})(*half))
        return tuple(packed)

    def __call__(
        self, args: Sequence[Any], adjoint_args: Sequence[Any] = (), dim: int = -1
    ) -> None:
        launch = self._launch
        if dim >= 0 and dim != self._dim:
            launch.set_dim(dim)
            self._dim = dim
        self._exchange(self._args, args, False)
        if self._adjoint_args is not None:
            self._exchange(self._adjoint_args, adjoint_args, True)
        if self._dim > 0 and self._packed:
            hooks = launch.hooks
            call = hooks.forward if self._adjoint_args is None else hooks.backward
            call(ctypes.byref(launch.bounds), *map(ctypes.byref, self._packed))
        elif self._dim > 0:
            launch.launch()

    def _exchange(self, old: list[Any], new: Sequence[Any], adjoint: bool) -> None:
        launch = self._launch
        for index, value in enumerate(new):
            if value is not old[index]:
                if hasattr(value, "__ctype__"):  # an array: its type was checked when recording
                    launch.set_param_at_index_from_ctype(index, value.__ctype__(), adjoint)
                else:
                    launch.set_param_at_index(index, value, adjoint)
                old[index] = value
                if self._packed:
                    place = 1 + index + (len(self._args) if adjoint else 0)
                    setattr(self._packed[adjoint], f"a{index}", launch.params[place])


class Workers:
    """Runs stages on shards, shard 0 on the calling thread; returns when all are done."""

    _pool: ThreadPoolExecutor | None = None
    _lock = threading.Lock()

    def __init__(self, count: int) -> None:
        if not 1 <= count <= MOST:
            raise InputError(f"Workers: 1 to {MOST} threads; got {count}. Ask for one per core.")
        self.count = count

    def run(self, *stages: Callable[[int], None]) -> None:
        """Call every stage with every shard; a stage begins when the one before ended everywhere."""
        if self.count == 1:
            for stage in stages:
                stage(0)
            return
        arrived = [0] * self.count
        broken = threading.Event()

        def work(shard: int) -> None:
            try:
                for number, stage in enumerate(stages, 1):
                    stage(shard)
                    arrived[shard] = number
                    if not self._meet(arrived, number, broken):
                        return
            except BaseException:
                broken.set()
                raise

        with Workers._lock:
            # Shards wait for each other inside the pool, so all of one caller must get a thread: they
            # queue together, first come, first served. Threads are made when they are needed.
            if Workers._pool is None:
                Workers._pool = ThreadPoolExecutor(MOST, thread_name_prefix="rheograd")
            futures = [Workers._pool.submit(work, shard) for shard in range(1, self.count)]
        try:
            work(0)
        finally:
            # Also after an interrupt: scratch must not be written behind the caller's back.
            for future in futures:
                future.result()

    @staticmethod
    def _meet(arrived: list[int], number: int, broken: threading.Event) -> bool:
        """Wait until all have arrived. Polling answers in microseconds where waking a sleeping thread
        takes as long as a stage of a small scene; longer waits leave the core to others."""
        polls = 0
        while min(arrived) < number:
            if broken.is_set():
                return False
            time.sleep(0.0 if polls < POLLS else 5e-5)
            polls += 1
        return True
