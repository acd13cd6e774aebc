"""How much a function allocates, by torch's own count."""

import gc

from torch.profiler import ProfilerActivity, profile


def most_allocated(function):
    """The most bytes on the CPU at any moment of ``function()``, over those that it began with."""
    gc.collect()  # what is freed meanwhile, and was there before, would be taken off
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        function()
    held = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most
