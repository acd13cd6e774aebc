"""``annsoftmax predict``: the nearest classes of features or images, by what ``annsoftmax train`` has saved, as CSV."""

from __future__ import annotations

import argparse
import csv
import sys
import time
from itertools import chain

from tqdm.auto import tqdm

from annsoftmax_ref.checks import check_k, check_positive_int, check_share
from annsoftmax_ref.class_index import check_candidates, find_index, nprobe_for
from annsoftmax_ref.commands.parser import subcommand
from annsoftmax_ref.experiments import records
from annsoftmax_ref.experiments.predictor import Predictor, Rows, load_predictor
from annsoftmax_ref.machine.device import find_device
from annsoftmax_ref.machine.files import check_writable, replacing

COLUMNS = ("file", "row", "rank", "class", "name", "cosine")

K = 5


def add_predict(commands) -> None:
    """Add the command to the sub-parsers ``commands``."""
    parser = subcommand(
        commands,
        "predict",
        _predict,
        "the nearest classes of features or images, by a backbone and head that annsoftmax train has saved",
        "annsoftmax predict runs/a photographs/ --k 5 --out classes.csv",
    )
    parser.add_argument("checkpoints", metavar="CHECKPOINTS", help="the folder that train's --checkpoints named")
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="a .npy file of features [n, d], an image, or a folder of images"
    )
    parser.add_argument("--out", required=True, metavar="FILE.csv", help=f"the table: {', '.join(COLUMNS)}")
    parser.add_argument("--k", type=int, help=f"classes a row; default: {K}, or all where there are fewer")
    parser.add_argument("--approximate", action="store_true", help="search an index, not all classes")
    parser.add_argument("--nprobe", type=int, help="lists that are searched; default: by the head's rule, or --recall")
    parser.add_argument("--candidates", type=int, help="classes whose cosine is computed; default: 100 sqrt(k)")
    parser.add_argument(
        "--recall", type=float, help="with --approximate: as few lists as find this part, on the first batch"
    )
    parser.add_argument("--embeddings", action="store_true", help="the files hold what the backbone would give")
    parser.add_argument("--task", help="where the training data are now, if they have moved, as train's --task")
    parser.add_argument("--skip", type=int, help="so many images may be broken; default: a hundredth, at least 10")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")


def _predict(arguments: argparse.Namespace) -> None:
    _check(arguments)
    predictor = load_predictor(arguments.checkpoints, find_device(arguments.device), arguments.task)
    k = min(K, predictor.head.num_classes) if arguments.k is None else arguments.k
    check_k(k, predictor.head.num_classes)
    sources = [predictor.open(path, arguments.embeddings, arguments.skip) for path in arguments.inputs]
    batches, total = predictor.embedded(sources, arguments.embeddings), sum(map(len, sources))
    first = next(batches, None)
    if first is None:
        raise ValueError(f"inputs are {', '.join(arguments.inputs)}, of which no row could be read; name others")
    options, recall = _search_options(arguments, k, predictor, first)
    start, done = time.perf_counter(), 0
    with (
        replacing(arguments.out) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        tqdm(total=total, unit="row", disable=not sys.stderr.isatty() or arguments.json == "-") as bar,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for batch in chain([first], batches):
            writer.writerows(_lines(predictor, batch, k, options))
            done += len(batch.rows)
            bar.update(len(batch.rows))
    row = {
        "checkpoints": arguments.checkpoints,
        "step": predictor.step,
        "rows": done,
        "left_out": total - done,
        "classes": predictor.head.num_classes,
        "k": k,
        **{"approximate": False, "nprobe": None, "candidates": None, **options},
        "recall": recall,
        "recall_of_rows": None if recall is None else len(first.rows),
        "seconds": time.perf_counter() - start,
    }
    if arguments.json != "-":
        print(_end(row, arguments.out), flush=True)
    if arguments.json:
        records.write_record(records.make_record([row], str(predictor.head.weight.device)), arguments.json)


def _check(arguments: argparse.Namespace) -> None:
    """What is wrong with the call is told before anything is loaded."""
    check_writable("out", arguments.out)
    if arguments.k is not None:
        check_positive_int("k", arguments.k)
    for name in ("nprobe", "candidates", "recall"):
        if getattr(arguments, name) is not None and not arguments.approximate:
            raise ValueError(f"{name} is {getattr(arguments, name)}; it goes with --approximate alone")
    check_candidates(arguments.candidates, arguments.k or 1)
    if arguments.recall is not None:
        check_share("recall", arguments.recall)
        if arguments.nprobe is not None:
            raise ValueError(f"recall is {arguments.recall:g} and nprobe {arguments.nprobe}; give one of them")


def _search_options(arguments, k: int, predictor: Predictor, first: Rows) -> tuple[dict, float | None]:
    """``topk``'s keywords, and the recall that they have on the first batch; None where search is exact."""
    if not arguments.approximate:
        return {}, None
    head, embeddings = predictor.head, first.embeddings
    if find_index(head) is None:
        head.build_index()
    candidates = check_candidates(arguments.candidates, k)
    if arguments.recall is not None:
        nprobe, recall = nprobe_for(head, embeddings, k, arguments.recall, candidates)
    else:
        nprobe = find_index(head)[1] if arguments.nprobe is None else arguments.nprobe
        recall = head.recall_of_topk(embeddings, k, nprobe, candidates)
    return {"approximate": True, "nprobe": nprobe, "candidates": candidates}, recall


def _lines(predictor: Predictor, batch: Rows, k: int, options: dict):
    cosines, classes = predictor.head.topk(batch.embeddings, k, **options)
    names = predictor.data.class_names
    for row, values, found in zip(batch.rows, cosines.tolist(), classes.tolist(), strict=True):
        for rank, (cosine, class_) in enumerate(zip(values, found, strict=True), 1):
            yield *batch.source.name(row), rank, class_, names[class_], f"{cosine:.6f}"


def _end(row: dict, out: str) -> str:
    text = f"done: {row['rows']:,} rows, {row['k']} of {row['classes']:,} classes each, into {out}"
    if row["left_out"]:
        text += f"; {row['left_out']} left out"
    if row["recall"] is None:
        return text
    return (
        f"{text}; {row['nprobe']} lists and {row['candidates']} candidates find {row['recall']:.1%} of what exact "
        f"search finds for the first {row['recall_of_rows']}"
    )
