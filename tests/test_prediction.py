"""prediction.py: what approximate search finds, in which states of a head, and what it leaves alone."""

import copy

import pytest
import torch
from ranks import on_ranks

from annsoftmax_ref import AllClasses, CosFace, CrossEntropy, NearestClasses, RandomClasses, RowSGD, SoftmaxHead
from annsoftmax_ref.bench.vectors import clustered_vectors
from annsoftmax_ref.list_sizes import default_nlist

N, D, NLIST = 3000, 64, 16
DTYPES = [torch.float32, torch.bfloat16, torch.float8_e4m3fn]
SELECTORS = {
    "all classes": AllClasses,
    "random classes": lambda: RandomClasses(0.1),
    "nearest classes": lambda: NearestClasses(0.1, nlist=NLIST),
    "rotated": lambda: NearestClasses(0.1, nlist=NLIST, rotate=True, rerank=False),
    "centred": lambda: NearestClasses(0.1, nlist=NLIST, centre=True),
}


@pytest.fixture(scope="module")
def vectors():
    return clustered_vectors(N, D, 40)


def made(vectors, selector="nearest classes", steps=2, **options):
    """A head of those rows after some steps of training, whose rows lag behind its momentum."""
    head = SoftmaxHead(N, D, SELECTORS[selector](), CosFace(20, 0.1) if not options.get("bias") else None, **options)
    with torch.no_grad():
        head.weight.copy_(vectors.rows)
        if head.bias is not None:
            head.bias.normal_(std=0.05, generator=torch.Generator().manual_seed(0))
    return head, trained(head, vectors, steps)


def trained(head, vectors, steps, optimizer=None):
    optimizer = optimizer or RowSGD(head.parameters(), lr=0.02, momentum=0.9)
    for step in range(steps):
        labels = torch.randint(N, (40,), generator=torch.Generator().manual_seed(step))
        head(vectors.queries, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def everything(head):
    """As many candidates and lists as there are."""
    index = head.class_index.index if head.class_index else head.selector.index
    return {"nprobe": index.nlist, "candidates": N}


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("selector", SELECTORS)
def test_with_all_lists_and_candidates_it_is_exact_search(vectors, selector, dtype, bias):
    head, _ = made(vectors, selector, dtype=dtype, bias=bias)
    if selector in ("all classes", "random classes"):
        head.build_index(NLIST)
    found = head.topk(vectors.queries, 7, approximate=True, **everything(head))
    exact = head.topk(vectors.queries, 7)
    torch.testing.assert_close(found[0], exact[0])
    assert (found[1] == exact[1]).float().mean() > 0.99  # but for cosines that are equal to rounding
    assert found[0].dtype == torch.float32 and found[1].dtype == torch.int64


@pytest.mark.parametrize("selector", ["all classes", "nearest classes"])
def test_a_part_of_the_lists_holds_most_and_the_recall_is_what_was_found(vectors, selector):
    head, _ = made(vectors, selector)
    if selector == "all classes":
        head.build_index()
        assert head.class_index.index.nlist == default_nlist(N)
    _, found = head.topk(vectors.queries, 10, approximate=True, nprobe=3, candidates=60)
    _, exact = head.topk(vectors.queries, 10)
    share = sum(len(set(f.tolist()) & set(e.tolist())) for f, e in zip(found, exact, strict=True)) / exact.numel()
    assert head.recall_of_topk(vectors.queries, 10, 3, 60) == pytest.approx(share)
    assert 0.6 < share < head.recall_of_topk(vectors.queries, 10) and head.recall_of_topk(vectors.queries, 10) > 0.9
    assert head.recall_of_topk(vectors.queries, 10, **everything(head)) == 1


def test_what_is_found_has_its_exact_cosine_and_one_sample_is_as_many(vectors):
    head, _ = made(vectors)
    cosines, classes = head.topk(vectors.queries, 5, approximate=True, nprobe=2)
    torch.testing.assert_close(cosines, (vectors.queries @ head.prototypes().T).gather(1, classes))
    assert (cosines.diff(dim=1) <= 0).all()
    alone = [head.topk(x, 5, approximate=True, nprobe=2)[1] for x in vectors.queries.split(1)]
    assert torch.equal(torch.cat(alone), classes)


def test_lists_that_hold_too_few_classes_are_made_up_for_by_exact_search(vectors):
    head, _ = made(vectors)
    k = int(head.selector.index.lists.sizes.min()) + 1
    cosines, classes = head.topk(vectors.queries, k, approximate=True, nprobe=1, candidates=N)
    sizes = head.selector.index.lists.sizes
    nearest = sizes[(vectors.queries @ head.selector.index.centroids.T).argmax(dim=1)]
    short = nearest < k
    assert short.any() and not short.all() and (classes >= 0).all()
    torch.testing.assert_close(cosines[short], head.topk(vectors.queries[short], k)[0])


def test_rows_that_lag_are_caught_up_where_they_are_read(vectors):
    head, optimizer = made(vectors)
    late, _ = made(vectors)  # not a copy, of which the making brings the head up to date
    found, classes = head.topk(vectors.queries, 5, approximate=True)
    torch.testing.assert_close(found, (vectors.queries @ late.prototypes().T).gather(1, classes))
    assert optimizer.state[head.weight]  # the momentum that held them back


def test_logits_of_some_classes_catch_up_their_rows_and_biases(vectors):
    (head, _), (late, _) = made(vectors, bias=True), made(vectors, bias=True)
    expected, classes = late.logits(vectors.queries), torch.arange(0, N, 3)
    torch.testing.assert_close(head.logits(vectors.queries, classes), expected[:, classes])


@pytest.mark.parametrize("built", [False, True], ids=["the selector's index", "an index of its own"])
def test_looking_changes_nothing_of_training(vectors, built):
    """Without momentum to the last bit; with it rows are caught up where they are read, which rounds."""

    def run(look):
        head, _ = made(vectors, steps=0)
        optimizer = RowSGD(head.parameters(), lr=0.02)
        trained(head, vectors, 2, optimizer)
        if built:
            head.build_index(NLIST)
        for _ in range(3):
            if look:
                mode = head.training
                head.topk(vectors.queries, 5, approximate=True)
                head.eval().topk(vectors.queries, 5, approximate=True, nprobe=2)
                head.train(mode)
            trained(head, vectors, 1, optimizer)
        return head

    one, other = run(True), run(False)
    assert torch.equal(one.generator.get_state(), other.generator.get_state())
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        # The clock tells how often codes were written, which reading rows does, too.
        assert torch.equal(a, b) or name in ("selector.index.clock", "selector.index.written"), name


@pytest.mark.parametrize("owned", [True, False], ids=["by its optimizer", "by anybody"])
def test_an_index_that_was_built_follows_rows_that_move(vectors, owned):
    head, optimizer = made(vectors, "all classes" if not owned else "random classes")
    head.build_index(NLIST)
    before = head.class_index.index.codes.clone()
    if owned:
        trained(head, vectors, 5, optimizer)
        assert not torch.equal(head.prototypes(), vectors.rows)
    else:
        with torch.no_grad():
            head.weight[:10] = -head.weight[:10]
    assert head.recall_of_topk(vectors.queries, 5, **everything(head)) == 1
    assert not torch.equal(head.class_index.index.codes, before)
    found = head.topk(head.prototypes()[:10], 1, approximate=True)[1].flatten()
    assert torch.equal(found, torch.arange(10))


def test_other_rows_get_other_lists_or_one_sentence(vectors):
    others = clustered_vectors(N, D, 40, seed=5)
    head, _ = made(vectors)
    with torch.no_grad():
        head.weight.copy_(others.rows)
    for _ in range(2):  # it stays so, until training makes its lists anew
        with pytest.raises(ValueError, match="has no index of its classes as they are; call head.build_index"):
            head.topk(others.queries, 5, approximate=True)
    trained(head, others, 1)
    assert head.recall_of_topk(others.queries, 5) > 0.8
    head.build_index(NLIST)
    with torch.no_grad():
        head.weight.copy_(vectors.rows)
    assert head.recall_of_topk(vectors.queries, 5) > 0.9  # of its own accord


def test_copies_and_saved_heads_have_no_index_of_their_own(vectors):
    head, _ = made(vectors, "all classes")
    names = list(head.state_dict())
    head.build_index(NLIST)
    assert list(head.state_dict()) == names
    assert copy.deepcopy(head).class_index is None and head.class_index is not None


def test_it_goes_in_inference_mode_and_in_double_precision(vectors):
    head, _ = made(vectors, "all classes", dtype=torch.float64)
    with torch.inference_mode():
        head.build_index(NLIST)
        found = head.topk(vectors.queries.double(), 3, approximate=True, **everything(head))
    torch.testing.assert_close(found[0], head.topk(vectors.queries.double(), 3)[0])
    trained(head, vectors, 0)
    with torch.no_grad():
        head.weight[0] = -head.weight[0]
    with torch.inference_mode():
        assert head.topk(head.prototypes()[:1].double(), 1, approximate=True)[1].item() == 0


def test_a_class_that_only_its_bias_would_bring_is_found_where_all_are_candidates(vectors):
    head = SoftmaxHead(N, D, objective=CrossEntropy(10), bias=True)
    with torch.no_grad():
        head.weight.copy_(vectors.rows)
        far = (vectors.queries @ vectors.rows.T).sum(dim=0).argmin()
        head.bias[far] = 100.0
    head.build_index(NLIST)
    assert (head.topk(vectors.queries, 1, approximate=True, **everything(head))[1] == far).all()
    assert not (head.topk(vectors.queries, 1, approximate=True, nprobe=1, candidates=5)[1] == far).any()


@pytest.mark.parametrize(
    "selector, options, words",
    [
        ("all classes", {"approximate": True}, "approximate is True, but the head has no index"),
        ("nearest classes", {"approximate": True, "nprobe": NLIST + 1}, f"nprobe is {NLIST + 1}; it should be from 1"),
        ("nearest classes", {"approximate": True, "candidates": 4}, "candidates is 4; it should be at least k, 5"),
        ("nearest classes", {"nprobe": 3}, "nprobe is 3, candidates None; they go with approximate=True alone"),
        ("nearest classes", {"candidates": 9}, "nprobe is None, candidates 9; they go with approximate=True alone"),
    ],
)
def test_wrong_calls_are_told_in_one_sentence(vectors, selector, options, words):
    head, _ = made(vectors, selector)
    with pytest.raises(ValueError, match=words):
        head.topk(vectors.queries, 5, **options)
    with pytest.raises(TypeError, match="nprobe is 1.5"):
        made(vectors)[0].topk(vectors.queries, 5, approximate=True, nprobe=1.5)


def test_a_head_that_was_never_trained_has_no_index_before_it_is_built(vectors):
    head, _ = made(vectors, steps=0)
    with pytest.raises(ValueError, match="has no index"):
        head.topk(vectors.queries, 5, approximate=True)
    head.build_index()
    assert head.recall_of_topk(vectors.queries, 5) > 0.9
    with pytest.raises(ValueError, match="nlist is 3001; it should be at most the number of rows, 3000"):
        head.build_index(3001)


def test_split_heads_refuse_it():
    def told(rank, group):
        head = SoftmaxHead(50, 8, NearestClasses(0.5, nlist=2), process_group=group)
        for call in (lambda: head.topk(torch.ones(1, 8), 1, approximate=True), head.build_index):
            with pytest.raises(ValueError, match="needs all classes in one process; this head's are split over 2"):
                call()

    on_ranks(2, told)
