"""Graphs, counted when they are traced: a trace costs seconds, and a run should make few."""

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf


class TraceLog:
    """How often graphs were traced in this process, and what tracing and compiling took.

    Attributes:
        counts: traces by kind of graph.
        seconds: time spent in calls that traced, their computation included.
    """

    def __init__(self):
        self.counts: collections.Counter[str] = collections.Counter()
        self.seconds = 0.0
        self._lock = threading.Lock()  # replicas trace in threads of their own

    def note(self, kind: str) -> None:
        """Counts a trace; to be called by what is traced, whose Python runs at no other time."""
        with self._lock:
            self.counts[kind] += 1

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Adds the time spent within to `seconds` if anything was traced within."""
        before, seconds, started = self.counts.total(), self.seconds, time.monotonic()
        yield
        if self.counts.total() > before:
            self.seconds = seconds + time.monotonic() - started  # once, however deeply nested


#: of this process
TRACES = TraceLog()


class TracedFunction:
    """A `tf.function` whose traces are counted and timed.

    AutoGraph is off: rewriting the source of all that is called takes longer than tracing it. Loops
    and conditions on tensors are `tf.while_loop`, `tf.cond` and `tf.where`.

    Args:
        kind: under which traces are counted.
        function: what is traced.
        **options: of `tf.function`.
    """

    def __init__(self, kind: str, function: Callable, **options: Any):
        def counted(*arguments):
            TRACES.note(kind)
            return function(*arguments)

        self._function = tf.function(counted, autograph=False, **options)

    def __call__(self, *arguments: Any) -> Any:
        if tf.inside_function():
            return self._function(*arguments)
        with TRACES.timed():
            return self._function(*arguments)
