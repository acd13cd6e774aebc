"""``annsoftmax train``: one run, on one process or under torchrun, with checkpoints, a log and a record."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from tqdm.auto import tqdm

from annsoftmax_ref.commands.parser import add_options, read_options, subcommand
from annsoftmax_ref.experiments import records
from annsoftmax_ref.experiments.jobs import Job, Told, read_config, run_job
from annsoftmax_ref.machine.processes import rank_here
from annsoftmax_ref.training.board import Board


def add_train(commands) -> None:
    """Add the command to the sub-parsers ``commands``."""
    parser = subcommand(
        commands,
        "train",
        _train,
        "train a backbone and a head, on one process or with the classes split over those of torchrun",
        "annsoftmax train --task glyphs --head ann --epochs 4 --checkpoints runs/a; or torchrun --nproc-per-node 2 "
        "-m annsoftmax_ref train --config run.toml",
    )
    parser.add_argument("--config", metavar="FILE.toml", help="the same settings as below, by their names; flags win")
    for field in dataclasses.fields(Job):
        _add_flag(parser, field)


def _add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field) -> None:
    kind, help_ = field.metadata["kind"], field.metadata["help"].replace("%", "%%")
    flag, left_out = "--" + field.name.replace("_", "-"), argparse.SUPPRESS
    if kind is dict:
        add_options(parser, help_, left_out)
    elif kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=left_out, help=help_)
    else:
        more = {key: field.metadata[key] for key in ("choices", "metavar") if field.metadata.get(key)}
        default = "" if field.default is None else f" (default: {field.default})"
        parser.add_argument(flag, type=kind, default=left_out, help=help_ + default, **more)


def job_of(arguments: argparse.Namespace) -> Job:
    """What the file says, and the flags, which win."""
    given = read_config(arguments.config) if arguments.config else {}
    flags = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Job) if field.name in arguments}
    if "options" in flags:
        flags["options"] = given.get("options", {}) | read_options(flags["options"])
    return Job(**(given | flags))


def _train(arguments: argparse.Namespace) -> int:
    job, quiet = job_of(arguments), arguments.json == "-"
    with Show(job, quiet) as show:
        row = run_job(job, show)
    if rank_here() == 0:
        if not quiet:
            print(_end(row), flush=True)
        if arguments.json:
            records.write_record(records.make_record([row], row["device_used"]), arguments.json)
    return row["status"]


def _end(row: dict) -> str:
    if row["finished"]:
        name, value = next(iter(row["metrics"].items()))
        return f"done: {row['step']} steps in {row['seconds']:.0f} s of training, {name} {value:.1%}"
    kept = "go on with --resume" if row["checkpoints"] else "nothing is left of it, as there is no --checkpoints"
    return f"stopped by {row['stopped_by']} after step {row['step']}; {kept}"


class Show(Told):
    """A bar on a terminal, else a line an epoch; and the log for TensorBoard."""

    def __init__(self, job: Job, quiet: bool):
        self.terminal, self.quiet = sys.stderr.isatty() and not quiet, quiet
        self.log = job.log
        self.bar = self.board = self.trainer = None

    def begun(self, trainer) -> None:
        self.trainer = trainer
        if self.log is not None:
            self.board = Board(self.log, trainer.step)
        if not self.quiet:
            where = f", going on after step {trainer.step}" if trainer.step else ""
            on = f"{trainer.ranks} processes" if trainer.ranks > 1 else "1 process"
            print(f"training: {trainer.total} steps on {on}{where}", flush=True)
        self.bar = tqdm(total=trainer.total, initial=trainer.step, unit="step", disable=not self.terminal)

    def on_step(self, step: int, loss: float) -> None:
        self.bar.update()
        if step % 10 == 0:
            self.bar.set_postfix_str(f"loss {loss:.3f}")
        if self.board is not None:
            self.board.on_step(step, loss, self.trainer.lr)

    def on_epoch(self, row) -> None:
        tested = "" if row.accuracy is None else f"test {row.accuracy:.1%}, "
        text = f"epoch {row.epoch}/{self.trainer.recipe.epochs}: loss {row.loss:.3f}, {tested}{row.seconds:.0f} s"
        if self.terminal:
            self.bar.write(text)
        elif not self.quiet:
            print(text, flush=True)
        if self.board is not None:
            self.board.on_epoch(self.trainer.step, row)

    def __enter__(self) -> Show:
        return self

    def __exit__(self, *_) -> None:
        for part in (self.bar, self.board):
            if part is not None:
                part.close()
