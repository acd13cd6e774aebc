"""What the notebooks share: a trained head to look at, checkers for the exercises, controls to move a picture with.

The pictures of one notebook are pure functions in a module named after it (``bits.py`` for notebook 04), with its
exercises beside them.

Kernels in cells, from notebook 12 on: ``kernel_cells`` has the magics, ``kernel_launches`` what they bind, and
``kernel_text``, ``kernel_arguments``, ``kernel_traffic``, ``kernel_faults`` and ``kernel_page`` are its parts;
``kernel_exercises`` grades an answer that is a kernel. ``memory_pictures`` and ``warp_pictures`` draw what a warp does,
in ``svg``.
``processes`` starts real processes from a cell of notebook 17.
``toy`` is the small example that goes through them, ``diagrams`` has the drawings that are no plots, ``course`` the way
from one to the next.
"""

from annsoftmax_ref.lessons.controls import explore
from annsoftmax_ref.lessons.exercises import check
from annsoftmax_ref.lessons.trained import Trained, load_trained

__all__ = ["Trained", "check", "explore", "load_trained"]
