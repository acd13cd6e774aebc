"""A cell that is a CUDA kernel: shown, compiled, launched and counted, with a GPU or without one.

    %load_ext annsoftmax_ref.lessons.kernel_cells

    %%cuda_kernel double_1
    __global__ void double_1(const float* x, float* out, int n) {
        const int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) out[i] = 2 * x[i];
    }

    double_1[4, 256](x, out, 1000)             # blocks, threads, and bytes of dynamic shared memory if there are any
    double_1.traffic[4, 256](x, out, 1000)     # Traffic: what it read and wrote
    double_1.accesses[4, 256](x, out, 1000)    # Requests of one warp: which lane used which element
    double_1.check[4, 256](x, out, 1000)       # a sentence on races and accesses outside

``cuda_kernel(source)`` does the same from a string. Tensors on the CPU run on the emulator, which is slow, ends a
launch before it uses memory outside its arguments, and names the line; tensors on a GPU run there.

A template is instantiated by the name: ``%%cuda_kernel scale<float, 4>``, or ``scale.of("float", "4")``. Functions and
structs that several cells need stand in a ``%%cuda_helpers NAME`` cell; a kernel's cell takes them by ``using``:
``%%cuda_kernel scale using NAME``. All that launch.h has is there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from annsoftmax_ref.lessons import kernel_text
from annsoftmax_ref.lessons.kernel_arguments import KernelError
from annsoftmax_ref.lessons.kernel_launches import Helpers, Kernel
from annsoftmax_ref.lessons.kernel_page import put_style, show


def cuda_kernel(source: str, name: str = "", using: Sequence[Helpers] = ()) -> Kernel:
    """The kernel ``name`` of a source, by default its last one; "name<float, 4>" instantiates a template.

    Raises ValueError if the source has no such kernel. It is compiled when it is first launched.
    """
    kernels = kernel_text.signatures(source)
    own, _, arguments = name.partition("<")
    if not kernels or (own and own not in kernels):
        there = f"it has {', '.join(kernels)}" if kernels else "it has none: a kernel begins with __global__ void NAME("
        raise ValueError(f"the cell has no kernel {own or 'at all'}; {there}")
    return Kernel(
        own or list(kernels)[-1], source, tuple(kernel_text.split(arguments.rpartition(">")[0])), tuple(using)
    )


def load_ipython_extension(ipython) -> None:
    """%load_ext annsoftmax_ref.lessons.kernel_cells"""

    def kernel_cell(line: str, cell: str) -> None:
        names, helpers = names_in(line)
        for name in names:
            try:
                kernel = cuda_kernel(f"\n{cell}", name, [ipython.user_ns[one] for one in helpers])
            except (KeyError, ValueError) as error:
                missing = isinstance(error, KeyError)
                return print(f"no cell has bound {error}; helpers come from %%cuda_helpers" if missing else error)
            ipython.user_ns[kernel.name] = kernel
            if name == names[0]:
                show(cell, f"kernel {kernel}")
            _compile_and_tell(kernel)

    def helpers_cell(line: str, cell: str) -> None:
        ipython.user_ns[line.strip()] = Helpers(line.strip(), f"\n{cell}")
        show(cell, f"helpers {line.strip()}")

    put_style()
    ipython.register_magic_function(kernel_cell, "cell", "cuda_kernel")
    ipython.register_magic_function(helpers_cell, "cell", "cuda_helpers")


def _compile_and_tell(kernel: Kernel) -> None:
    try:
        if len(kernel.template_arguments) == len(kernel.signature.template):
            kernel.compile()
    except (KernelError, ValueError) as error:
        print(f"{kernel.name} cannot be compiled. {error}")


def names_in(line: str) -> tuple[list[str], list[str]]:
    """ "scale<float, 4> add using rows" -> (["scale<float, 4>", "add"], ["rows"])"""
    kernels, _, helpers = f" {line} ".partition(" using ")
    return re.findall(r"\w+(?:<[^>]*>)?", kernels), helpers.split()
