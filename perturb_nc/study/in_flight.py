"""Work for an executor, so much of it at a time that the rest costs nothing."""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TypeVar

from perturb_nc.theory.clock import Clock

_FIRST, _MOST = 32, 1024  # pieces in flight, at the start and at most
Item = TypeVar("Item")
Value = TypeVar("Value")


def results(
    submit: Callable[[Item], Future[Value]], items: Iterable[Item], clock: Clock
) -> Iterator[tuple[Item, Value]]:
    """Items with the results of their futures, as these end.

    So many are in flight that workers need not wait: more, up to a bound, once many end together.
    When the time is up, what no worker has begun never begins, and what is under way comes to its
    end; after an error or Ctrl-C nothing more begins.
    """
    left = iter(items)
    waiting: dict[Future[Value], Item] = {}
    ended: SimpleQueue[Future[Value]] = SimpleQueue()
    room = _FIRST
    try:
        while True:
            for item in islice(left, room - len(waiting)):
                future = submit(item)
                waiting[future] = item
                future.add_done_callback(ended.put)
            if not waiting:
                return
            if 2 * ended.qsize() > room:
                room = min(2 * room, _MOST)
            try:
                future = ended.get(timeout=None if clock.limit == math.inf else clock.left())
            except Empty:
                left, clock = iter(()), Clock()
                waiting = {f: item for f, item in waiting.items() if not f.cancel()}
            else:
                if future in waiting:  # else it was cancelled
                    yield waiting.pop(future), future.result()
    finally:
        for future in waiting:
            future.cancel()
