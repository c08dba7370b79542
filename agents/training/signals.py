"""Signals: a run ends between two updates, with a checkpoint.

    SIGINT                 Ctrl-C
    SIGTERM                before a scheduler kills, or somebody does
    SIGHUP                 the terminal is closed, or the connection to it is lost
    SIGUSR1                a scheduler's warning that the time is almost over: sbatch --signal=USR1@120

After any of them the process ends with 128 and the signal's number, as a shell has it, so that a job script can tell
that the run is to be resumed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_WARNINGS = ("SIGHUP", "SIGUSR1")
"""Signals that may come twice for one reason: from the shell and the terminal, to a job and to each of its steps."""


class Terminated(SystemExit):
    """Raised at every signal but Ctrl-C's; ends the process with 128 and the signal's number: 143 at SIGTERM.

    Args:
        number: The signal's number.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(128 + number)


class Interrupts:
    """A context in which the first signal is a request, which the training loop answers between two updates.

    Without it, KeyboardInterrupt is raised wherever the interpreter happens to be. It can leave an update half done, or
    vanish in code that cannot raise (a destructor, a callback), and the run would not stop. A second SIGINT or SIGTERM
    does not wait. A program's own handlers are left in place, and so is nohup's, which ignores SIGHUP.

    Attributes:
        requested: The number of the signal that came; 0 while none did.
    """

    def __enter__(self) -> Interrupts:
        """Puts its handlers in the place of the default ones. Returns itself."""
        self.requested = 0
        self._answers_at_once = False
        self._before = {}
        # Windows has neither SIGHUP nor SIGUSR1.
        self._warnings = [getattr(signal, name) for name in _WARNINGS if hasattr(signal, name)]
        if threading.current_thread() is threading.main_thread():  # signals cannot be handled in another one
            defaults = dict.fromkeys((signal.SIGTERM, *self._warnings), signal.SIG_DFL)
            for number, default in {signal.SIGINT: signal.default_int_handler, **defaults}.items():
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
            KeyboardInterrupt: At SIGINT.
            Terminated: At any other.
        """
        if number:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A context in which a stop loses nothing, so that a signal does not wait for its end."""
        self._answers_at_once = True
        try:
            yield
        finally:
            self._answers_at_once = False

    def _request(self, number: int, frame: object) -> None:
        again = bool(self.requested)
        if again and number in self._warnings:
            return
        self.requested = number
        if again or self._answers_at_once:
            self.answer(number)
        say("\nFinishing this update. A second Ctrl-C or SIGTERM stops at once.")


def say(text: str) -> None:
    """Prints to stderr. Where the terminal is gone, as after SIGHUP, this and all that follows is printed nowhere.

    Args:
        text: The text.
    """
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
