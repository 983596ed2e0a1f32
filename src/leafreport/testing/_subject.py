"""The adapter under test, the stacks it built, and how the checks speak of both."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from leafreport._flatten import report
from leafreport._leaf import display_path
from leafreport._model import Model
from leafreport.testing._probe import Answer, Question
from leafreport.testing._watch import settings

ROWS, WIDTH = 4, 8


class BuildError(Exception):
    """A stack could not be built.

    Attributes:
        why: what happened, without the call in which it did.
    """

    def __init__(self, call: str, why: str) -> None:
        super().__init__(f"{call} {why}")
        self.why = why


class Subject:
    """The adapter under test, and the stacks it built, each built once.

    Attributes:
        asked: the backend's name, where the adapter was asked for by it.
        environment: the environment before the adapter was loaded here.
        models: model objects, each with its inputs.
        x: the usual sample, f32[4, 8].
        settings: the global settings before anything was built.
        modules: the modules that were imported then.
        answers: what fresh interpreters said.
    """

    def __init__(
        self,
        adapter: Any,
        models: tuple[tuple[Any, ...], ...],
        *,
        asked: str | None,
        environment: Mapping[str, str],
    ) -> None:
        self.adapter = adapter
        self.asked = asked
        self.environment = environment
        self.models = models
        self.x = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
        jax.devices()  # what JAX sets when it starts is no one's change
        self.settings = settings()
        self.modules = frozenset(sys.modules)
        self.answers: dict[Question, Answer] = {}
        self._built: dict[tuple[int, int, bool], Model] = {}

    def stack(self, layers: int, *, seed: int = 0, abstract: bool = False) -> Model:
        """A stack for a sample of the usual shape; the same one when asked again."""
        key = layers, seed, abstract
        if key not in self._built:
            self._built[key] = self.build(layers, seed=seed, abstract=abstract)
        return self._built[key]

    def build(self, layers: int, *, seed: int = 0, abstract: bool | None = False, x: Any = None) -> Model:
        """A stack, built anew; where `abstract` is None it is left to the default.

        Raises:
            BuildError: the adapter raises, or does not give a Model.
        """
        given = jax.ShapeDtypeStruct(self.x.shape, self.x.dtype) if x is None else x
        options = {} if abstract is None else {"abstract": abstract}
        shown = "".join(f", {name}={value}" for name, value in options.items())
        kind = "abstract " if isinstance(given, jax.ShapeDtypeStruct) else ""
        call = f"dense_stack({seed}, {kind}{given.dtype}{list(given.shape)}, {layers}{shown})"
        try:
            model = self.adapter.dense_stack(seed, given, layers, **options)
        except Exception as error:
            raise BuildError(call, f"raises {said(error)}") from error
        if not isinstance(model, Model):
            raise BuildError(call, f"gives a {type(model).__name__}, and no leafreport.Model")
        return model


def short(text: Any) -> str:
    """A text on one line, cut where it is long."""
    line = " ".join(str(text).split())
    return f"{line[:300]}..." if len(line) > 300 else line


def said(error: Exception) -> str:
    """An error's class and message."""
    return f"{type(error).__name__}: {short(error)}".removesuffix(": ")


def listed(items: Sequence[str]) -> str:
    """Ten items at most, then a count."""
    more = f" and {len(items) - 10} more" if len(items) > 10 else ""
    return f"{', '.join(items[:10])}{more}"


def named(tree: Any) -> Iterator[tuple[str, Any]]:
    """Each leaf with its path as shown."""
    leaves = jax.tree_util.tree_leaves(tree)
    return zip(map(display_path, report(tree).paths), leaves, strict=True)


def values(tree: Any) -> list[tuple[str, Any]]:
    """Each leaf's path and values."""
    return [(path, np.asarray(leaf)) for path, leaf in named(tree)]
