"""Beyond the paper: options of ``NearestClasses``, a file each; all but ``far`` are off unless asked for.

Scored against some classes only, a sample's partition function Z = sum_c e^{s z_c} comes out too small. ``far`` adds
what the classes left out come to, as estimated from the mean rows of their lists: nothing is drawn. ``tail`` and
``priority`` put classes in at random, with a known chance p_c > 0 for every class, and give each the log-weight
-log p_c: then the expectation of sum_c e^{s z_c - log p_c} over the active set is Z, whatever the scores that p came
from. Their cost: a pass over N flags or scores a group, as any union, and random numbers and sorting for O(A) classes,
not N. ``flat`` finds the classes without lists, and ``mass_budget`` moves the number of classes. ``options`` says which
of them go together.
"""
