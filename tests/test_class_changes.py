"""class_changes.py: classes come and go, and everything of all others stays as it is."""

import copy
import gc

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_heads import assert_same_state, losses_of

from annsoftmax_ref import (
    AllClasses,
    ForestClasses,
    LabelGraphClasses,
    LogQClasses,
    LSHClasses,
    NearestClasses,
    RandomClasses,
    RowAdamW,
    RowSGD,
    SoftmaxHead,
    row_optimizer,
)
from annsoftmax_ref.row_parameter import unwatched

N, D, B = 60, 8, 12
ANN = {"groups": 3, "nlist": 4, "candidates": 6}
FOLLOW = {
    "all": AllClasses,
    "random": lambda: RandomClasses(0.5),
    "log-q": lambda: LogQClasses(0.5),
    "ann": lambda: NearestClasses(0.5, **ANN),
    "ann by default": lambda: NearestClasses(0.5),
    "residual codes": lambda: NearestClasses(0.5, centre=True, far=False, **ANN),
    "turned": lambda: NearestClasses(0.5, rotate=True, asymmetric=True, rerank=False, **ANN),
    "flat": lambda: NearestClasses(0.5, flat=2, groups=2),
    "tail": lambda: NearestClasses(0.5, tail=0.3, **ANN),
    "priority": lambda: NearestClasses(0.5, priority=True, **ANN),
    "mass": lambda: NearestClasses(0.5, mass_target=0.9, **ANN),
}
REBUILT = {
    "lsh": lambda: LSHClasses(0.5, tables=4, rebuild_steps=5),
    "forest": lambda: ForestClasses(0.5, trees=3, leaf_size=4, rebuild_steps=5),
    "knn": lambda: LabelGraphClasses(0.5, rebuild_steps=5),
}
SELECTORS = FOLLOW | REBUILT
STEP = {"lr": 0.3, "weight_decay": 1e-2}
ROWS = {
    "RowSGD": lambda p: RowSGD(p, momentum=0.9, nesterov=True, **STEP),
    "RowAdamW": lambda p: RowAdamW(p, **STEP),
    "8 bits": lambda p: RowSGD(p, momentum=0.9, momentum_dtype=torch.int8, **STEP),
}
SPARSE = ROWS | {
    "SparseAdam": lambda p: torch.optim.SparseAdam(list(p), lr=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.5),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9),  # its momentum of sparse gradients is sparse
}
DENSE = ROWS | {
    "AdamW": lambda p: torch.optim.AdamW(p, amsgrad=True, **STEP),
    "SGD": lambda p: torch.optim.SGD(p, momentum=0.9, nesterov=True, **STEP),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Rprop": torch.optim.Rprop,
}


@pytest.fixture(scope="module", autouse=True)
def few_objects():
    """Optimizers are looked for among all objects of the program; those of the other tests are out of the way."""
    gc.freeze()
    yield
    gc.unfreeze()


def made(selector="random", optimizer=ROWS["RowSGD"], num_classes=N, bias=True, weighted=True, **options):
    weights = torch.rand(num_classes, generator=torch.Generator().manual_seed(1)) + 0.5 if weighted else None
    options = {"dtype": torch.float32 if optimizer is ROWS["8 bits"] else torch.float64} | options
    head = SoftmaxHead(num_classes, D, SELECTORS[selector](), bias=bias, class_weights=weights, **options)
    return head, optimizer(head.parameters())


def batches(steps, num_classes=N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(B, D, generator=generator, dtype=torch.float64)
        yield x, torch.randint(num_classes, (B,), generator=generator)


def directions(n, seed=5):
    return 3 * torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def states(head, optimizer):
    """All that is saved, copied: of the head, and of the optimizer for each parameter, by name."""
    saved = copy.deepcopy(optimizer.state_dict())
    by_name = {
        f"{number} {name}": value.to_dense() if value.is_sparse else value
        for number, state in saved["state"].items()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    ids = ("class_ids", "ids_given")
    return {name: t.clone() for name, t in head.state_dict().items() if name not in ids}, by_name


def assert_same(found, wanted):
    for ours, theirs in zip(found, wanted, strict=True):
        assert_same_state(ours, theirs)


@pytest.mark.parametrize("optimizer", SPARSE)
@pytest.mark.parametrize("selector", ["random", "ann"])
def test_adding_and_removing_again_leaves_no_trace_for_any_optimizer(selector, optimizer):
    check_no_trace(selector, SPARSE[optimizer])


@pytest.mark.parametrize("selector", [name for name in FOLLOW if name not in ("random", "ann")])
def test_adding_and_removing_again_leaves_no_trace_for_any_selector(selector):
    check_no_trace(selector, ROWS["RowAdamW"])


def check_no_trace(selector, optimizer):
    changed, plain = (made(selector, optimizer) for _ in range(2))
    for head, own in (changed, plain):
        losses_of(head, own, batches(7))  # rows lag
    assert_same(states(*changed), states(*plain))
    losses_of(*plain, batches(3, seed=1))
    losses_of(*changed, batches(3, seed=1))
    places = changed[0].remove_classes(changed[0].add_classes(9, directions(9)))
    assert torch.equal(places, torch.cat([torch.arange(N), torch.full((9,), -1)]))
    assert losses_of(*changed, batches(7, seed=2)) == losses_of(*plain, batches(7, seed=2))
    assert_same(states(*changed), states(*plain))


@pytest.mark.parametrize("optimizer", DENSE)
@pytest.mark.parametrize("selector", ["all", "random"])
def test_dense_gradients_leave_no_trace_either(selector, optimizer):
    changed, plain = (made(selector, DENSE[optimizer], sparse=False) for _ in range(2))
    for head, own in (changed, plain):
        losses_of(head, own, batches(3))
    changed[0].remove_classes(changed[0].add_classes(9, directions(9)))
    assert losses_of(*changed, batches(3, seed=2)) == losses_of(*plain, batches(3, seed=2))
    assert_same(states(*changed), states(*plain))


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_head_made_with_the_new_number_loads_the_state_and_goes_on_alike(selector):
    """Also: the same active sets, and so the same losses, as a head that had these classes from the start."""
    head, optimizer = made(selector)
    losses_of(head, optimizer, batches(6))
    head.add_classes(50, directions(50))  # so many that other numbers of lists, bits and leaves would be chosen
    head.remove_classes([3, 60, 7])
    other, its_own = made(selector, num_classes=N + 47, seed=9)
    other.load_state_dict(copy.deepcopy(head.state_dict()))
    its_own.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(other.class_ids, head.class_ids)
    assert losses_of(other, its_own, batches(8, N + 47)) == losses_of(head, optimizer, batches(8, N + 47))
    assert_same(states(other, its_own), states(head, optimizer))
    assert torch.equal(other.add_classes(2), torch.tensor([N + 50, N + 51]))


@pytest.mark.parametrize("selector", ["all", "at rate 1"])
def test_full_softmax_is_that_of_a_head_with_those_classes_from_the_start(selector, monkeypatch):
    monkeypatch.setitem(SELECTORS, "at rate 1", lambda: NearestClasses(1.0, **ANN))
    whole, its_own = made("all", num_classes=N + 9, weighted=False)
    head, optimizer = made(selector, weighted=False)
    with torch.no_grad():
        head.weight.copy_(whole.weight[:N])
    head.add_classes(9, 7 * whole.weight.detach()[N:])
    found = losses_of(head, optimizer, batches(6, N + 9))
    assert found == pytest.approx(losses_of(whole, its_own, batches(6, N + 9)), rel=1e-12)
    torch.testing.assert_close(head.weight.detach(), whole.weight.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rows, dense, near", [("RowSGD", "SGD", 1e-9), ("RowAdamW", "AdamW", 1e-4)])  # nearly a form
def test_rows_that_lag_are_what_a_dense_optimizer_makes_of_them(rows, dense, near, monkeypatch):
    """Through many changes, also where the sweep would come to a row too late for the table by age."""
    monkeypatch.setattr(row_optimizer, "WINDOW", 8)
    dense = {"SGD": DENSE["SGD"], "AdamW": lambda p: torch.optim.AdamW(p, **STEP)}[dense]
    monkeypatch.setitem(SELECTORS, "few", lambda: RandomClasses(0.1))
    pairs = [made("few", ROWS[rows], 400), made("few", dense, 400, sparse=False)]
    losses = [[], []]
    for one, (head, optimizer) in zip(losses, pairs, strict=True):
        for n, gone in ((1, range(0, 180)), (300, range(200, 560))):
            one += losses_of(head, optimizer, batches(11, head.num_classes, seed=n))
            head.add_classes(n, directions(n))
            one += losses_of(head, optimizer, batches(12, head.num_classes, seed=n + 1))
            head.remove_classes(gone)
        one += losses_of(head, optimizer, batches(11, head.num_classes))
    weights = [head.weight.detach() for head, _ in pairs]
    torch.testing.assert_close(*weights, rtol=near, atol=near)


def test_the_table_by_age_has_room_for_rows_that_the_sweep_gets_to_later(monkeypatch):
    """An eighth more classes, and none is caught up for it: rows that lag stay as they are, to the last bit."""
    monkeypatch.setattr(row_optimizer, "WINDOW", 64)
    monkeypatch.setitem(SELECTORS, "few", lambda: RandomClasses(0.05))
    head, optimizer = made("few", num_classes=640)
    losses_of(head, optimizer, batches(100, 640))
    with unwatched():  # else reading brings them up to date
        kept = [head.weight.detach(), *optimizer.kept_tensors()]
        before = [tensor.clone() for tensor in kept]
        ages = before[2].max() - before[2]  # before: the weight, its momentum, the steps that rows are at
    assert ages.max() >= 60
    head.remove_classes(head.add_classes(80))
    with unwatched():
        assert all(map(torch.equal, before, [head.weight.detach(), *optimizer.kept_tensors()]))


@pytest.mark.parametrize("selector", REBUILT)
def test_what_is_rebuilt_from_time_to_time_is_rebuilt_in_the_next_step(selector):
    head, optimizer = made(selector)
    losses_of(head, optimizer, batches(6))
    head.add_classes(20)
    head.remove_classes([1, 70])
    fresh = SELECTORS[selector]()
    fresh.bind(N + 18, D, head.objective.scale)
    generator = torch.Generator()
    generator.set_state(head.generator.get_state())
    weight = head.weight.detach().clone()
    head.selector.prepare(head.weight, head.generator)
    fresh.prepare(weight, generator)
    assert_same_state(head.selector.state_dict(), fresh.state_dict())


def test_a_selector_of_ones_own_is_bound_anew():
    class Recent(RandomClasses):
        def bind(self, num_classes, embedding_size, scale=1.0):
            super().bind(num_classes, embedding_size, scale)
            self.register_buffer("seen", torch.zeros(num_classes))

        def observe(self, x, active, weight, generator):
            self.seen[active.labels()] += 1

    head = SoftmaxHead(N, D, Recent(0.5), dtype=torch.float64)
    optimizer = RowSGD(head.parameters(), lr=0.1)
    losses_of(head, optimizer, batches(2))
    head.add_classes(5)
    assert head.selector.num_classes == N + 5 and head.selector.seen.tolist() == [0] * (N + 5)
    losses_of(head, optimizer, batches(2, N + 5))
    assert head.selector.seen.sum() == 2 * B


LOTS = st.lists(st.one_of(st.integers(1, 9), st.sets(st.integers(0, 200), min_size=1)), min_size=1, max_size=5)


@settings(max_examples=6, deadline=None)
@given(changes=LOTS, seed=st.integers(0, 99))
def test_any_sequence_of_changes_is_that_of_a_dictionary_of_classes(changes, seed):
    head, optimizer = made("ann", bias=True)
    known, given_ids = dict.fromkeys(range(N)), N

    def rows():
        head.sync()
        state, index = optimizer.state[head.weight], head.selector.index
        return zip(
            head.weight.detach().tolist(),
            head.bias.detach().tolist(),
            head.class_weights.tolist(),
            state["momentum_buffer"].tolist(),
            index.codes.tolist(),
            index.assignment.tolist(),
            strict=True,
        )

    for number, change in enumerate(changes):
        losses_of(head, optimizer, batches(2, head.num_classes, seed + number))
        known = dict(zip(known, rows(), strict=True))
        if isinstance(change, int):
            new = directions(change, seed + number)
            ids = head.add_classes(change, new, class_weights=torch.full((change,), 2.5)).tolist()
            assert ids == list(range(given_ids, given_ids + change))
            given_ids += change
            units = F.normalize(new, dim=1)
            torch.testing.assert_close(head.weight.detach()[-change:], units)
            lists = head.selector.index.nearest_list(units.float())
            codes = head.selector.index.encode(units.float(), lists)
            for i, id_ in enumerate(ids):
                row = head.weight.detach()[head.num_classes - change + i].tolist()
                known[id_] = (row, 0.0, 2.5, [0.0] * D, codes[i].tolist(), int(lists[i]))
        else:
            gone = [id_ for id_ in sorted(change) if id_ in known][: len(known) - 4]
            if not gone:
                continue
            places = head.remove_classes(gone)
            left = [id_ for id_ in known if id_ not in gone]
            assert places.tolist() == [left.index(id_) if id_ in left else -1 for id_ in known]
            known = {id_: known[id_] for id_ in left}
        assert list(rows()) == list(known.values()) and head.num_classes == len(known)
        assert head.ids_of(range(len(known))).tolist() == list(known)
        wanted = [list(known).index(id_) if id_ in known else -1 for id_ in range(given_ids)]
        assert head.rows_of(range(given_ids)).tolist() == wanted
        lists = head.selector.index.lists
        for row, slot in enumerate(zip(lists.assignment.tolist(), lists.place.tolist(), strict=True)):
            assert int(lists.slots[slot]) == row
            assert torch.equal(lists.slot_codes[slot[0], :, slot[1]], head.selector.index.codes[row])
        assert int((lists.slots >= 0).sum()) == len(known) == int(lists.sizes.sum())
