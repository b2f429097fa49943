"""Read ahead: a bounded background thread for an iterator, and a dataset's partitions read side by side."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Generic, TypeVar

from resettle.batch import Batch
from resettle.connector import Source

T = TypeVar("T")
_END = object()


class Ahead(Generic[T]):
    """Iterate ``items`` in a thread, at most ``depth`` ahead; an exception arrives where it would have.

    Use as a context manager: leaving it stops the thread, whether or not the items were used up.
    """

    def __init__(self, items: Iterable[T], depth: int = 2) -> None:
        self._items = items
        self._queue: queue.Queue[object] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="resettle-ahead", daemon=True)

    def __enter__(self) -> Ahead[T]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def _fill(self) -> None:
        try:
            for item in self._items:
                self._queue.put(item)
                if self._stopped.is_set():
                    return
            self._queue.put(_END)
        except BaseException as error:
            self._queue.put(_Raised(error))

    def __iter__(self) -> Iterator[T]:
        while (item := self._queue.get()) is not _END:
            if isinstance(item, _Raised):
                raise item.error
            yield item  # type: ignore[misc]


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def batches(source: Source, dataset: str, *, rows: int, workers: int) -> Iterator[Batch]:
    """Every batch of a dataset; up to ``workers`` partitions are read at once, given in their order."""
    waiting = deque(source.partitions(dataset, workers))
    with ExitStack() as stack:
        reading: deque[Ahead[Batch]] = deque()
        while waiting or reading:
            while waiting and len(reading) < max(workers, 1):
                reading.append(stack.enter_context(Ahead(source.read(waiting.popleft(), rows))))
            yield from reading.popleft()
