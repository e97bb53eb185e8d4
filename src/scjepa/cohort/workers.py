"""Several processes: workers that run a function of each section."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Self, TypeVar

from scjepa._core.progress import with_progress

T = TypeVar("T")
R = TypeVar("R")

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "BLOSC_NTHREADS")

_TRIES = 2
"""Times that a worker may die of a task, at work on nothing else, before it is given up."""


class WorkerDiedError(RuntimeError):
    """A worker process was killed, twice, while it worked on a task."""


class Workers:
    """Processes that are started when the first task comes, and kept for those that follow.

    Parameters
    ----------
    n_jobs
        Processes; 1: no other than this one.
    """

    def __init__(self, n_jobs: int) -> None:
        self._n_jobs = n_jobs
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def each(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[T, R | WorkerDiedError]]:
        """Yield each task and what the function gave of it, in the order in which they are done, with a progress bar.

        Parameters
        ----------
        function
            A function of a module, as processes are started anew for it.
        tasks
            Its arguments.

        Yields
        ------
        tuple
            The task, and its result; an error, not raised, where a worker was killed on it twice. What the function
            raises is raised.
        """
        return with_progress(self._each(function, tasks), len(tasks), "Sections", "sections")

    def _each(self, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[T, R | WorkerDiedError]]:
        if self._n_jobs == 1 or len(tasks) < 2:
            for task in tasks:
                yield task, function(task)
            return
        left: list[int] = list(range(len(tasks)))
        deaths: dict[int, int] = {}  # of suspects, those that they died alone: what died among others may be innocent
        while left:
            # After a death each suspect is tried alone, so that no other task dies with it.
            suspects = [number for number in left if number in deaths]
            batch, at_once = (suspects[:1], 1) if suspects else (left, self._n_jobs)
            done = set()
            for number, result in self._run(function, tasks, batch, at_once, deaths):
                done.add(number)
                yield tasks[number], result
            for number in batch:
                if number not in done and deaths.get(number, 0) >= _TRIES:
                    done.add(number)
                    yield tasks[number], WorkerDiedError("a worker process was killed while it worked on it, twice")
            left = [number for number in left if number not in done]

    def _run(
        self, function: Callable[[T], R], tasks: Sequence[T], batch: Sequence[int], at_once: int, deaths: dict[int, int]
    ) -> Iterator[tuple[int, R]]:
        """Yield what is done until all is, or a worker dies; then count who may have died."""
        pool, waiting = self._started(), list(batch)
        running: dict[Future[R], int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < at_once:  # no more than are worked on, so that suspects are few
                    number = waiting.pop(0)
                    with _one_thread():  # a process may be started for it
                        running[pool.submit(function, tasks[number])] = number
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    yield running.pop(future), result
        except BrokenProcessPool:
            for number in running.values():
                deaths[number] = deaths.get(number, 0) + (at_once == 1)
            self._stop()
        finally:
            for future in running:
                future.cancel()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._n_jobs, mp_context=get_context("spawn"))
        return self._pool

    def _stop(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that are started meanwhile have one thread each for linear algebra."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def n_workers(n_jobs: int | None) -> int:
    """Return how many processes there are to be; ``None``: 1, and -1: as many as processors.

    Raises
    ------
    ValueError
        If it is 0 or below -1.
    """
    if n_jobs is None:
        return 1
    if n_jobs == -1:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if n_jobs < 1:
        raise ValueError(f"n_jobs must be 1 or more, or -1 for all processors, found {n_jobs}.")
    return n_jobs
