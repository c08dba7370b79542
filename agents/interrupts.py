"""Ctrl-C and SIGTERM: a run ends between two updates, with a checkpoint."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(SystemExit):
    """SIGTERM, as a scheduler sends it before it kills. Ends the process with the code that shells expect, 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class Interrupts:
    """Turns the first signal into a request, which the training loop answers between two updates.

    Raised wherever the interpreter happens to be, KeyboardInterrupt can leave an update half done, or vanish in code
    that cannot raise (a destructor, a callback), and the run would go on. A second signal does not wait. A program's
    own handlers are left in place.

    Attributes:
        requested: What to raise, once it is safe; None while no signal came.
    """

    def __enter__(self) -> Interrupts:
        self.requested: type[BaseException] | None = None
        self._safe = False
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # signals cannot be handled in another one
            for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
                if signal.getsignal(number) is default:
                    self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise what was asked for, if something was."""
        if self.requested is not None:
            raise self.requested

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A stretch in which nothing is lost by a stop: a signal does not wait for its end."""
        self.check()
        self._safe = True
        try:
            yield
        finally:
            self._safe = False

    def _request(self, number: int, frame: object) -> None:
        again = self.requested is not None
        self.requested = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if again or self._safe:
            raise self.requested
        print("\nFinishing this update. A second signal stops at once.", file=sys.stderr, flush=True)
