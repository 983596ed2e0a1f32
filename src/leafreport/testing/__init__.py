"""What adapter authors run: `check_adapter`, the contract as a test.

Each check is a function that yields what it found wrong, in words: those of stacks are in `_stack`, those of
facts and model objects in `_models`, those of what surrounds a call in `_surroundings`.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from leafreport._adapter import Adapter
from leafreport._adapter import adapter as load
from leafreport._errors import ConformanceError
from leafreport.testing import _models, _stack, _surroundings
from leafreport.testing._subject import BuildError, Subject, said

__all__ = ["check_adapter"]

# Each check and those it stands on: where one of these failed, what it would say is said already.
_CHECKS: dict[str, tuple[Callable[[Subject], Iterator[str]], set[str]]] = {
    "contract": (_surroundings.contract, set()),
    "builds": (_stack.builds, {"contract"}),
    "counts": (_stack.counts, {"builds"}),
    "leaves": (_stack.leaves, {"builds"}),
    "paths": (_stack.paths, {"builds"}),
    "abstract": (_stack.abstract, {"counts", "leaves", "paths"}),
    "seeds": (_stack.seeds, {"leaves", "paths"}),
    "input": (_stack.sample, {"leaves", "paths", "seeds"}),
    "apply": (_stack.apply, {"leaves"}),
    "facts": (_models.facts, {"builds"}),
    "models": (_models.models, {"contract"}),
    "mutation": (_surroundings.mutation, {"builds"}),
    "imports": (_surroundings.imports, {"builds"}),
}


def check_adapter(adapter: Adapter | str, *, models: Iterable[tuple[Any, ...]] = ()) -> None:
    """Checks that an adapter keeps the contract of `leafreport.Adapter`; for its author's own tests.

    What is checked: stacks of several heights have two array leaves a layer; abstract ones equal concrete
    ones and allocate nothing; paths are unique, survive JSON and are the same each time; one seed always
    gives the same values and another seed others; the input's values are never used; `apply` is pure, works
    under `jax.jit`, uses every leaf, and takes each row on its own; nothing the user holds is changed,
    neither arrays nor the framework's classes nor global settings; importing the adapter imports no
    framework, and without the framework the error says so; `model`, `describe` and `recognizes`, where there
    are such, keep their promises.

    Cost: some seconds, of which most are two fresh interpreters. Global random states are put back.

    Args:
        adapter: the adapter, or the backend's name.
        models: model objects of the framework, each with the inputs its call takes: `(obj, *inputs)`. Each is
            given to `adapter.model`.

    Raises:
        ConformanceError: an AssertionError that lists every breach, each after the name of its check. What
            would only say the same again is not checked, and named at the end.
        AdapterError: there is no backend of that name.

    Example:
        >>> check_adapter("flax")
    """
    asked = adapter if isinstance(adapter, str) else None
    environment = dict(os.environ)
    loaded = load(adapter) if isinstance(adapter, str) else adapter
    subject = Subject(loaded, tuple(models), asked=asked, environment=environment)
    breaches: dict[str, list[str]] = {}
    skipped: list[str] = []
    told: set[str] = set()
    for name, (check, needs) in _CHECKS.items():
        if needs & {*breaches, *skipped}:
            skipped.append(name)
        elif found := list(dict.fromkeys(_found(check, subject, told))):
            breaches[name] = found
    if breaches:
        raise ConformanceError(_message(getattr(subject.adapter, "name", subject.adapter), breaches, skipped))


def _found(check: Callable[[Subject], Iterator[str]], subject: Subject, told: set[str]) -> Iterator[str]:
    """What a check finds; that a stack cannot be built is told once, whichever check asks for it."""
    try:
        yield from check(subject)
    except Exception as error:  # noqa: BLE001  # an adapter's own code
        why = error.why if isinstance(error, BuildError) else said(error)
        if why not in told:
            yield str(error) if isinstance(error, BuildError) else why
        told.add(why)


def _message(name: Any, breaches: dict[str, list[str]], skipped: list[str]) -> str:
    lines = [f"- {check}: {breach}" for check, found in breaches.items() for breach in found]
    times = "1 time" if len(lines) == 1 else f"{len(lines)} times"
    if skipped:
        lines.append(f"not checked, as it stands on these: {', '.join(skipped)}")
    return "\n".join([f"the adapter {name!r} breaks the contract {times}:", *lines])
