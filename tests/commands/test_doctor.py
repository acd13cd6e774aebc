"""doctor.py and machine.py."""

import json

import torch

from annsoftmax_ref import cli, machine
from annsoftmax_ref.commands import doctor


def test_doctor_reports_facts_for_people_and_programs(capsys):
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in ("cpu", "compiler", "nvcc", "runs with", torch.__version__):
        assert word in text
    assert cli.main(["doctor", "--json", "-"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["torch"] == torch.__version__ and isinstance(facts["missing"], list)


def test_what_is_missing_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(machine, "version_of", lambda package: None)
    facts = doctor.examine()
    missing = {item["what"]: item["install"] for item in facts["missing"]}
    assert "cxx-compiler" in missing["a C++ compiler"]
    assert missing["jupyterlab"] == "pip install 'annsoftmax-ref[notebooks]'"
    for what, command in missing.items():
        assert what in doctor.report(facts) and command in doctor.report(facts)
