"""What a plan counts, beside what torch's allocator gave."""

import pytest
import torch
from allocations import most_allocated

from annsoftmax_ref.bench.capacity import TrainedPart, bench_capacity
from annsoftmax_ref.planning.memory import Training, kept, largest, moments, total
from kernels_inline import build

N, D, B = 40_000, 64, 128
JOBS = [
    Training(N, D, B, groups=1),
    Training(N, D, B, groups=8),
    Training(N, D, B, groups=1, products="fp32"),
    Training(N, D, B, groups=4, products="fp32", optimizer="adamw"),
    Training(N, D, B, groups=4, storage="bf16"),
    Training(N, D, B, groups=4, storage="bf16", optimizer="sgd_without_momentum"),
    Training(N, D, B, groups=1, storage="bf16", optimizer="adamw"),
    Training(N, D, B, groups=4, storage="fp8"),
    Training(N, D, B, groups=4, storage="fp8_int8"),
    Training(N, D, B, groups=1, storage="fp8", optimizer="adamw"),
]


@pytest.mark.skipif(not build.available(), reason=str(build.why_not()))
@pytest.mark.parametrize("job", JOBS, ids=str)
def test_a_plan_is_within_three_percent_of_what_is_allocated(job):
    trained = TrainedPart(job)
    for _ in range(3):
        trained()
    parts, planned = trained.parts(), kept(job)
    assert list(parts) == list(planned)
    for part, count in parts.items():
        near = 0.15 if part.startswith("lists") else 0.03  # how long the longest list is depends on the rows
        assert planned[part] == pytest.approx(count, rel=near), part
    assert total(job) == pytest.approx(sum(parts.values()) + most_allocated(trained), rel=0.03)


def test_a_flat_search_keeps_what_is_planned():
    """Its step is not looked at: on the CPU plain torch searches, with large temporaries."""
    job = Training(N, D, B, groups=4, flat=1)
    trained = TrainedPart(job)
    trained()
    for part, count in trained.parts().items():
        assert kept(job)[part] == pytest.approx(count, rel=0.03), part


def test_what_is_planned_grows_as_it_should():
    job = Training(1_000_000, rate=0.1)
    assert kept(Training(1_000_000, storage="bf16"))["weights"] * 2 == kept(job)["weights"]
    assert kept(Training(1_000_000, optimizer="adamw"))["optimizer's buffers"] == 2 * kept(job)["optimizer's buffers"]
    assert job.sets == 1 and job.named == job.active and Training(1_000_000, rate=1.0, groups=3).named == 1_000_000
    one, many = (moments(Training(1_000_000, groups=g)) for g in (1, 8))
    assert all(many[moment] >= one[moment] for moment in one)


def test_the_largest_that_fits():
    job = Training(1_000_000, storage="bf16", rate=0.01)
    room = 10**10
    found = largest(job, room)
    near = [total(Training(int(found * by), storage="bf16", rate=0.01)) for by in (1, 1.01)]
    assert near[0] <= room < near[1]
    assert largest(job, 100) == 0


@pytest.mark.parametrize(
    "wrong, name",
    [({"classes": 0}, "classes"), ({"rate": 2}, "sample_rate"), ({"groups": 0}, "groups"), ({"flat": 3}, "flat is 3")]
    + [({"storage": "int3"}, "storage is 'int3'"), ({"optimizer": "lbfgs"}, "optimizer is 'lbfgs'")]
    + [({"storage": "fp8_int8", "optimizer": "adamw"}, "storage is 'fp8_int8' with adamw")],
)
def test_a_job_that_is_none(wrong, name):
    with pytest.raises(ValueError, match=name):
        Training(**{"classes": 1000} | wrong)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("storage", ["fp32", "bf16", "fp8", "fp8_int8"])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_plan_is_what_a_gpu_gives(storage, groups):
    row = bench_capacity(Training(400_000, 256, 256, groups=groups, storage=storage, flat=1), torch.device("cuda"))
    assert row["planned"] == pytest.approx(row["taken"], rel=0.03)
