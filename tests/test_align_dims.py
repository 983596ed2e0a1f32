"""Axes as terms: how descriptions of one axis are refined until they agree."""

import math
import random

import pytest

from leafreport._align._trace._dims import (
    Dim,
    NotAligned,
    alias,
    attempt,
    concat,
    cut,
    cut_up,
    factors,
    find,
    product,
    segments,
    split_concat,
    split_product,
    unify,
)


def sizes(dims):
    return [dim.size for dim in dims]


def test_fresh_dims_are_two_until_they_are_unified():
    a, b = Dim(4), Dim(4)
    assert find(a) is not find(b)
    unify(a, b)
    assert find(a) is find(b)


@pytest.mark.parametrize("other", [3, 5, 0, 1])
def test_dims_of_other_sizes_are_never_one(other):
    with pytest.raises(NotAligned, match="4 and"):
        unify(Dim(4), Dim(other))


def test_axis_takes_the_parts_of_the_one_it_is_unified_with():
    heads, width = Dim(2), Dim(4)
    whole = Dim(8)
    unify(whole, product([heads, width]))
    assert [find(part) for part in factors(whole)] == [heads, width]
    assert whole.kind == "product"


def test_products_are_refined_to_what_divides_both():
    a, b = product([Dim(2), Dim(6)]), product([Dim(4), Dim(3)])
    unify(a, b)
    assert sizes(factors(a)) == sizes(factors(b)) == [2, 2, 3]
    assert [find(x) for x in factors(a)] == [find(x) for x in factors(b)]


def test_products_that_no_refinement_makes_agree():
    with pytest.raises(NotAligned, match="no multiple"):
        unify(product([Dim(4), Dim(3)]), product([Dim(3), Dim(4)]))


def test_concatenations_are_cut_where_either_is():
    a, b = concat([Dim(3), Dim(5)]), concat([Dim(4), Dim(4)])
    unify(a, b)
    assert sizes(segments(a)) == sizes(segments(b)) == [3, 1, 4]


def test_fused_projection_that_is_sliced_is_its_slices():
    fused = Dim(12)
    parts = [cut(fused, n, n + 4) for n in (0, 4, 8)]
    assert sizes(segments(fused)) == [4, 4, 4]
    assert [find(part) for part in parts] == [find(part) for part in segments(fused)]


def test_slices_of_heads_share_what_is_within_a_head():
    """q, k and v in one axis, 3 x 4: divided as a product, it is cut between products."""
    fused = Dim(12)
    first = cut(fused, 0, 4)
    unify(fused, product([Dim(3), Dim(4)]))
    outer, inner = factors(fused)
    assert (outer.size, inner.size) == (3, 4)
    assert find(first) is find(inner)
    assert sizes(segments(fused)) == [4, 8]


def test_cut_within_the_inner_part_of_a_product_is_refused():
    with pytest.raises(NotAligned, match="cut at 3"):
        cut(product([Dim(3), Dim(4)]), 0, 3)


@pytest.mark.parametrize("at", [0, 4, -1])
def test_cut_at_an_end_is_none(at):
    with pytest.raises(NotAligned, match="cannot be cut"):
        split_concat(Dim(4), at)


def test_parts_of_one_index_and_of_none_are_left_out():
    assert factors(product([Dim(1), Dim(5), Dim(1)]))[0].size == 5
    assert sizes(segments(concat([Dim(0), Dim(2), Dim(3)]))) == [2, 3]
    assert product([]).size == 1
    assert concat([]).size == 0


def test_attempt_that_fails_leaves_everything_as_it_was():
    a, b = product([Dim(2), Dim(6), Dim(4)]), product([Dim(4), Dim(3), Dim(4)])
    c = product([Dim(6), Dim(4), Dim(2)])
    attempt(unify, a, b)
    assert sizes(factors(a)) == [2, 2, 3, 4]
    before = [find(part) for part in factors(a)]
    other = product([Dim(5), Dim(3)])
    with pytest.raises(NotAligned):
        attempt(unify, a, other)
    with pytest.raises(NotAligned):
        attempt(unify, concat([c, Dim(3)]), product([Dim(3), Dim(17)]))
    assert [find(part) for part in factors(a)] == before
    assert sizes(factors(c)) == [6, 4, 2]
    assert sizes(factors(other)) == [5, 3]


def test_attempt_within_an_attempt():
    a, b = Dim(6), product([Dim(2), Dim(3)])

    def change():
        attempt(unify, a, b)
        unify(a, Dim(7))

    with pytest.raises(NotAligned):
        attempt(change)
    assert a.kind is None


def test_axis_cut_into_its_indices():
    dim = Dim(4)
    cut_up(dim)
    assert sizes(segments(dim)) == [1, 1, 1, 1]
    whole = product([Dim(3), Dim(5)])
    attempt(cut_up, product([find(whole), Dim(1)]).parts[0])
    assert sizes(segments(whole)) == [5, 5, 5]


def test_alias_is_the_same_axis_under_a_name_of_its_own():
    dim = Dim(4)
    other = alias(dim)
    assert other is not dim
    assert find(other) is dim
    unify(dim, product([Dim(2), Dim(2)]))
    assert sizes(factors(other)) == [2, 2]


def test_axis_is_never_within_itself():
    dim = Dim(2)
    outer = product([dim, Dim(1)])  # of one index: the dim itself
    assert outer is dim
    whole = concat([dim, Dim(2)])
    with pytest.raises(NotAligned):
        unify(whole, product([Dim(2), whole]))


@pytest.mark.parametrize("seed", range(40))
def test_random_refinements_keep_every_size(seed):
    """Divide and cut an axis at random through several descriptions: each stays a description of the same axis."""
    rng = random.Random(seed)
    size = math.prod(rng.choice((2, 3, 4)) for _ in range(3))
    dims = [Dim(size) for _ in range(4)]
    for _ in range(12):
        dim = rng.choice(dims)
        try:
            match rng.randrange(3):
                case 0:
                    split_product(dim, rng.choice([n for n in range(1, size + 1) if size % n == 0]))
                case 1:
                    cut(dim, *sorted(rng.sample(range(size + 1), 2)))
                case _:
                    unify(dim, rng.choice(dims))
        except NotAligned:
            pass
        for each in dims:
            assert math.prod(sizes(factors(each))) == size
            assert sum(sizes(segments(each))) == size
