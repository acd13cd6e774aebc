"""The head in the trainers that people use, a script of at most 40 lines each, tested against the real libraries.

They train on ``points``, made up on the spot; put data and a network of your own in their place. What goes with what is
in README.md.
"""
