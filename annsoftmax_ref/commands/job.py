"""The arguments that say which head is to be trained: of ``plan``, ``bench capacity`` and ``bench cluster``."""

from __future__ import annotations

import argparse
import dataclasses

from annsoftmax_ref.experiments.runs import STORAGES
from annsoftmax_ref.planning import memory


def add_job(parser: argparse.ArgumentParser) -> None:
    """The arguments that say what is to be trained: ``planning.memory.Training``'s."""
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--groups", type=int, help="active sets a batch; default: by the rule")
    parser.add_argument(
        "--storage", default="fp32", choices=list(STORAGES), help="of weights and the optimizer's buffers"
    )
    parser.add_argument(
        "--products", default="bf16", choices=list(memory.PRODUCTS), help="of the matrix products (autocast)"
    )
    parser.add_argument("--optimizer", default="sgd", choices=list(memory.BUFFERS))
    parser.add_argument(
        "--flat", type=int, help="as NearestClasses': 1 or 2 for a search without lists (default: 1 on a GPU, else 0)"
    )


def job_of(arguments: argparse.Namespace, on_gpu: bool) -> memory.Training:
    """What they describe. on_gpu: how it is searched where nobody says."""
    given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(memory.Training)}
    if given["flat"] is None:
        given["flat"] = int(on_gpu)
    return memory.Training(**given)
