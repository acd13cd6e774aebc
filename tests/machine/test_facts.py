"""facts.py: what a record says of its machine."""

import json
import platform

import torch

from annsoftmax_ref import machine


def test_a_record_s_facts_are_plain_values():
    facts = machine.describe()
    assert facts["torch"] == torch.__version__ and facts["threads"] == torch.get_num_threads() and facts["gpu"] is None
    assert facts["cores"] == machine.cores() >= 1 and facts["python"] == platform.python_version()
    assert json.loads(json.dumps(facts)) == facts
    assert set(machine.cpu_features()) <= set(machine.CPU_FEATURES)


def test_what_is_not_there_has_no_version(tmp_path, monkeypatch):
    assert machine.version_of("numpy") and machine.version_of("no-such-package") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, script in (("told", "echo told 1.2.3"), ("silent", "exit 3")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    assert machine.tool_version("told") == "told 1.2.3"
    assert machine.tool_version("silent") is None and machine.tool_version("missing") is None
