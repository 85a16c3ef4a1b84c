"""Work on many items in a process of its own, where an item that hangs or kills the process costs only itself."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

CHUNK = 32  # items handed over at a time: one by one, handing over would take a tenth of the time
AHEAD = 3  # chunks that wait for the process

Item = TypeVar("Item")
Result = TypeVar("Result")


class Failed(Exception):
    """What became of an item that hung or killed its process; ``reason`` is ``too_slow`` or ``crashed``."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def guarded(
    function: Callable[[Sequence[Item]], list[Result]],
    items: Sequence[Item],
    *,
    seconds: float,
    prepare: Callable[..., None],
    arguments: tuple[Any, ...] = (),
) -> Generator[Result | Failed]:
    """The results of all items, in order.

    Chunks are tried first; the items of one that fails are tried again one by one, so that only what hangs or
    crashes by itself is given up.

    Parameters
    ----------
    function
        Makes the results of some items; a function of a module, so that another process finds it.
    items
        What to work on.
    seconds
        Time limit of one item.
    prepare, arguments
        Called first in every new process.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(max_workers=1, context=context, initializer=prepare, initargs=arguments)
    try:
        waiting: deque[tuple[Sequence[Item], Future[list[Result]]]] = deque()
        for at in range(0, len(items), CHUNK):
            chunk = items[at : at + CHUNK]
            waiting.append((chunk, pool.schedule(function, args=[chunk], timeout=seconds)))
            if len(waiting) > AHEAD:
                yield from _collect(pool, function, seconds, *waiting.popleft())
        while waiting:
            yield from _collect(pool, function, seconds, *waiting.popleft())
        pool.close()  # type: ignore[no-untyped-call]
    except BaseException:
        pool.stop()  # type: ignore[no-untyped-call]
        raise
    finally:
        pool.join()


def _collect(
    pool: ProcessPool,
    function: Callable[[Sequence[Item]], list[Result]],
    seconds: float,
    chunk: Sequence[Item],
    future: "Future[list[Result]]",
) -> Iterator[Result | Failed]:
    try:
        yield from future.result()
    except (TimeoutError, ProcessExpired) as error:
        if len(chunk) == 1:
            slow = isinstance(error, TimeoutError)
            yield Failed(*(("too_slow", f"not done in {seconds:g} s") if slow else ("crashed", "its process died")))
            return
        for item in chunk:
            again = pool.schedule(function, args=[[item]], timeout=seconds)
            yield from _collect(pool, function, seconds, [item], again)
