"""ANN Softmax: train a classifier with very many classes, scoring each batch against the nearest few.

After *ANN Softmax: Acceleration of Extreme Classification Training* (Zhao et al., PVLDB 15(1), 2021).

The files beside this one are the method. ``head`` takes a batch, embeddings [B, d] and labels [B], through its stages:

1. groups: which samples share an active set (``grouping``)
2. search: each sample's nearest classes, by sign-bit codes in inverted lists (``index``, ``lists``,
   ``shortlists``; ``list_sizes`` says how many there are)
3. active set: of each group, A classes with its own labels among them (``active_sets``); what to search and how to fill
   up is the selector's choice (``selectors``; ``nearest`` for ANN Softmax)
4. rows: those A weight rows, brought up to date, gathered and scaled to length 1 (``rows``)
5. objective: logits, margin, softmax over the active set, loss (``loss``, ``objectives/``)
6. gradients: of the embeddings, and of the active rows alone (``loss`` and ``rows``, backward)
7. row update: momentum or Adam on those rows; the others catch up when they are next read (``optim``,
   ``row_optimizer``, ``row_buffers``)
8. index: codes of the rows that moved are rewritten, lists and centroids follow (``index`` again, told by ``nearest``)

Where the classes are split over processes (``SoftmaxHead(..., process_group=...)``), ``shards`` says which are whose
and what is sent, ``agreement`` what all must know before a batch is scored; ``sharded_loss`` is stages 5 and 6, of
``logit_sums``; ``global_order`` ranks candidates among those of all processes; ``splitting`` makes such a head,
``clipping`` takes one norm of all gradients.

``row_parameter`` is the weight, and what optimizer and index must know of each other, ``row_log`` which rows moved,
``row_gradient`` what may be done with its gradient; ``every_row`` is for what needs all rows at once; ``host_numbers``
knows what a GPU is not to be asked, ``deferred`` asks it without waiting, ``captured`` makes of a whole step one CUDA
graph; ``batch`` is what is done with a batch before it is scored, ``prediction`` what a head is asked beside its loss,
``class_index`` how that is searched for, ``following`` how an index keeps up with rows that move, ``saving`` what
loading a head means for its index; ``class_changes`` adds classes and removes them, ``row_change`` says what becomes of
rows, ``index_changes`` of lists and codes. ``diagnostics`` measures what a head left out, ``factory`` makes heads by
name, ``backend`` chooses between kernels and plain torch, ``checks`` refuses bad input, ``cli`` is the command line.

The rooms:

- ``reference/``: the whole method in float64 NumPy, one short function a stage: the specification
- ``objectives/``: cross entropy, CosFace, ArcFace, D-Softmax and their relatives
- ``rivals/``: other ways to choose classes, from the literature
- ``beyond/``: options that go beyond the paper
- ``exchange/``: weights from other libraries into a head, and out of it for these
- ``training/``: the loop, its recipe, small backbones, checkpoints
- ``evaluation/``: what a trained model is worth, as the field measures it
- ``datasets/``: drawings made of fonts, readers of published formats, words of texts
- ``experiments/``: comparisons of heads, their records, tables and plots
- ``bench/``: time and memory of steps, searches and kernels
- ``planning/``: memory and time of a head before it is made, on one card or split over many
- ``commands/``: a file for each subcommand
- ``machine/``: what it is, its devices, memory and files
- ``lessons/``: what the notebooks share
"""

import os
import sys

# Matrices of tens of megabytes come and go in each step. With huge pages their first use costs a five-hundredth of
# the page faults; torch reads this when it is imported, so it helps only where this package is imported first.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# A command's threads sleep soon when they wait for work, so that what runs beside it has the cores; in a program of
# somebody's own that is for them to say (``machine.threads``). OpenMP, too, reads it when torch is imported.
if {"annsoftmax", "annsoftmax_ref"} & set(map(os.path.basename, sys.orig_argv[1:3])) and not os.getenv(
    "OMP_WAIT_POLICY"
):
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from annsoftmax_ref.clipping import clip_grad_norm_
from annsoftmax_ref.exchange import (
    load_linear,
    load_numpy,
    load_partial_fc,
    load_safetensors,
    to_faiss,
    to_linear,
    to_numpy,
    to_onnx,
    to_safetensors,
)
from annsoftmax_ref.factory import ANNSoftmax, make_head
from annsoftmax_ref.head import SoftmaxHead
from annsoftmax_ref.index import IVFBinaryIndex
from annsoftmax_ref.machine.memory import keep_freed_memory
from annsoftmax_ref.nearest import NearestClasses
from annsoftmax_ref.objectives import (
    ArcFace,
    CombinedMargin,
    CosFace,
    CrossEntropy,
    DSoftmax,
    DSoftmaxB,
    DSoftmaxK,
    InsightFaceArcFace,
    Objective,
    from_degrees,
    make_objective,
)
from annsoftmax_ref.optim import RowAdamW, RowSGD
from annsoftmax_ref.rivals import ForestClasses, LabelGraphClasses, LogQClasses, LSHClasses
from annsoftmax_ref.selectors import AllClasses, RandomClasses, Selector

__version__ = "0.1.0"

__all__ = [
    "ANNSoftmax",
    "AllClasses",
    "ArcFace",
    "CombinedMargin",
    "CosFace",
    "CrossEntropy",
    "DSoftmax",
    "DSoftmaxB",
    "DSoftmaxK",
    "ForestClasses",
    "IVFBinaryIndex",
    "InsightFaceArcFace",
    "LSHClasses",
    "LabelGraphClasses",
    "LogQClasses",
    "NearestClasses",
    "Objective",
    "RandomClasses",
    "RowAdamW",
    "RowSGD",
    "Selector",
    "SoftmaxHead",
    "clip_grad_norm_",
    "from_degrees",
    "keep_freed_memory",
    "load_linear",
    "load_numpy",
    "load_partial_fc",
    "load_safetensors",
    "make_head",
    "make_objective",
    "to_faiss",
    "to_linear",
    "to_numpy",
    "to_onnx",
    "to_safetensors",
]
