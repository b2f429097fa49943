"""Read ahead: a bounded background thread for an iterator, and a dataset's partitions read side by side."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from typing import Generic, TypeVar

from resettle.batch import Batch, Partition
from resettle.connector import Source

T = TypeVar("T")
_END = object()


def _heavy(item: object) -> bool:
    return True


class Ahead(Generic[T]):
    """Iterate ``items`` in a thread; an exception arrives where it would have.

    Of the items that are ``heavy`` there are never more than ``depth`` that nobody has taken yet.

    Use as a context manager: leaving it stops the thread, whether or not the items were used up.
    """

    def __init__(self, items: Iterable[T], depth: int = 2, *, heavy: Callable[[T], bool] = _heavy) -> None:
        self._items, self._is_heavy = items, heavy
        self._queue: queue.SimpleQueue[tuple[object, bool]] = queue.SimpleQueue()
        self._room = threading.Semaphore(depth - 1)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="resettle-ahead", daemon=True)

    def __enter__(self) -> Ahead[T]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._room.release()  # whatever it waits for: it looks at once whether it is stopped
        self._thread.join()

    def _fill(self) -> None:
        try:
            for item in self._items:
                heavy = self._is_heavy(item)
                self._queue.put((item, heavy))
                if heavy:
                    self._room.acquire()  # before the next one is made
                if self._stopped.is_set():
                    return
            self._queue.put((_END, False))
        except BaseException as error:
            self._queue.put((_Raised(error), False))

    def __iter__(self) -> Iterator[T]:
        while True:
            item, heavy = self._queue.get()
            if item is _END:
                return
            if isinstance(item, _Raised):
                raise item.error
            if heavy:
                self._room.release()
            yield item  # type: ignore[misc]


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def batches(
    source: Source,
    dataset: str,
    *,
    rows: int,
    workers: int,
    look: Callable[[Iterator[Batch]], Iterator[T]],
    limit: int | None = None,
    heavy: Callable[[T], bool] = _heavy,
) -> Generator[T, None, None]:
    """What ``look`` makes of the batches of each partition of a dataset, in the order of its partitions.

    Up to ``workers`` partitions are read at once, each in a thread that also does the looking and waits for its turn
    with one result that is ``heavy``. A ``limit`` on the records makes it one partition after the other.
    """
    waiting = deque(source.partitions(dataset, workers))
    quota = _Quota(limit)

    def looked(partition: Partition) -> Iterator[T]:
        return look(batch for batch in quota.of(source.read(partition, rows)) if len(batch))

    with ExitStack() as stack:
        reading: deque[Ahead[T]] = deque()
        while waiting or reading:
            while waiting and len(reading) < (max(workers, 1) if limit is None else 1):
                reading.append(stack.enter_context(Ahead(looked(waiting.popleft()), depth=1, heavy=heavy)))
            yield from reading.popleft()


def plainly(read: Iterator[Batch]) -> Iterator[Batch]:
    """A ``look`` that leaves the batches as they are."""
    return read


class _Quota:
    """At most so many records in all."""

    def __init__(self, limit: int | None) -> None:
        self._left = limit

    def of(self, read: Iterator[Batch]) -> Iterator[Batch]:
        for batch in read:
            if self._left is None:
                yield batch
                continue
            if self._left > 0:
                yield Batch(batch.dataset, batch.table.slice(0, self._left), batch.decode)
            self._left -= len(batch)
            if self._left <= 0:
                return
