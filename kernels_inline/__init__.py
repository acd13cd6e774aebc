"""C++ and CUDA kernels for ANN Softmax, compiled at first use by torch.utils.cpp_extension.load_inline.

A stage has one stem, from top to bottom:

    STEM_ops.py   checks tensors, allocates results and registers the ops with ``torch.library``
    STEM.cpp      their functions for the CPU, with the headers that they include; not every stage has them
    cuda/STEM.cu  the same functions for GPUs, from naive to fast

``registry`` lists every kernel (``measured_kernel``) with inputs for tests and benchmarks. What runs is decided in
``dispatch``, by the backend that was asked for in ``choice``; ``build`` makes the C++ library, ``cuda/`` those for
GPUs, and ``compiler`` is what both stand on. Importing this package compiles nothing; ``build.why_not()`` says why C++
kernels cannot run here.
"""
