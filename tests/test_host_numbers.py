"""host_numbers.py: numbers in buffers that the host remembers, and asks for again once somebody else wrote."""

import copy

import torch

from annsoftmax_ref.host_numbers import number, set_number


class Asked(torch.Tensor):
    """Counts how often its value is read."""

    reads = 0

    def __int__(self):
        Asked.reads += 1
        return int(self.as_subclass(torch.Tensor))


def test_what_was_written_or_read_is_not_asked_for_again():
    buffer = torch.zeros((), dtype=torch.int64).as_subclass(Asked)
    Asked.reads = 0
    assert number(buffer) == 0 and number(buffer) == 0 and Asked.reads == 1
    set_number(buffer, 7)
    assert number(buffer) == 7 and int(buffer.as_subclass(torch.Tensor)) == 7 and Asked.reads == 1


def test_what_others_write_is_seen():
    module = torch.nn.Module()
    module.register_buffer("count", torch.zeros((), dtype=torch.int64))
    set_number(module.count, 5)
    module.load_state_dict({"count": torch.tensor(9)})
    assert number(module.count) == 9
    module.count += 1
    assert number(module.count) == 10
    assert number(copy.deepcopy(module).count) == 10


def test_flags_and_buffers_of_inference_mode():
    with torch.inference_mode():
        flag = torch.zeros((), dtype=torch.uint8)
    assert not number(flag)
    flag = torch.zeros((), dtype=torch.uint8)
    set_number(flag, True)
    assert number(flag) == 1
