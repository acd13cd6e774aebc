"""A whole step on CUDA tensors that hold no data, on a machine without a GPU: what it would make the host wait for.

    with fake_cuda() as seen:
        head = SoftmaxHead(..., device="cuda")
        ...
    seen.waits     # Counter {"file:line": how often}: values read back, equality, shapes that depend on data, copies

Tensors are torch's fake ones, a device guard that does nothing stands for CUDA's, launchers return 0. Where a value is
read back, it is 1 for flags and 0 for numbers; of a shape that depends on data, the largest is taken.
"""

import contextlib
import functools
import re
import traceback
from collections import Counter
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from annsoftmax_ref import deferred
from kernels_inline import compiler, dispatch, kernel_op
from kernels_inline.cuda import sources

ROOT = Path(__file__).parents[1]
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace {
struct Guard final : public c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
    c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);
}  // namespace
int64_t registered() { return 1; }
"""
aten = torch.ops.aten


class Stub:
    """In place of the CUDA library."""

    def has(self, name):
        return name in sources.launcher_files()

    def call(self, name, *arguments):
        return 0


class Reached:
    """In place of an event."""

    def synchronize(self):
        pass


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.waits, self.ops = Counter(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.ops += 1
        kwargs = kwargs or {}
        replaced = REPLACED.get(function)
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        if replaced is not None:
            found = replaced(*args, **kwargs)
            if found is not NotImplemented:
                if any(a.is_cuda for a in tensors):  # the host has what is on the CPU
                    self._note(function)
                return found
        result = function(*args, **kwargs)
        if function in (aten.any.default, aten.any.dim):
            result.read_as = False  # nothing is wrong with what is looked for
        if function in (aten._to_copy.default, aten.copy_.default) and self._crosses(result, tensors, args, kwargs):
            self._note(function)
        return result

    def _crosses(self, result, tensors, args, kwargs):
        """Whether it is a copy between the devices that the host waits for."""
        waits = not kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        return waits and len({t.device.type for t in (result, *tensors)}) > 1

    def _note(self, function):
        stack = traceback.extract_stack()
        where = [frame for frame in stack if re.search("annsoftmax_ref/|kernels_inline/", frame.filename)]
        place = f"{Path(where[-1].filename).relative_to(ROOT)}:{where[-1].lineno}" if where else "?"
        self.waits[f"{place} {function.__name__}"] += 1


def _scalar(x):
    if hasattr(x, "read_as"):
        return x.read_as
    return 1 if x.dtype in (torch.bool, torch.uint8) else 0 if not x.is_floating_point() else 0.5


def _all_of_them(x, indices):
    masks = [index for index in indices if index is not None and index.dtype == torch.bool]
    if not masks:
        return NotImplemented
    return x.flatten(0, masks[0].dim() - 1) if len(indices) == 1 else NotImplemented


def _unique(x, *arguments, **named):
    flat = x.reshape(-1)
    return flat, torch.empty_like(x, dtype=torch.int64), torch.empty_like(flat, dtype=torch.int64)


REPLACED = {
    aten._local_scalar_dense.default: _scalar,
    aten.equal.default: lambda a, b: True,
    aten.nonzero.default: lambda x: x.new_empty(x.numel(), x.dim(), dtype=torch.int64),
    aten._unique2.default: _unique,
    aten.index.Tensor: _all_of_them,
    aten.bincount.default: lambda x, weights=None, minlength=0: x.new_empty(max(1, minlength)),
}


@functools.cache
def _register_guard():
    from torch.utils.cpp_extension import load_inline

    with compiler.ready_for_load_inline(str(compiler.build_folder())):
        load_inline("annsoftmax_fake_cuda", GUARD, functions=["registered"], extra_cflags=["-O0"])


def _moved(module, device=None, **others):
    """``Module.to``, which cannot swap fake parameters: a head's are made where they belong, buffers are moved."""
    for part in module.modules():
        part._buffers.update({name: b if b is None else b.to(device) for name, b in part._buffers.items()})
    return module


@contextlib.contextmanager
def fake_cuda(monkeypatch):
    _register_guard()
    monkeypatch.setattr(dispatch, "library_for", lambda place: Stub())
    monkeypatch.setattr(kernel_op, "_are_plain", lambda arguments: True)  # the op itself runs, not its fake form
    monkeypatch.setattr(torch.nn.Module, "to", _moved)
    monkeypatch.setattr(deferred, "_mark", lambda device: Reached())
    seen = Seen()
    with FakeTensorMode(allow_non_fake_inputs=True), seen:
        yield seen


@torch.no_grad()
def backward(loss):
    """``loss.backward()``, a node after the other in this thread; torch's engine asks for a device that exists."""
    order, seen = [], set()

    def visit(node):
        if node is not None and node not in seen:
            seen.add(node)
            for child, _ in node.next_functions:
                visit(child)
            order.append(node)

    visit(loss.grad_fn)
    given = {loss.grad_fn: {0: torch.ones_like(loss)}}
    for node in reversed(order):
        arrived = given.get(node, {})
        if hasattr(node, "variable"):  # a leaf
            grad = arrived[0].to(node.variable.dtype)  # as the engine does
            if grad.is_sparse:  # which loses the mark that it is coalesced
                grad = torch.sparse_coo_tensor(grad._indices(), grad._values(), grad.shape, check_invariants=False)
            node.variable.grad = grad
            continue
        run = getattr(node, "apply", node)  # of a Function in Python, or of torch itself
        slopes = run(*(arrived.get(place) for place in range(max(arrived) + 1)))
        slopes = [slope for slope in (slopes if isinstance(slopes, tuple) else (slopes,)) if slope is not None]
        wanted = [(child, place) for child, place in node.next_functions if child is not None]
        for (child, place), slope in zip(wanted, slopes, strict=True):
            before = given.setdefault(child, {}).get(place)
            given[child][place] = slope if before is None else before + slope
