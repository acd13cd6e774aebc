"""C++ kernels for ANN Softmax, compiled at first use by torch.utils.cpp_extension.load_inline.

One ``.cpp`` file a stage, each with an ``_ops.py`` file that checks tensors, allocates results and registers the
stage with ``torch.library``. Importing this package compiles nothing; ``build.available()`` says whether the
kernels can run here, and ``build.why_not()`` why they cannot.
"""
