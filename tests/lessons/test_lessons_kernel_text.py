"""Signatures of kernels as they are written, structs among them; every kernel of the package with plain fields too."""

import pytest
import torch

from annsoftmax_ref.lessons import kernel_text
from kernels_inline.cuda import sources

TEXT = """
struct Plain { int key, take; };  // struct Comment { int none; };
template <class T>
struct Rows {
    static constexpr int most = 3;
    const T* rows;            // [N, d]
    const int64_t *first, *second;
    float scale = 1.0f;
    __device__ const T* row(int64_t i) const { return rows + i * scale; }
};
template <class T, int n = 4>
__global__ void __launch_bounds__(256, 2) scan(Rows<T> rows, const T* __restrict__ x, float4* out, bool yes, Plain at) {
    if (yes) out[0] = {};
}
extern "C" __global__ void other(unsigned n) {}
"""


def leaves(name, *template_arguments):
    taken = kernel_text.parameters(kernel_text.signatures(TEXT)[name], template_arguments, TEXT)
    return [leaf for parameter in taken for leaf in parameter.leaves()]


def test_kernels_and_their_templates_are_found():
    found = kernel_text.signatures(TEXT)
    assert list(found) == ["scan", "other"]
    assert found["scan"].template == ("T", "n") and found["other"].template == ()
    assert found["scan"].parameters[1] == ("const T* __restrict__", "x")


def test_structs_become_their_fields_and_template_parameters_their_arguments():
    found = [(leaf.name, leaf.type, leaf.pointer, leaf.constant) for leaf in leaves("scan", "uint16_t", "8")]
    assert found == [
        ("rows.rows", "uint16_t", True, True),
        ("rows.first", "int64_t", True, True),
        ("rows.second", "int64_t", True, True),
        ("rows.scale", "float", False, False),
        ("x", "uint16_t", True, True),
        ("out", "float4", True, False),
        ("yes", "bool", False, False),
        ("at.key", "int", False, False),
        ("at.take", "int", False, False),
    ]


def test_tensors_that_a_pointer_takes():
    bits, _, _, _, _, four, *_ = leaves("scan", "uint16_t", "8")
    assert bits.dtypes == {torch.uint16, torch.int16, torch.bfloat16} and four.dtypes == {torch.float32}


def test_the_launcher_hands_everything_over():
    taken = kernel_text.parameters(kernel_text.signatures(TEXT)["scan"], ("float", "8"), TEXT)
    text = kernel_text.launcher("scan", ("float", "8"), taken)
    assert "LAUNCH((scan<float, 8>), dim3(gx, gy, gz), dim3(bx, by, bz), size_t(shared), stream" in text
    assert "Rows<float>{(const float*)a0, (const int64_t*)a1, (const int64_t*)a2, (float)a3}" in text
    assert "(float4*)a5, (bool)a6, Plain{(int)a7, (int)a8});" in text
    assert "void* a0, void* a1, void* a2, double a3" in text


def test_nearly_every_kernel_of_the_package_can_be_given_its_arguments():
    beyond = []
    for path in sources.files():
        text = sources.text_of(path)  # with the structs of its headers
        for name, signature in kernel_text.signatures(path.read_text()).items():
            try:
                taken = kernel_text.parameters(signature, ("float",) * len(signature.template), text)
                assert taken and all(leaf.type for one in taken for leaf in one.leaves())
            except ValueError:
                beyond.append(name)
    # Structs with an array in them.
    assert beyond == [f"{rows}_{version}" for rows in ("gather_rows", "step_rows") for version in (1, 2, 3)]


def test_what_cannot_be_given_is_said():
    text = "struct S { float x[4]; };\n__global__ void f(S s) {}"
    with pytest.raises(ValueError, match=r"float x\[4\] cannot be given to a kernel cell"):
        kernel_text.parameters(kernel_text.signatures(text)["f"], (), text)
