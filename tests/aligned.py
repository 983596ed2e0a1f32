"""What must hold of any alignment, whatever the models."""

import collections

import numpy as np

from leafreport import align


def proved(left, right, *inputs, **options):
    """Every leaf in use is paired, by dataflow alone, nothing differs, and the two compute the same."""
    found = align(left, right, inputs, **options)
    assert found.ok, str(found)
    assert {pair.basis for pair in found.pairs} == {"dataflow"}
    assert found.opaque == ()
    assert twice(found) == []
    assert found.verify().max_rel_difference < 1e-5
    return found


def rows(found):
    """What is paired, as text: names and layouts."""
    return {(str(pair.left), str(pair.right), pair.layout) for pair in found.pairs}


def twice(found):
    """The leaves of which an element is in two pairs, and the pairs whose parts have other sizes."""
    told = []
    for side in ("left", "right"):
        marks = {}
        for pair in found.pairs:
            part = getattr(pair, side)
            own = marks.setdefault(part.path, np.zeros(part.leaf_shape, int))
            np.add.at(own.reshape(-1), part.of(np.arange(own.size).reshape(own.shape)), 1)
        told += [(side, path) for path, own in marks.items() if own.max(initial=0) > 1]
    told += [pair for pair in found.pairs if np.prod(pair.left.sizes) != np.prod(pair.right.sizes)]
    return told


def differing(found):
    """What kinds of differences there are, each with both sides' words, and how often."""
    return collections.Counter((d.what, d.left, d.right) for d in found.differences)
