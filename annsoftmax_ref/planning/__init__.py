"""How much memory a head will take, and how long a step, before anything is allocated: ``annsoftmax plan``."""
