"""Work on many items in processes of their own, where an item that hangs or kills its process costs only itself."""

import pickle
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from loky.backend import get_context
from pebble import ProcessExpired, ProcessPool

CHUNK = 32  # items handed over at a time: one by one, handing over would take a tenth of the time
AHEAD = 3  # chunks that wait for each process

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """A block whose new processes do not get Ctrl-C: a terminal sends it to all, and the one that asks decides.

    It is blocked from their start on, since a process that is still importing would end with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Failed(Exception):
    """What became of an item that hung or killed its process; ``reason`` is ``too_slow`` or ``crashed``."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason, text)  # both, so that it can be sent between processes
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


def attempts(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result | Failed]:
    """The results of some items in this process, where an exception costs only its item.

    For :func:`guarded`, with ``functools.partial``, where ``function`` is at the mercy of a library (RDKit raises C++
    exceptions of all kinds) and its exceptions are results.
    """
    found: list[Result | Failed] = []
    for item in items:
        try:
            found.append(function(item))
        except MemoryError:
            found.append(Failed("crashed", "it needs too much memory"))
        except Exception as error:  # noqa: BLE001
            found.append(Failed("crashed", f"{type(error).__name__}: {error}"))
    return found


class Guarded(Generic[Item, Result]):
    """Processes that work on items, where an item that hangs or kills its process costs only itself.

    To be used in a ``with`` block; the processes start with the first items and end with the block.
    """

    def __init__(
        self,
        function: Callable[[Sequence[Item]], list[Result]],
        *,
        seconds: float,
        prepare: Callable[..., None],
        arguments: tuple[Any, ...] = (),
        processes: int = 1,
    ) -> None:
        """Parameters as in :func:`guarded`."""
        self.function, self.seconds = function, seconds
        # loky's processes do not import the program's main module, unlike multiprocessing's: it may bring PyTorch and
        # MLflow with it, or be a user's script without a guard. Where the work is a function of that module, they do.
        of_main = b"__main__" in pickle.dumps((function, prepare, arguments))
        context = get_context("loky_init_main" if of_main else "loky")
        self.pool = ProcessPool(
            max_workers=processes, context=context, initializer=_begin, initargs=(prepare, *arguments)
        )
        with without_ctrl_c():
            assert self.pool.active  # it starts the threads that will start the processes

    def __enter__(self) -> "Guarded[Item, Result]":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.pool.close()  # type: ignore[no-untyped-call]
        else:
            self.pool.stop()  # type: ignore[no-untyped-call]
        self.pool.join()

    def schedule(self, items: Sequence[Item]) -> Iterator[Result | Failed]:
        """Hand items over at once, as one chunk; going through what is returned waits for their results, in order.

        Where the chunk fails, its items are tried again one by one.
        """
        return self._collect(items, self.pool.schedule(self.function, args=[items], timeout=self.seconds))

    def _collect(self, chunk: Sequence[Item], future: "Future[list[Result]]") -> Iterator[Result | Failed]:
        try:
            yield from future.result()
        except (TimeoutError, ProcessExpired) as error:
            if len(chunk) == 1:
                if isinstance(error, TimeoutError):
                    yield Failed("too_slow", f"not done in {self.seconds:g} s")
                else:
                    yield Failed("crashed", "its process died")
                return
            again = [self.schedule([item]) for item in chunk]
            for alone in again:
                yield from alone


def guarded(
    function: Callable[[Sequence[Item]], list[Result]],
    items: Sequence[Item],
    *,
    seconds: float,
    prepare: Callable[..., None],
    arguments: tuple[Any, ...] = (),
    processes: int = 1,
    chunk: int = CHUNK,
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
        Time limit of one item, and of a chunk, which should need far less.
    prepare, arguments
        Called first in every new process.
    processes
        How many processes share the work, at most; no more are started than there are chunks.
    chunk
        Items handed to a process at a time.
    """
    if not items:
        return
    workers = max(1, min(processes, -(-len(items) // chunk)))
    with Guarded(function, seconds=seconds, prepare=prepare, arguments=arguments, processes=workers) as pool:
        waiting: deque[Iterator[Result | Failed]] = deque()
        for at in range(0, len(items), chunk):
            waiting.append(pool.schedule(items[at : at + chunk]))
            if len(waiting) > AHEAD * workers:
                yield from waiting.popleft()
        while waiting:
            yield from waiting.popleft()


def _begin(prepare: Callable[..., None], *arguments: Any) -> None:
    # Pebble's own handler would wait for the end of what hangs, and hold the other processes up for three seconds.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    prepare(*arguments)
