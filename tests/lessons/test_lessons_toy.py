"""lessons/toy.py: the example that goes through the notebooks shows what they say of it."""

import numpy as np

from annsoftmax_ref import reference as ref
from annsoftmax_ref.lessons import toy


def test_it_has_the_sizes_that_are_told_and_bits_that_are_plain_to_see():
    assert (toy.N, toy.B, toy.D) == (12, 4, 8) and toy.SAMPLES.shape == (4, 8) and len(toy.NAMES) == 12
    assert (toy.ROWS != 0).all() and (toy.SAMPLES != 0).all()
    assert len(set(toy.bits(toy.W))) == 12 and toy.bits(toy.W[:1]) == ["00001100"]
    np.testing.assert_allclose(np.linalg.norm(toy.W, axis=1), 1)


def test_each_sample_is_nearest_to_its_own_class():
    assert ((toy.X @ toy.W.T).argmax(axis=1) == toy.LABELS).all()


def test_the_codes_of_six_hold_the_four_nearest_and_those_of_four_miss_one():
    wanted = ref.brute_force(toy.X[:1], toy.W, 4)[0][0]
    order = np.argsort(ref.hamming(ref.encode(toy.X[:1]), ref.encode(toy.W))[0], kind="stable")
    assert toy.named(wanted) == "é ó e ê"
    assert set(wanted) - set(order[:4]) == {toy.NAMES.index("ó")} and set(wanted) <= set(order[:6])


def test_the_lists_are_letters_and_arrows_and_the_nearest_other_class_is_in_the_second():
    assignment, centroids = toy.lists()
    assert assignment.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert np.argsort(-(centroids @ toy.X[0]))[:2].tolist() == [0, 1]
    assert toy.named(toy.candidates()[0, :1]) == "ó"


def test_one_group_has_room_for_labels_only_and_two_bring_near_classes():
    (alone,) = toy.active_sets([np.arange(4)])
    assert toy.named(alone) == "é ê ô →"
    groups = ref.similar_groups(toy.X, 2)
    assert [group.tolist() for group in groups] == [[0, 2], [1, 3]]
    assert [toy.named(active) for active in toy.active_sets(groups)] == ["e é ê ó", "ô → ⇒ ↠"]


def test_a_table_stands_in_columns():
    text = toy.table({"class": ["e", "é"], "cosine": np.array([-1.0, -0.001]), "bits": [1, 10]})
    assert text.splitlines() == ["class  cosine  bits", "    e   -1.00     1", "    é    0.00    10"]
    assert toy.named([0, -1, 8]) == "e →"
