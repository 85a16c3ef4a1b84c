"""Work on many items in processes of their own, where an item that hangs or kills its process costs only itself."""

import pickle
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from loky.backend import get_context
from pebble import ProcessExpired, ProcessPool

from .parent_watch import follow_parent

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


class Pool:
    """Processes that work on items, where an item that hangs or kills its process costs only itself.

    To be used in a ``with`` block, or closed; the processes start with the first items.
    """

    def __init__(
        self,
        prepare: Callable[..., None],
        arguments: tuple[Any, ...] = (),
        *,
        processes: int = 1,
        function: Callable[..., Any] | None = None,
    ) -> None:
        """Say how the processes begin.

        Parameters
        ----------
        prepare, arguments
            Called first in every new process.
        processes
            How many there are.
        function
            What they will be asked for, where it may be of the program's main module.
        """
        self.processes = processes
        # loky's processes do not import the program's main module, unlike multiprocessing's: it may bring PyTorch and
        # MLflow with it, or be a user's script without a guard. Where the work is a function of that module, they do.
        of_main = b"__main__" in pickle.dumps((function, prepare, arguments))
        context = get_context("loky_init_main" if of_main else "loky")
        self._pool = ProcessPool(
            max_workers=processes, context=context, initializer=_begin, initargs=(prepare, *arguments)
        )

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(at_once=kind is not None)

    def close(self, *, at_once: bool = False) -> None:
        """End the processes; ``at_once``, whatever they are at."""
        if at_once:
            self._pool.stop()  # type: ignore[no-untyped-call]
        else:
            self._pool.close()  # type: ignore[no-untyped-call]
        self._pool.join()

    def start(
        self, function: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item], seconds: float
    ) -> "Future[list[Result]]":
        """Hand items over at once, as one chunk, for :meth:`collect`."""
        with without_ctrl_c():  # the first time it starts the threads that start the processes
            future: Future[list[Result]] = self._pool.schedule(function, args=[items], timeout=seconds)
        return future

    def collect(
        self,
        future: "Future[list[Result]]",
        function: Callable[[Sequence[Item]], list[Result]],
        items: Sequence[Item],
        seconds: float,
    ) -> Iterator[Result | Failed]:
        """Wait for the results of a chunk, in order. Where it fails, its items are tried again one by one."""
        try:
            yield from future.result()
        except (TimeoutError, ProcessExpired) as error:
            if len(items) == 1:
                if isinstance(error, TimeoutError):
                    yield Failed("too_slow", f"not done in {seconds:g} s")
                else:
                    yield Failed("crashed", "its process died")
                return
            again = [(item, self.start(function, [item], seconds)) for item in items]
            for item, alone in again:
                yield from self.collect(alone, function, [item], seconds)

    def schedule(
        self, function: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item], seconds: float
    ) -> Iterator[Result | Failed]:
        """Hand items over at once, as one chunk; going through what is returned waits for their results, in order."""
        return self.collect(self.start(function, items, seconds), function, items, seconds)


def guarded(
    function: Callable[[Sequence[Item]], list[Result]],
    items: Sequence[Item],
    *,
    seconds: float,
    prepare: Callable[..., None],
    arguments: tuple[Any, ...] = (),
    processes: int = 1,
    chunk: int = CHUNK,
    pool: Pool | None = None,
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
    pool
        Processes that are there already, prepared for this work, and go on afterwards.
    """
    if not items:
        return
    workers = pool.processes if pool else max(1, min(processes, -(-len(items) // chunk)))
    own = Pool(prepare, arguments, processes=workers, function=function) if pool is None else nullcontext(pool)
    waiting: deque[tuple[Future[list[Result]], Sequence[Item]]] = deque()
    with own as pool:
        try:
            for at in range(0, len(items), chunk):
                part = items[at : at + chunk]
                waiting.append((pool.start(function, part, seconds), part))
                if len(waiting) > AHEAD * workers:
                    future, part = waiting.popleft()
                    yield from pool.collect(future, function, part, seconds)
            while waiting:
                future, part = waiting.popleft()
                yield from pool.collect(future, function, part, seconds)
        finally:
            for future, _ in waiting:  # where nobody waits for the rest
                future.cancel()


def _begin(prepare: Callable[..., None], *arguments: Any) -> None:
    # Pebble's own handler would wait for the end of what hangs, and hold the other processes up for three seconds.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    follow_parent()
    prepare(*arguments)
