"""What one process finds, all know."""

import pytest
from ranks import on_ranks

from annsoftmax_ref.training.sharded.together import Together


def fail_on(rank, error):
    def function(mine):
        if mine == rank:
            raise error
        return mine

    return function


def said(rank, group, where, error):
    together = Together(group)
    with pytest.raises(Exception) as caught:
        together.gather(lambda: fail_on(where, error)(rank))
    assert together.gather(lambda: rank) == list(range(together.ranks))  # nobody waits for anybody
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize(
    "error, kind, text",
    [
        (ValueError("no"), ValueError, "no"),
        (TypeError("no"), TypeError, "no"),
        (KeyError("no"), RuntimeError, "KeyError: 'no'"),
        (OSError(28, "No space left on device"), OSError, "No space left on device"),
    ],
)
def test_an_error_of_one_is_raised_on_all(error, kind, text):
    for where, prefix in ((0, ""), (2, "process 2 of 3: ")):
        found = on_ranks(3, lambda rank, group: said(rank, group, where, error))  # noqa: B023
        assert len(set(found)) == 1 and found[0][1].endswith(prefix + text) and issubclass(found[0][0], kind)


def test_first_is_asked_once_and_each_keeps_its_own():
    asked = []

    def ask(rank, group):
        together = Together(group)
        return together.first(lambda: asked.append(rank) or "answer"), together.each(lambda: rank)

    assert on_ranks(3, ask) == [("answer", 0), ("answer", 1), ("answer", 2)]
    assert asked == [0]


def test_alone_nothing_is_sent():
    together = Together(None)
    assert together.gather(lambda: 5) == [5] and together.first(lambda: 6) == 6 and together.each(lambda: 7) == 7
    with pytest.raises(ValueError, match="^no$"):
        together.first(lambda: fail_on(0, ValueError("no"))(0))
