"""How much memory a head will take, and how long a step, before anything is allocated: ``annsoftmax plan``.

``memory`` and ``times`` are of one card, ``ranks``, ``communication`` and ``cluster`` of classes split over many.
"""
