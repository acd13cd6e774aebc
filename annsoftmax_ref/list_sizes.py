"""How many lists an index has, and how many of them a search probes, where nobody says: by what they cost.

What a class that is looked at costs is not the same everywhere. One thread of an AMD EPYC, 128 numbers a row, batches
of 256: a code takes 0.5 ns (popcounts, eight at a time), a centroid 10 ns in each sample's search (a product, and the
choice of the nearest) and 4 ns for each row whose list a step looks at (1,000 with 50,000 classes or more, four a
sample). So a list costs (10 + 4 * 4) / 0.5, about what 60 codes cost; about 40 with 512 numbers a row. A probe costs
100 ns, and each candidate some 40, however many lists there are. Derived in notebook 05, section "Count the cost".
"""

from __future__ import annotations

import math

LIST = 60  # codes that cost a step as much as one more list does
# Fewer are not worth it: up to 30,000 classes, 32 to 256 lists take the same time (a step looks at fewer rows' lists).
FEW = 128


def default_nlist(num_classes: int) -> int:
    """The power of two nearest to (N / 60)^(2/3), at which a step costs least; up to 128 lists about sqrt(N).

    With p = 2 sqrt(nlist) probes (``default_nprobe``) a sample's share of a step is that of 60 nlist + p N / nlist =
    60 nlist + 2 N / sqrt(nlist) codes. That is least where its derivative 60 - N / nlist^1.5 is zero. The minimum is
    flat: with half or twice as many lists a search and its upkeep together take a tenth more at most.
    """
    cheapest = max((num_classes / LIST) ** (2 / 3), min(FEW, math.sqrt(num_classes)))
    return min(num_classes, 2 ** round(math.log2(cheapest)))


def default_nprobe(nlist: int) -> int:
    """2 sqrt(nlist): 16 of 64, 46 of 512.

    This holds recall, whatever nlist is: of trained prototypes of 20,000 pairs of characters, 64, 128 and 256 lists
    find 60.3, 60.3 and 59.8 % of a sample's 64 nearest among 250 candidates, of 200,000 (half trained) 256, 512 and
    1,024 lists find 38.4, 39.1 and 39.2 % among 625. Half as many probes lose 10 and 5 points there, and next to
    nothing among rows that lie in clusters, such as embeddings: it is the trained rows, pushed apart, that need them.
    """
    return min(nlist, math.ceil(2 * math.sqrt(nlist)))
