"""Claim: aligning two models of 1,000 layers takes at most five times as long as tracing both calls."""

import jax
from _measure import Case, main

from leafreport import Model, adapter, align

X = jax.ShapeDtypeStruct((4, 8), "float32")


def frameworks(layers):  # noqa: ANN001, ANN201
    """A dense stack in Flax Linen and in Equinox, as their adapters build it; every layer is square."""
    return tuple(adapter(name).dense_stack(0, X, layers, abstract=True) for name in ("flax", "equinox"))


def plain(layers):  # noqa: ANN001, ANN201
    """The same without a framework, the right weights turned: no call is traced in less."""

    def stack(*, turned):  # noqa: ANN001, ANN202
        def call(params, x):  # noqa: ANN001, ANN202
            for w, b in zip(params["w"], params["b"], strict=True):
                x = x @ (w.T if turned else w) + b
            return x

        w, b = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((8, 8), (8,)))
        return Model({"w": [w] * layers, "b": [b] * layers}, call)

    return stack(turned=False), stack(turned=True)


def traces(models):  # noqa: ANN001, ANN201
    """The yardstick: both calls traced, nothing read."""
    # Each in a function of its own, or JAX would give the trace it has.
    return [jax.make_jaxpr(lambda p, x, m=m: m.apply(p, x))(m.params, X) for m in models]


def ours(models):  # noqa: ANN001, ANN201
    """From two models to an answer, which must be that they are the same."""
    found = align(*models, X)
    if not found.ok:
        raise SystemExit(f"nothing to measure: {found.summary()}")
    return found


def grown(make, few, many):  # noqa: ANN001, ANN201
    """Models of few layers and of many."""
    return lambda: (make(few), make(many))


def of_many(pair):  # noqa: ANN001, ANN201
    """The many aligned."""
    return ours(pair[1])


def of_few(pair):  # noqa: ANN001, ANN201
    """The few aligned."""
    return ours(pair[0])


CASES = {
    "flax_equinox_250": Case(lambda: frameworks(250), ours, traces, 5.0, rounds=5),
    "flax_equinox_500": Case(lambda: frameworks(500), ours, traces, 5.0, rounds=5),
    "flax_equinox_1k": Case(lambda: frameworks(1000), ours, traces, 5.0, rounds=5),
    "plain_1k": Case(lambda: plain(1000), ours, traces, 5.0, rounds=5),
    # Twice the layers, twice the time, and the collector's work on top: it grows with all that lives.
    "growth_250_to_500": Case(grown(frameworks, 250, 500), of_many, of_few, 2.5, rounds=5),
    "growth_500_to_1k": Case(grown(frameworks, 500, 1000), of_many, of_few, 2.5, rounds=5),
}

if __name__ == "__main__":
    main(CASES)
