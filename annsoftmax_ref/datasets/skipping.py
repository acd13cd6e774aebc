"""Broken files in a folder: a few are passed over and named, more than that are an error."""

from __future__ import annotations

import logging
import os

from annsoftmax_ref.checks import check_from_0

SHARE, AT_LEAST = 0.01, 10  # of the files, where nobody says how many

logger = logging.getLogger(__name__)


class Skipped:
    """The files of ``folder`` that were passed over, each named by a warning in the log.

    skip: so many may be; None: a hundredth of the ``files`` that there are, and at least 10.
    """

    def __init__(self, skip: int | None, files: int, folder: str | os.PathLike):
        self.limit = max(AT_LEAST, int(SHARE * files)) if skip is None else check_from_0("skip", skip)
        self.folder, self.reasons = folder, []

    def add(self, error: ValueError) -> None:
        """One more; ``error`` names the file and says what is wrong with it. ValueError if it is one too many."""
        self.reasons.append(str(error))
        if len(self.reasons) > self.limit:
            raise ValueError(
                f"skip is {self.limit}, but {self.folder} has more broken files than that; raise skip, or replace or "
                f"remove them; number {len(self.reasons)}: {error}"
            ) from error
        logger.warning("skipped (%d of at most %d): %s", len(self.reasons), self.limit, error)

    @property
    def last(self) -> str:
        """The last one, as a further clause of an error's sentence; empty if there was none."""
        return f"; {len(self.reasons)} skipped, the last: {self.reasons[-1]}" if self.reasons else ""
