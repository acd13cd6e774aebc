"""``annsoftmax predict`` without its command line: what a run has trained, asked about inputs that it has not seen."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from annsoftmax_ref.datasets.inputs import are_images
from annsoftmax_ref.datasets.unlabelled import UnlabelledFeatures, UnlabelledImages
from annsoftmax_ref.evaluation import embed
from annsoftmax_ref.experiments import tasks
from annsoftmax_ref.experiments.jobs import Job, job_of_settings, make_parts
from annsoftmax_ref.head import SoftmaxHead

BATCH = 256  # rows that are read, embedded and searched at once


class Rows(NamedTuple):
    """A batch of an input: its rows that could be read, and their embeddings [b, d]."""

    source: UnlabelledFeatures | UnlabelledImages
    rows: list[int]
    embeddings: Tensor


@dataclass
class Predictor:
    """A trained backbone and head, and their data set, for the names of classes and the form of inputs."""

    job: Job
    step: int
    data: Any
    model: nn.Module
    head: SoftmaxHead

    def open(self, path: str | os.PathLike, embeddings: bool, skip: int | None):
        """An input: a .npy file of features (``embeddings``: of what the backbone would give), images or an image.

        ValueError for one that the backbone cannot take.
        """
        if embeddings:
            return UnlabelledFeatures(path, self.job.dim)
        sample = tasks.sample_of(self.data)
        if are_images(sample):
            return UnlabelledImages(path, *tasks.form_of(sample), skip)
        if not isinstance(sample, Tensor) or not sample.is_floating_point():
            raise ValueError(
                f"task is {self.job.task!r}, whose inputs predict cannot read; give embeddings that the backbone made"
            )
        return UnlabelledFeatures(path, sample.shape[1])

    def embedded(self, sources: list, embeddings: bool) -> Iterator[Rows]:
        """All rows of the sources, ``BATCH`` at a time."""
        for source in sources:
            for index in torch.arange(len(source)).split(BATCH):
                inputs, rows = source.batch(index)
                if rows:
                    place = self.head.weight.device
                    yield Rows(source, rows, inputs.to(place) if embeddings else embed(self.model, inputs))


def load_predictor(folder: str | Path, device: torch.device, task: str | None = None) -> Predictor:
    """What the newest checkpoint of ``annsoftmax train --checkpoints FOLDER`` holds, in evaluation mode.

    task: where the data are now, if they have moved; they are read for the classes' names and the form of an input.
    Raises ValueError for a folder without checkpoints, broken ones, and data of other classes.
    """
    # Here, since every command reads this file and torch's distributed checkpoints take a second to import.
    from annsoftmax_ref.training.sharded import load_trained, newest_checkpoint

    whole, content = newest_checkpoint(folder)
    job = job_of_settings(content["settings"])
    job = job if task is None else dataclasses.replace(job, task=task)
    data = tasks.load_task(job.task)
    if data.num_classes != content["classes"]:
        raise ValueError(
            f"task is {job.task!r}, which has {data.num_classes} classes now; the checkpoint {whole} was trained on "
            f"{content['classes']}: name the data as they were then (--task)"
        )
    model, head = make_parts(job, data, device)
    load_trained(whole, content, model, head)
    return Predictor(job, content["step"], data, model.eval(), head.eval())
