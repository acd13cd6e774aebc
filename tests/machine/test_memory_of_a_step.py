"""A step of the ann head allocates nothing of order N d or B N: measured, in a process of its own."""

import json
import subprocess
import sys

import pytest

from annsoftmax_ref.machine import memory

SCRIPT = """
import json, torch
from annsoftmax_ref import CosFace, NearestClasses, RowSGD, SoftmaxHead
from annsoftmax_ref.machine import memory
torch.set_num_threads(2)
N, d, B, rate = {classes}, {dim}, {batch}, {rate}
head = SoftmaxHead(N, d, NearestClasses(rate, groups=1), CosFace())
optimizer = RowSGD(head.parameters(), lr=0.1, momentum=0.9)
generator = torch.Generator().manual_seed(0)

def step():
    x = torch.randn(B, d, generator=generator, requires_grad=True)
    head(x, torch.randint(N, (B,), generator=generator)).backward()
    optimizer.step()
    optimizer.zero_grad()

for _ in range(3):
    step()
peaks = []
for _ in range(5):
    with memory.peak_memory(torch.device("cpu")) as peak:
        step()
    peaks.append(peak["peak_mb"])
print(json.dumps({{"peak_mb": max(peaks), "active": head.selector.active_classes}}))
"""


@pytest.mark.skipif(memory.resident_mb() is None, reason="this system does not say how much memory a process holds")
@pytest.mark.parametrize("classes, dim, batch, rate", [(400_000, 128, 256, 0.05), (800_000, 64, 256, 0.02)])
def test_a_step_stays_within_its_budget(classes, dim, batch, rate):
    script = SCRIPT.format(classes=classes, dim=dim, batch=batch, rate=rate)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    found = json.loads(run.stdout.splitlines()[-1])
    active = found["active"]
    budget = (3 * active * dim * 4 + 3 * batch * active * 4 + 2 * classes * dim / 8) / 2**20 + 64
    dense = min(classes * dim, batch * classes) * 4 / 2**20
    assert found["peak_mb"] <= budget
    assert budget < dense, "the case must tell a dense step from a sparse one"
