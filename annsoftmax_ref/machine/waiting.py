"""Lines in the log about work that takes long, for somebody who waits for it."""

from __future__ import annotations

import logging
import time

PATIENCE, INTERVAL = 2.0, 5.0  # seconds before the first line, and between lines


class LongWork:
    """Says how far some work is, if it takes more than ``PATIENCE`` seconds, and nothing if it does not.

    The lines are warnings: those are what a user sees who has set up no logging, and nothing is wrong but that a call
    which is quick as a rule is not back yet. what: the work, as in "making the index of 5,000,000 classes". silent:
    never say anything, where only a busy machine could make the work long.
    """

    def __init__(self, logger: logging.Logger, what: str, silent: bool = False):
        self.logger, self.what, self.silent = logger, what, silent
        self.start = time.monotonic()
        self.next = self.start + PATIENCE
        self.begin("", 1)

    def begin(self, stage: str, total: int) -> None:
        """The next stage of the work, which has ``total`` parts."""
        self.stage, self.total, self.done = stage, total, 0

    def add(self, count: int) -> None:
        """So many more parts of the stage are done."""
        self.done += count
        now = time.monotonic()
        if now >= self.next and not self.silent:
            self.next = now + INTERVAL
            share, spent = self.done / self.total, now - self.start
            self.logger.warning("%s: %s, %.0f%% after %.0f s", self.what, self.stage, 100 * share, spent)
