"""Processes that end with the command that started them, however it ends."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection


@contextmanager
def processes(count: int) -> Iterator[ProcessPoolExecutor | None]:
    """An executor of so many spawned processes; None for 0, which is this process.

    Each of them waits for the end of a pipe whose other end this process alone holds, and exits at
    once when it comes: at the end of the block, and when this process is killed.

    Raises:
        OSError: one of them was killed, as the kernel does where memory is short.
    """
    if not count:
        yield None
        return
    context = get_context("spawn")  # a fork with threads may hang
    watched, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        count, mp_context=context, initializer=_end_with, initargs=(watched,)
    )
    try:
        with _no_interrupts():
            for _ in range(count):
                pool.submit(os.getpid)
        yield pool
    except BrokenProcessPool as error:
        raise OSError(
            "a worker process was killed, perhaps for want of memory; repeat the command to go on, "
            "with fewer --workers or a smaller --chunk"
        ) from error
    finally:
        held.close()
        pool.shutdown(cancel_futures=True)
        watched.close()


def _end_with(watched: Connection) -> None:
    """In a worker: Ctrl-C is for the parent, and the end of the pipe is the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def wait() -> None:
        watched.poll(None)  # nothing is ever sent
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Ctrl-C waits; processes started here never get it, not even before `_end_with`."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
