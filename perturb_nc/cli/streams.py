"""What reaches the terminal: text without commands, in the characters that it has."""

import codecs
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from perturb_nc.show.labels import printable

_WORDS = {
    "λ": "lambda", "β": "beta", "Σ": "Sigma", "σ": "sigma", "μ": "mu", "π": "pi", "Π": "Pi",
    "ρ": "rho", "τ": "tau", "†": "+", "≥": ">=", "≤": "<=", "–": "-", "…": "...", "²": "^2",
    "√": "sqrt ", "·": "*", "×": "x", "→": "->", "‖": "||",
}  # fmt: skip


def speak_every_encoding() -> None:
    """Characters that the terminal does not have, as those of code page 1252, come in words."""
    codecs.register_error("perturb-nc", _in_words)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="perturb-nc")


def _in_words(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_WORDS.get(character, "?") for character in missing), error.end


class _Notes(logging.Handler):
    """What the library logs, in a line of stderr each."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"perturb-nc: note: {printable(record.getMessage())}", file=sys.stderr)


@contextmanager
def notes() -> Iterator[None]:
    """The log of the library on stderr."""
    log, handler = logging.getLogger("perturb_nc"), _Notes()
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before


@contextmanager
def ending_like_ctrl_c() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP interrupt as Ctrl-C does; gives the list of those that came."""
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        """What Python does with Ctrl-C."""
        came.append(number)
        raise KeyboardInterrupt

    before = {}
    here = threading.current_thread() is threading.main_thread()  # the only one that gets signals
    for name in ("SIGTERM", "SIGHUP") if here else ():
        number = getattr(signal, name, None)
        # What is ignored, as SIGHUP under nohup, stays ignored.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, interrupt)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
