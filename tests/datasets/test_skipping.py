"""datasets/skipping.py: so many broken files are passed over, and which they were can be read."""

import pytest

from annsoftmax_ref.datasets.skipping import Skipped


@pytest.mark.parametrize(
    "skip, files, limit", [(None, 3, 10), (None, 999, 10), (None, 5000, 50), (0, 5000, 0), (7, 3, 7)]
)
def test_a_hundredth_of_the_files_and_at_least_ten_unless_told(skip, files, limit):
    assert Skipped(skip, files, "there").limit == limit


def test_each_is_named_and_one_too_many_is_an_error_that_names_the_argument(caplog):
    skipped = Skipped(1, 5, "there")
    assert skipped.last == ""
    skipped.add(ValueError("a.png is empty"))
    assert caplog.messages == ["skipped (1 of at most 1): a.png is empty"]
    assert skipped.last == "; 1 skipped, the last: a.png is empty"
    with pytest.raises(ValueError) as error:
        skipped.add(ValueError("b.png is empty"))
    assert str(error.value) == (
        "skip is 1, but there has more broken files than that; raise skip, or replace or remove them; "
        "number 2: b.png is empty"
    )


@pytest.mark.parametrize("skip, error", [(-1, ValueError), (1.5, TypeError), (True, TypeError), ("3", TypeError)])
def test_what_is_no_number_of_files_is_refused(skip, error):
    with pytest.raises(error, match="skip is .*; it should be"):
        Skipped(skip, 5, "there")
