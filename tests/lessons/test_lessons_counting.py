"""Notebook 13's exercises: the models move little, first ideas more, and wrong ones are rejected."""

import pytest

from annsoftmax_ref.lessons.counting import EXERCISES
from annsoftmax_ref.lessons.kernel_cells import cuda_kernel

# A thread a word, which goes through its 32 numbers.
THREAD_A_WORD = """
__global__ void sign_words(const float* x, int* words, int n) {
    const int first = 32 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (first >= n) return;
    unsigned bits = 0;
    for (int j = 0; j < 32 && first + j < n; ++j) bits |= unsigned(x[first + j] > 0) << j;
    words[first / 32] = int(bits);
}
"""
# Every thread reads the query for itself.
QUERY_BY_ALL = """
__global__ void list_distances(const uint64_t* query, const uint64_t* codes, int* distances, int words, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    int distance = 0;
    for (int w = 0; w < words; ++w) distance += __popcll(codes[w * count + i] ^ query[w]);
    distances[i] = distance;
}
"""
WITHOUT_TILES = """
__global__ void smallest(const uint64_t* queries, const uint64_t* codes, int* distances, int batch, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    int best = 129;
    for (int q = 0; q < batch; ++q) {
        const int low = __popcll(codes[2 * i] ^ queries[2 * q]), high = __popcll(codes[2 * i + 1] ^ queries[2 * q + 1]);
        best = min(best, low + high);
    }
    distances[i] = best;
}
"""
GLOBAL_ATOMICS = """
__global__ void how_many(const int* distances, int* counts, int n, int bins) {
    const int end = min(n, 2048 * int(blockIdx.x + 1));
    for (int i = 2048 * blockIdx.x + threadIdx.x; i < end; i += blockDim.x) atomicAdd(&counts[distances[i]], 1);
}
"""
BIT_BY_BIT = """
__global__ void shared_bits(const uint32_t* codes, const uint32_t* queries, int* sums) {
    for (int i = threadIdx.x; i < 128; i += WARP) {
        int sum = 0;
        for (int w = 0; w < 8; ++w) sum += __popc(codes[i / 8 * 8 + w] & queries[i % 8 * 8 + w]);
        sums[i] = sum;
    }
}
"""


@pytest.mark.parametrize("name", EXERCISES)
def test_the_model_solves_it_with_little(name, capsys):
    grade = EXERCISES[name].check(cuda_kernel(EXERCISES[name].model))
    assert grade, grade.message
    assert 1 <= grade.reads < 1.2 and 1 <= grade.writes < 1.3 and grade.sectors <= 2
    assert len(EXERCISES[name].hints) >= 2


@pytest.mark.parametrize(
    "name, source, reads, writes, sectors",
    [
        ("sign_words", THREAD_A_WORD, 1, 1, 7),
        ("list_distances", QUERY_BY_ALL, 1.9, 1, 1),
        ("smallest", WITHOUT_TILES, 60, 1, 7),
        ("how_many", GLOBAL_ATOMICS, 2, 60, 2),
        ("shared_bits", BIT_BY_BIT, 10, 1, 4),
    ],
)
def test_a_first_idea_is_right_and_moves_more(name, source, reads, writes, sectors, capsys):
    grade = EXERCISES[name].check(cuda_kernel(source))
    assert grade, grade.message
    assert grade.reads >= reads and grade.writes >= writes and grade.sectors >= sectors, grade


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("sign_words", "x[i] > 0", "x[i] >= 0"),
        ("sign_words", "i < n && x", "x"),  # reads behind the end
        ("list_distances", "codes[w * count + i]", "codes[i * words + w]"),  # a wrong stride
        ("list_distances", "    __syncthreads();\n", ""),
        ("smallest", "        __syncthreads();\n        if", "        if"),  # shows from the second tile on
        ("smallest", "        __syncthreads();\n        for", "        for"),
        ("smallest", "tile[2 * q + 1]", "tile[2 * q]"),
        ("how_many", "atomicAdd(&counts[i], mine[i])", "counts[i] = mine[i]"),
        ("how_many", "    __syncthreads();\n    for", "    for"),
        ("shared_bits", "codes[8 * (g + 8) + t], codes[8 * g + t + 4]", "codes[8 * g + t + 4], codes[8 * (g + 8) + t]"),
        ("shared_bits", "(g + 8 * (i / 2)) + 2 * t + i % 2", "(g + 8 * (i % 2)) + 2 * t + i / 2"),
    ],
)
def test_wrong_answers_are_rejected(name, old, new, capsys):
    model = EXERCISES[name].model
    assert old in model
    assert not EXERCISES[name].check(cuda_kernel(model.replace(old, new)))
    assert capsys.readouterr().out.startswith("not yet. With ")
