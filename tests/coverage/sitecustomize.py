"""Loaded by every Python process of `make coverage`, Ray's too: many of these are killed before they could write.

What was measured is therefore written every second.
"""

import atexit
import os
import threading

import coverage

_SECONDS = 1.0


def _measure() -> None:
    measured = coverage.Coverage(config_file=os.environ["COVERAGE_RCFILE"])
    measured.start()
    over = threading.Event()

    def keep() -> None:
        while not over.wait(_SECONDS):
            measured.save()

    threading.Thread(target=keep, daemon=True).start()

    def finish() -> None:
        over.set()
        measured.stop()
        measured.save()

    atexit.register(finish)


_measure()
