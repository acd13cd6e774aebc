"""C++ and CUDA kernels for ANN Softmax, compiled at first use by torch.utils.cpp_extension.load_inline.

One ``.cpp`` file a stage, each with an ``_ops.py`` file that checks tensors, allocates results and registers the
stage with ``torch.library``; ``cuda/*.cu`` holds the same functions for GPUs. Importing this package compiles nothing;
``build.available()`` says whether the C++ kernels can run here, ``build.why_not()`` why they cannot, and
``build.library_for(device)`` gives those for a device. ``choice`` is where a backend is asked for by name.
"""
