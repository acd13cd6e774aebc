"""The machine: what it is (``facts``), its devices and their precision (``device``), its threads, memory and files."""

from annsoftmax_ref.machine.device import find_device
from annsoftmax_ref.machine.facts import (
    CPU_FEATURES,
    cores,
    cpu_features,
    cpu_name,
    describe,
    tool_version,
    version_of,
)

__all__ = [
    "CPU_FEATURES",
    "cores",
    "cpu_features",
    "cpu_name",
    "describe",
    "find_device",
    "tool_version",
    "version_of",
]
