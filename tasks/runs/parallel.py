"""Independent jobs on several processes, which end with their parent and stop when it does."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from ...sim.core.errors import RheogradError
from ..processes import end_with_parent

__all__ = ["run_jobs"]

J = TypeVar("J")
R = TypeVar("R")
Advance = Callable[[], None]


def run_jobs(
    work: Callable[[J, Advance], R],
    jobs: Sequence[J],
    workers: int,
    report: Callable[[int], None],
) -> Iterator[R]:
    """Results of all jobs as they finish.

    Closing the iterator, an error or Ctrl-C stops the jobs that are running at their next `advance`.

    Args:
        work: Called with a job and a function to call after each unit of work; picklable, as jobs and
            results are.
        jobs: What to do; results come in any order.
        workers: Processes; 1 works in this one.
        report: Called with the units done so far.

    Raises:
        RheogradError: a process died. And whatever `work` raises.
    """
    if workers <= 1 or len(jobs) < 2:
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            report(done)

        for job in jobs:
            yield work(job, advance)
        return
    context = multiprocessing.get_context("spawn")
    units, stop = context.Value("q", 0), context.Event()
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=context, initializer=_begin, initargs=(units, stop)
    )
    try:
        with _deaf_children():
            pending = {pool.submit(_work, work, job) for job in jobs}
        while pending:
            finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            report(units.value)
            for future in finished:
                yield future.result()
    except BrokenProcessPool as error:
        raise RheogradError(
            "run_jobs: expected an answer of every process; got one that ended without, perhaps "
            "for lack of memory. Use fewer processes or smaller batches."
        ) from error
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C, which reaches every process of a terminal: the parent
    stops them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard)


_shared: tuple[Any, Any] = (None, None)


def _begin(units: Any, stop: Any) -> None:
    global _shared
    _shared = (units, stop)
    end_with_parent()


def _work(work: Callable[[Any, Advance], Any], job: Any) -> Any:
    units, stop = _shared

    def advance() -> None:
        with units.get_lock():
            units.value += 1
        if stop.is_set():
            raise RheogradError("run_jobs: stopped by the parent process.")

    return work(job, advance)
