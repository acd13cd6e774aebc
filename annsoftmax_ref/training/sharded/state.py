"""What a checkpoint holds of a training run, by names that do not depend on how many processes there are.

    name            what                                                     read by
    rows/NAME       has a row a class: weight, bias, class_weights, codes,   each process: the rows of its classes,
                    buffers of row optimizers                                however many processes there are
    same/NAME       is the same everywhere: the backbone, its optimizer's    all
                    buffers, the head's ``common`` generator
    own/RofP/NAME   is process R's own: lists, centroids and clocks of an    process R, if there are P of them again
                    index, other buffers of a selector, generators

On another number of processes what is each one's own is made anew: the index from the rows, generators from a seed of
step, process and number of processes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import Metadata

from annsoftmax_ref.host_numbers import set_number
from annsoftmax_ref.splitting import seed_of
from annsoftmax_ref.training.sharded.optimizers import optimizer_numbers, optimizer_tensors, put_optimizer
from annsoftmax_ref.training.sharded.together import Together

ROWS = ("weight", "bias", "class_weights", "selector.index.codes", "selector.index.written")  # of a head
OPTIMIZER = "optimizer."


@dataclass
class TrainingState:
    """What training changes, and the settings that resuming needs to find unchanged.

    model: the backbone, the same on all processes (what DistributedDataParallel wraps, not the wrapper). head: a
    SoftmaxHead, ordinary or split over the processes. optimizers, generators: by names of yours; generators are for
    what is drawn beside the head, ``{"dropout": torch.default_generator}`` say. settings: numbers, texts,
    lists and dicts.
    """

    model: nn.Module
    head: nn.Module
    optimizers: dict[str, torch.optim.Optimizer]
    scheduler: object | None = None
    settings: dict = field(default_factory=dict)
    generators: dict[str, torch.Generator] = field(default_factory=dict)

    @property
    def run(self) -> dict:
        """What must be the same in a run that goes on with it."""
        return {
            "classes": self.head.num_classes,
            "embedding_size": self.head.embedding_size,
            "settings": self.settings,
        }

    def bring_up_to_date(self) -> None:
        """The optimizers' rows that lag, then the head with its index."""
        for optimizer in self.optimizers.values():
            if hasattr(optimizer, "flush"):  # torch's optimizers have nothing that lags
                optimizer.flush()
        self.head.sync()

    def numbers(self) -> dict:
        """What is no tensor."""
        return {
            "optimizers": {name: optimizer_numbers(part, self._names()) for name, part in self.optimizers.items()},
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
        }

    def tensors(self, together: Together) -> dict[str, Tensor]:
        """By their names in a checkpoint, those of this process; nothing is copied."""
        own = f"own/{together.rank}of{together.ranks}/"
        found = {f"same/model.{name}": value for name, value in _tensors_of(self.model, "model")}
        for name, value in _tensors_of(self.head, "head"):
            kind = "rows/" if name in ROWS else own if name.startswith("selector.") else "same/"
            found[f"{kind}head.{name}"] = value
        if hasattr(self.head, "common"):
            found["same/head.common"] = self.head.common.get_state()
        for name, generator in self._generators().items():
            found[own + name] = generator.get_state()
        for optimizer, part in self.optimizers.items():
            for kind, name, value in optimizer_tensors(part, self._names(), self._row_parameters()):
                found[f"{own if kind == 'own' else kind + '/'}{OPTIMIZER}{optimizer}.{name}"] = value
        return found

    def targets(self, metadata: Metadata, together: Together) -> dict[str, Tensor]:
        """Empty tensors for all that this process is to read of a checkpoint, by their names."""
        own, first = f"own/{together.rank}of{together.ranks}/", self._rows_here()
        sizes = {name: (part.size, part.properties.dtype) for name, part in metadata.state_dict_metadata.items()}
        return {
            name: torch.empty((first, *size[1:]) if name.startswith("rows/") else size, dtype=dtype)
            for name, (size, dtype) in sizes.items()
            if name.startswith(("rows/", "same/", own))
        }

    def check(self, numbers: dict, metadata: Metadata, together: Together, same_ranks: bool) -> None:
        """ValueError if what a checkpoint has is not what this state consists of."""
        live, total = self.tensors(together), self.head.num_classes
        there = {name: (tuple(part.size), part.properties.dtype) for name, part in metadata.state_dict_metadata.items()}
        for name, value in live.items():
            if OPTIMIZER in name or name == "same/head.common" or (name.startswith("own/") and not same_ranks):
                continue
            size = (total, *value.shape[1:]) if name.startswith("rows/") else tuple(value.shape)
            if there.get(name) != (size, value.dtype):
                found = "not there" if name not in there else "{} of {}".format(*there[name])
                raise ValueError(f"its {name} is {found} and should be {size} of {value.dtype}")
        # Others' own parts are known by those of a process that has classes, too.
        known = {_bare(name) for name in live} | {"head.common"}
        for name in there:
            without_classes = "head.selector." in name and self._rows_here() == 0
            if OPTIMIZER not in name and not without_classes and _bare(name) not in known:
                raise ValueError(f"it has {name}, which this run has not")
        saved, mine = (
            {name: (part["kind"], part["parameters"]) for name, part in every["optimizers"].items()}
            for every in (numbers, self.numbers())
        )
        if saved != mine:
            raise ValueError(f"its optimizers have {saved} and should have {mine}")
        if (numbers["scheduler"] is None) != (self.scheduler is None):
            raise ValueError("only one of the two, the checkpoint and this run, has a scheduler")

    def put(self, read: dict[str, Tensor], numbers: dict, step: int, together: Together, same_ranks: bool) -> None:
        """Make what was read, which ``check`` has found right, the state."""
        named = {_bare(name): value for name, value in read.items()}
        self.model.load_state_dict(_part(named, "model."))
        self._put_head(_part(named, "head."), same_ranks)
        for name, generator in self._generators().items():
            if same_ranks:
                generator.set_state(named[name])
            else:
                generator.manual_seed(seed_of(generator.initial_seed(), step, together.ranks, together.rank))
        for name, part in self.optimizers.items():
            put_optimizer(part, self._names(), numbers["optimizers"][name], _part(named, f"{OPTIMIZER}{name}."))
        if self.scheduler is not None:
            self.scheduler.load_state_dict(numbers["scheduler"])

    def _put_head(self, read: dict[str, Tensor], same_ranks: bool) -> None:
        head, live = self.head, self.head.state_dict()
        whole = same_ranks or self._rows_here() == 0  # a process without classes has no index to make anew
        given = {name: read[name] for name in live if name in read}
        head.load_state_dict(live | given if whole else given, strict=whole)
        index = getattr(head.selector, "index", None)
        if not whole and index is not None:
            set_number(index.trained, False)  # its lists are of other rows: they are made before the next search
        if hasattr(head, "common") and "common" in read:
            head.common.set_state(read["common"])

    def _generators(self) -> dict[str, torch.Generator]:
        return {"head.generator": self.head.generator} | {
            f"generator.{name}": generator for name, generator in self.generators.items()
        }

    def _names(self) -> dict[Tensor, str]:
        """Of the parameters that an optimizer may have."""
        parts = {"model": self.model, "head": self.head}
        return {value: f"{part}.{name}" for part, module in parts.items() for name, value in module.named_parameters()}

    def _row_parameters(self) -> set[Tensor]:
        return {value for value in (self.head.weight, self.head.bias) if value is not None}

    def _rows_here(self) -> int:
        return len(self.head.weight)


def _tensors_of(module: nn.Module, where: str) -> Iterator[tuple[str, Tensor]]:
    """The entries of its state but for those that PyTorch calls extra, which a head has for its generator."""
    for name, value in module.state_dict().items():
        if name.rpartition(".")[2] != "_extra_state":
            yield name, value
        elif where == "model":
            raise ValueError(f"model has an extra state ({name}), which no checkpoint can hold; it should be buffers")


def _bare(name: str) -> str:
    """NAME of rows/NAME, same/NAME and own/RofP/NAME."""
    return re.sub("^(rows|same|own/[^/]*)/", "", name)


def _part(named: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
