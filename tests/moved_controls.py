"""Controls of a picture, moved as a reader would move them."""

import gc
import time

QUICK = 0.5  # seconds of a redraw that a reader does not wait for; 0.15 to 0.2 where nothing else runs


def move(box, *moves):
    """Each (name, value) in turn: the picture is a new one each time, and nothing is said. The seconds that each took,
    of this process alone."""
    seen, seconds = [box.picture.value], []
    for name, value in moves:
        gc.disable()  # to go through what other tests have left is no part of drawing a picture
        try:
            start = time.process_time()
            box.controls[name].value = value
            seconds.append(time.process_time() - start)
        finally:
            gc.enable()
        assert box.picture.value not in seen, f"{name} was moved to {value}, and the picture stayed as it was"
        assert box.message.value == ""
        seen.append(box.picture.value)
    return seconds
