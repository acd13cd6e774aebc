"""Notebook 14's exercises: the models pass and move the least; what is nearly right is not, or is graded so."""

import pytest

from annsoftmax_ref.lessons.choosing_exercises import EXERCISES
from annsoftmax_ref.lessons.kernel_cells import cuda_kernel


@pytest.mark.parametrize("name", EXERCISES)
def test_the_model_solution_moves_the_least(name):
    grade = EXERCISES[name].check(cuda_kernel(EXERCISES[name].model))
    assert grade and (grade.reads, grade.writes) == (1, 1)


@pytest.mark.parametrize(
    "name, right, wrong, words",
    [
        ("keep", "scores[i] > threshold", "scores[i] >= threshold", "kept"),  # an equal score is not kept
        ("keep", "if (i < places)", "if (i < n)", "no thread wrote it"),  # the -1 behind the last scores
        ("keep", "__popc(mask & before) :", "__popc(mask & before) + 1 :", "kept"),
        ("histogram", "mine[threadIdx.x] = 0;\n        __syncthreads();", "mine[threadIdx.x] = 0;", "counts"),
        ("running_sum", "sum += total;", "", "sums[256]"),  # what came before the chunk
        ("running_sum", "sum + before + value", "sum + before", "sums[0]"),  # an exclusive sum
        ("log_sum_exp", "sum *= expf(top - x), top = x;", "top = x;", "results"),  # the sum is not scaled
        ("log_sum_exp", "warp_sum(sum * expf(top - highest))", "warp_sum(sum)", "results"),  # tops of lanes differ
        ("log_sum_exp", "c < A; c += WARP", "c + WARP <= A; c += WARP", "results"),  # the end of a row
    ],
)
def test_what_is_nearly_right_is_found(name, right, wrong, words):
    model = EXERCISES[name].model
    assert model.count(right) == 1
    grade = EXERCISES[name].check(cuda_kernel(model.replace(right, wrong)))
    assert not grade and words in grade.message


def test_a_histogram_that_reads_the_map_for_each_value_is_right_and_says_what_it_costs():
    each = "__global__ void each(const uint8_t* map, int n, int* counts) {\n int found = 0;\n"
    each += " for (int i = 0; i < n; ++i) found += map[i] == threadIdx.x;\n counts[threadIdx.x] = found;\n}"
    assert EXERCISES["histogram"].check(cuda_kernel(each)).reads == 256


def test_every_exercise_has_hints():
    assert all(len(exercise.hints) == 3 for exercise in EXERCISES.values())
