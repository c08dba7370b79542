"""Ctrl-C and SIGTERM: a run ends between two updates, with a checkpoint."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(SystemExit):
    """Raised at SIGTERM, which a scheduler sends before it kills; ends the process with the code 143, as in shells."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class Interrupts:
    """A context in which the first signal is a request, which the training loop answers between two updates.

    Without it, KeyboardInterrupt is raised wherever the interpreter happens to be. It can leave an update half done, or
    vanish in code that cannot raise (a destructor, a callback), and the run would not stop. A second signal does not
    wait. A program's own handlers are left in place.

    Attributes:
        requested: The number of the signal that came; 0 while none did.
    """

    def __enter__(self) -> Interrupts:
        """Puts its handlers in the place of the default ones. Returns itself."""
        self.requested = 0
        self._answers_at_once = False
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # signals cannot be handled in another one
            for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
                if signal.getsignal(number) is default:
                    self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exc: object) -> None:
        """Puts the handlers from before back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @staticmethod
    def answer(number: int) -> None:
        """Raises the exception that a signal stands for.

        Args:
            number: The signal's number; 0: nothing is raised.

        Raises:
            Terminated: At SIGTERM.
            KeyboardInterrupt: At any other.
        """
        if number:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A context in which a stop loses nothing, so that a signal does not wait for its end."""
        self._answers_at_once = True
        try:
            yield
        finally:
            self._answers_at_once = False

    def _request(self, number: int, frame: object) -> None:
        again, self.requested = self.requested, number
        if again or self._answers_at_once:
            self.answer(number)
        print("\nFinishing this update. A second signal stops at once.", file=sys.stderr, flush=True)
