"""What the notebooks share: a trained head to look at, checkers for the exercises, controls to move a picture with.

The pictures of one notebook are pure functions in a module named after it (``bits.py`` for notebook 04), with its
exercises beside them.
``toy`` is the small example that goes through them, ``diagrams`` has the drawings that are no plots, ``course`` the way
from one to the next.
"""

from annsoftmax_ref.lessons.controls import explore
from annsoftmax_ref.lessons.exercises import check
from annsoftmax_ref.lessons.trained import Trained, load_trained

__all__ = ["Trained", "check", "explore", "load_trained"]
