"""Measures variants side by side: a process each, taking turns, so that what is compared is paired.

A process each, since clients leave state behind (threads that poll, garbage to collect, caches)
that one process would charge to whoever runs next; kept for all rounds, since a client's first
calls are not its usual ones. Rounds alternate, so that the machine's moods hit all alike. CPU is
the whole process's: a client pays for the threads that it runs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from .backend import Target
from .variants import Call, Operation, Variant

__all__ = [
    "Sample",
    "Spread",
    "Worker",
    "WorkerError",
    "alternate",
    "open_variant",
    "ratios",
    "run_calls",
    "workers",
]

_SECONDS_TO_ANSWER = 300.0
_SECONDS_TO_END = 5.0
_TURNS = 8


class WorkerError(RuntimeError):
    """Something failed in a worker; the text is its traceback."""


class Worker:
    """A context manager: a fresh process that runs one function at a time."""

    def __enter__(self) -> Worker:
        context = multiprocessing.get_context("spawn")  # fork would copy this process's state
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_work, args=(child,), daemon=True)
        # Ctrl-C is for this process, which then ends the worker; the worker inherits the mask.
        resource_tracker.ensure_running()  # it would lift the mask
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        child.close()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pipe.close()
        self._process.join(0.0 if error is not None else _SECONDS_TO_END)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()

    def begin(self, function: Callable[..., Any], *args: Any) -> None:
        """Have a module's function run, and do not wait; `finish` must follow."""
        self._pipe.send((function, args))

    def finish(self) -> Any:
        """Return what the function returned.

        Raises:
            WorkerError: it raised, or did not end in time.
        """
        if not self._pipe.poll(_SECONDS_TO_ANSWER):
            raise WorkerError(f"a worker did not answer within {_SECONDS_TO_ANSWER:g} s")
        try:
            succeeded, result = self._pipe.recv()
        except EOFError:
            raise WorkerError("a worker died") from None
        if not succeeded:
            raise WorkerError(result)
        return result

    def do(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a module's function there, and return what it returns.

        Raises:
            WorkerError: it raised, or did not end in time.
        """
        self.begin(function, *args)
        return self.finish()


def _work(pipe: Connection) -> None:
    os.environ["NO_PROXY"] = "*"
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, function(*args))
        except Exception:
            answer = (False, traceback.format_exc())
        try:
            pipe.send(answer)
        except BrokenPipeError:
            return


@dataclass(frozen=True)
class Sample:
    """One round of one variant."""

    cpu: float  # seconds a call, of all threads of the process
    wall: float  # seconds a call
    rate: float  # calls a second, of all calling threads together


@dataclass(frozen=True)
class Spread:
    """The median of several rounds, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some values."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def text(self, form: str, scale: float = 1.0) -> str:
        """Return it as ``median (low-high)``, each number formatted with ``form``."""
        median, low, high = (
            format(scale * value, form) for value in (self.median, self.low, self.high)
        )
        return f"{median} ({low}-{high})"


def ratios(samples: Sequence[Sample], baseline: Sequence[Sample], what: str = "cpu") -> Spread:
    """Return how two variants compare, each round with the same round of the other."""
    return Spread.of(
        [
            getattr(sample, what) / getattr(base, what)
            for sample, base in zip(samples, baseline, strict=True)
        ]
    )


@contextmanager
def workers(
    variants: Mapping[str, Variant], target: Target | Mapping[str, Target], operation: Operation
) -> Iterator[dict[str, Worker]]:
    """Start a worker a variant, with the variant opened in it."""
    with ExitStack() as stack:
        started = {key: stack.enter_context(Worker()) for key in variants}
        for key, worker in started.items():
            its_target = target if isinstance(target, Target) else target[key]
            worker.begin(open_variant, variants[key], its_target, operation)
        for worker in started.values():
            worker.finish()
        yield started


def alternate(
    workers: Mapping[str, Worker],
    *,
    rounds: int,
    calls: int,
    warm_up: int,
    threads: Mapping[str, int] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, list[Sample]]:
    """Let the workers take turns, several times in a round, in another order each time.

    Args:
        workers: with their variants opened; one may stand under several names.
        rounds: how often.
        calls: how many calls each makes in a round.
        warm_up: how many calls each makes before, uncounted.
        threads: how many threads share the calls of each; None is one.
        tick: is called after every step: rounds + 1 of them.
    """
    sharing = threads or dict.fromkeys(workers, 1)
    for key, worker in workers.items():
        worker.do(run_calls, warm_up, sharing[key])
    tick()
    # Short turns, so that a slow second of the machine is shared; but threads need time to spread.
    turns = 1 if threads else _TURNS
    samples: dict[str, list[Sample]] = {key: [] for key in workers}
    orders = _orders(list(workers))
    for _ in range(rounds):
        parts: dict[str, list[Sample]] = {key: [] for key in workers}
        for _ in range(turns):
            for key in next(orders):
                share = max(1, calls // turns)
                parts[key].append(workers[key].do(run_calls, share, sharing[key]))
        for key, part in parts.items():
            samples[key].append(
                Sample(
                    cpu=statistics.fmean(each.cpu for each in part),
                    wall=statistics.fmean(each.wall for each in part),
                    rate=statistics.harmonic_mean([each.rate for each in part]),
                )
            )
        tick()
    return samples


def _orders(keys: list[str]) -> Iterator[list[str]]:
    """Every order and then its reverse: nobody shall always follow the same one."""
    while True:
        yield keys
        yield keys[::-1]
        keys = keys[1:] + keys[:1]


# -- what runs in a worker ------------------------------------------------------------------

_call: Call | None = None


def open_variant(variant: Variant, target: Target, operation: Operation) -> None:
    """In a worker: open the client that `run_calls` will use."""
    global _call
    _call = variant.open(target, operation)


def run_calls(calls: int, threads: int = 1) -> Sample:
    """In a worker: make calls, and return what each cost."""
    assert _call is not None
    if threads == 1:
        wall, cpu = time.perf_counter(), time.process_time()
        _repeat(_call, calls)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return Sample(cpu / calls, wall / calls, calls / wall)
    each = max(1, calls // threads)
    start = threading.Barrier(threads + 1)
    failures: list[BaseException] = []

    def run(call: Call) -> None:
        start.wait()
        try:
            _repeat(call, each)
        except BaseException as error:
            failures.append(error)

    running = [threading.Thread(target=run, args=(_call,), daemon=True) for _ in range(threads)]
    for thread in running:
        thread.start()
    wall, cpu = time.perf_counter(), time.process_time()
    start.wait()
    for thread in running:
        thread.join()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if failures:
        raise failures[0]
    total = each * threads
    return Sample(cpu / total, wall * threads / total, total / wall)


def _repeat(call: Call, times: int) -> None:
    for _ in range(times):
        call()
