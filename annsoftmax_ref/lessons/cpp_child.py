"""Calls a C++ function on cases, in a process of its own: ``python cpp_child.py LIBRARY NAME CASES RESULTS``.

For ``cpp_exercises``: what a reader writes may crash or never end. CASES is an .npz file with the arguments of every
case ("0_2" is argument 2 of case 0); numbers have no dimension, and those named in its array ``written`` are results:
they go, once a case is done, to the folder RESULTS ("0_2.npy"). All arrays end where a page of memory begins that may
not be touched, so that whoever goes beyond an array's end is stopped there. Before each case its number goes to
standard output. It imports NumPy alone, so that it starts in a tenth of a second.
"""

import ctypes
import mmap
import sys

import numpy as np

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_kept = []  # maps, which live as long as their arrays


def guarded(array):
    """A copy of the array whose end is that of a page, before one that is forbidden."""
    pages = -(-array.nbytes // PAGE) + 1
    memory = mmap.mmap(-1, pages * PAGE)
    _kept.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    _libc.mprotect(start + (pages - 1) * PAGE, PAGE, 0)
    copy = np.ndarray(array.shape, array.dtype, memory, offset=(pages - 1) * PAGE - array.nbytes)
    copy[...] = array
    return copy


def main(library, name, cases, results):
    function = getattr(ctypes.CDLL(library), name)
    function.restype = ctypes.c_int64
    given = np.load(cases)
    written = set(given["written"].tolist())
    names = sorted((key for key in given.files if key != "written"), key=lambda key: [*map(int, key.split("_"))])
    for case in dict.fromkeys(key.partition("_")[0] for key in names):
        print(case, flush=True)
        arguments = {key: given[key] for key in names if key.startswith(f"{case}_")}
        arrays = {key: guarded(value) for key, value in arguments.items() if value.ndim}
        values = [
            ctypes.c_void_p(arrays[key].ctypes.data) if key in arrays else ctypes.c_int64(int(value))
            for key, value in arguments.items()
        ]
        function(*values)
        for key in written & arrays.keys():
            np.save(f"{results}/{key}.npy", arrays[key])


if __name__ == "__main__":
    main(*sys.argv[1:])
