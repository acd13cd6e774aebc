"""A CUDA graph on the CPU: what a step does to tensors is recorded, and done again on the same memory.

A captured step does nothing on the device until it is replayed. This one has to be taken to be recorded: so it is told
what the host decides as it goes, and what it changed is put back.
"""

import contextlib
import re
import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten

from annsoftmax_ref import backend, captured, host_numbers

aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten._unique2.default}


class RecordedGraph(TorchDispatchMode):
    """reads: places in the package where a step asks what a tensor holds, whose answer a replay would not ask for."""

    def __init__(self, kept):
        super().__init__()
        self.kept, self.calls, self.reads = kept, [], set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in READS:
            self._note()
        if function is aten.clone.default and args[0].is_sparse:  # which autograd does only where it is looked at
            return torch.sparse_coo_tensor(args[0]._indices(), args[0]._values(), args[0].shape, check_invariants=False)
        if function is aten._to_copy.default and args[0].is_sparse:
            values = self.__torch_dispatch__(function, types, (args[0]._values(),), {"dtype": kwargs["dtype"]})
            return torch.sparse_coo_tensor(args[0]._indices(), values, args[0].shape, check_invariants=False)
        result = function(*args, **kwargs)
        # Of a sparse gradient the parts are taken and put together, no more.
        if not any(isinstance(x, torch.Tensor) and x.is_sparse for x in (*args, result)):
            self.calls.append((function, args, kwargs, result))
        return result

    def _note(self):
        frames = [f for f in traceback.extract_stack() if re.search("annsoftmax_ref/|kernels_inline/", f.filename)]
        if "kernels_inline/" not in frames[-1].filename:  # there are twins and checks that a GPU does not see
            self.reads.add(f"{frames[-1].filename}:{frames[-1].lineno}")

    @contextlib.contextmanager
    def capture(self):
        before = [(tensor, tensor.detach().clone()) for tensor in self.kept()]
        with self:
            yield
        with _as_if_nobody_wrote(tuple(self.kept())):
            for tensor, values in before:
                tensor.detach().copy_(values)

    def replay(self):
        with torch.no_grad(), _as_if_nobody_wrote(tuple(self.kept())):
            for function, args, kwargs, recorded in self.calls:
                result = function(*args, **kwargs)
                for old, new in zip(tree_flatten(recorded)[0], tree_flatten(result)[0], strict=True):
                    if isinstance(old, torch.Tensor) and not _in_one_place(old, new):
                        assert old.shape == new.shape, f"{function} made {old.shape}, and now {new.shape}"
                        old.copy_(new)


_as_if_nobody_wrote = torch.autograd._unsafe_preserve_version_counter

hear = host_numbers.Retold.hear


def _heard_and_told(self, decide, place):
    with _disable_current_modes():  # what the host does for itself is no part of a graph
        where = hear(self, decide, place)
        if self._captured:
            host_numbers._write(self._decided[-1], where)
    return where


def _in_one_place(a, b):
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata


@contextlib.contextmanager
def graphs_on_the_cpu(kept):
    """In the block, steps are captured on the CPU; kept() -> the tensors that outlive a step."""
    made = []

    def new_graph():
        made.append(RecordedGraph(kept))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch, backend.as_on_a_gpu():
        patch.setattr(host_numbers.Retold, "hear", _heard_and_told)
        patch.setattr(captured, "new_graph", new_graph)
        patch.setattr(captured, "capturing", lambda graph: graph.capture())
        patch.setattr(captured, "aside", lambda device: contextlib.nullcontext())
        yield made
