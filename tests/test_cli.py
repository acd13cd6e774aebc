"""cli.py and parser.py: how a call ends, and what every command does with its outputs."""

import subprocess
import sys

import pytest

from annsoftmax_ref import cli

BENCHES = ("search", "step", "growth", "training", "upkeep", "soak", "kernels", "compile")


def ended(arguments):
    try:
        return cli.main(arguments)
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["compare", "--rate", "0"], "sample_rate is 0.0"),
        (["compare", "--rate", "2"], "sample_rate is 2.0"),
        (["compare", "--groups", "0"], "groups is 0"),
        (["compare", "--seeds", "0", "-1"], "seeds holds -1"),
        (["compare", "--task", "letters"], "task is 'letters'"),
        (["compare", "--task", "fonts:/nowhere"], "/nowhere"),
        (["compare", "--heads", "fast"], "invalid choice: 'fast'"),
        (["compare", "--objective", "hinge"], "invalid choice: 'hinge'"),
        (["compare", "--epochs", "0", "--heads", "full"], "epochs is 0"),
        (["compare", "--device", "abacus"], "device"),
        (["count"], "invalid choice: 'count'"),
        ([], "COMMAND"),
    ],
)
def test_wrong_calls_end_with_2_and_one_line(arguments, words, capsys):
    assert ended(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err and captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "command", [("doctor",), ("compare",), ("table",), *(("bench", bench) for bench in BENCHES)], ids=" ".join
)
def test_every_command_has_help_with_an_example(command, capsys):
    assert ended([*command, "--help"]) == 0
    assert f"example: annsoftmax {' '.join(command)}" in capsys.readouterr().out


COMMANDS = [["doctor"], ["compare"], ["table", "rates"], *(["bench", bench] for bench in BENCHES)]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_record_that_cannot_be_written_is_told_before_the_work(command, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main([*command, "--json", str(tmp_path / "file" / "a.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "json is " in captured.err


@pytest.mark.parametrize(
    "command", (["compare"], ["table", "rates"], ["bench", "growth"], ["bench", "upkeep"]), ids=" ".join
)
@pytest.mark.parametrize("name, words", [("a.docx", "it should end in one of"), ("file/a.png", "cannot be written")])
def test_a_plot_that_cannot_be_drawn_is_told_before_the_work(command, name, words, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main([*command, "--plot", str(tmp_path / name)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert f"plot is {tmp_path / name}" in captured.err and words in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_python_m_runs_the_command_line():
    run = subprocess.run([sys.executable, "-m", "annsoftmax_ref", "--version"], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith("annsoftmax ")
