"""Kernels of cells that several tests launch. Line 1 stands for the magic's."""

DOUBLE = """
__global__ void double_1(const float* x, float* out, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = 2 * x[i];
}
"""
# A thread a row, which reads down a column of the warp's rows.
ROW_SUMS = """
__global__ void row_sums(const float* x, float* out, int rows, int columns) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    float sum = 0;
    for (int j = 0; j < columns; ++j) sum += x[row * columns + j];
    out[row] = sum;
}
"""
TURNED = """
__global__ void turned(const int* x, int* out) {
    __shared__ int parts[64];
    parts[threadIdx.x] = x[threadIdx.x];
    out[threadIdx.x] = parts[63 - threadIdx.x];
}
"""
