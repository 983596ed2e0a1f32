"""Checks of what is around the stacks: entry point, framework, imports, and what must stay as it is."""

import inspect
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import EntryPoint
from operator import attrgetter
from typing import Any

import jax

from leafreport._discovery import adapters, entry_points, packages
from leafreport.testing import _probe, _watch
from leafreport.testing._subject import Subject, listed

_CORE = {"jax", "jaxlib", "numpy", "leafreport", "ml_dtypes", "opt_einsum", "scipy", "__main__"}


def contract(subject: Subject) -> Iterator[str]:
    """Whether it is an object with the names and the signature that are asked for."""
    adapter = subject.adapter
    if isinstance(adapter, type):
        yield f"{adapter.__name__} is a class: an adapter is an object, such as {adapter.__name__}()"
        return
    name = getattr(adapter, "name", None)
    if not isinstance(name, str) or not name:
        yield f"its name is {name!r}, and no string that says something"
    else:
        known = {subject.asked} if subject.asked else {point.name for point in _points(adapter)}
        for other in sorted(known - {name}):
            yield f"its name is {name!r} and its entry point's {other!r}: the two are equal"
    build = getattr(adapter, "dense_stack", None)
    if not callable(build):
        yield "it has no dense_stack(seed, x, num_layers, *, abstract=False)"
        return
    try:
        inspect.signature(build).bind(0, None, 1, abstract=True)
        inspect.signature(build).bind(0, None, 1)
    except TypeError as error:
        yield f"dense_stack cannot be called as dense_stack(seed, x, num_layers, abstract=True): {error}"
    for optional in ("model", "describe", "recognizes"):
        if not callable(getattr(adapter, optional, len)):
            yield f"its {optional} is a {type(getattr(adapter, optional)).__name__}, and no method"


def mutation(subject: Subject) -> Iterator[str]:
    """What building may not change: in this interpreter and, where nothing shows, first of all in another."""
    found = list(_changed(subject))
    yield from found
    question = None if found else _question(subject)
    if question is not None:
        yield from (
            f"by the first stack of an interpreter {what}" for what in _ask(subject, question).changed
        )


def _changed(subject: Subject) -> Iterator[str]:
    frameworks = _frameworks(subject)
    known = {name.partition(".")[0] for name in subject.modules}
    # What the first stack imported may have changed settings itself, which is not the adapter's doing.
    settings = subject.settings if frameworks <= known else _watch.settings()
    watched = frameworks | {"jax", "numpy"}
    with _watch.own_random_states():
        before, states = _watch.functions(watched), _watch.random_states()
        subject.build(2)
        model = subject.build(2, abstract=True)
        with suppress(Exception):  # `apply` says so
            jax.eval_shape(model.apply, model.params, subject.x)
        after = _watch.functions(watched)
        yield from _watch.changed(states, _watch.random_states())
    own = _homes(subject.adapter)
    patched = set(_watch.replaced(before, after))
    patched |= {name for name, function in after.items() if function.__globals__.get("__name__") in own}
    if patched:
        yield f"{listed(sorted(patched))} replaced: functions and classes of others are not touched"
    yield from _watch.changed(settings, _watch.settings())


def imports(subject: Subject) -> Iterator[str]:
    """What importing the adapter does, with its framework and without, each in a fresh interpreter."""
    frameworks = _frameworks(subject)
    if not frameworks:
        return
    listing = ", ".join(sorted(frameworks))
    question = _question(subject)
    if question is None:
        yield (
            f"whether it needs {listing} on import cannot be seen: no fresh interpreter finds it. Make it an "
            f"attribute of the module {type(subject.adapter).__module__}, or its class one without arguments"
        )
        return
    module, told = question.module, _ask(subject, question)
    if told.failed:
        yield f"importing {module} fails in a fresh interpreter: {told.failed}"
        return
    if told.imported:
        yield f"importing {module} imports {', '.join(told.imported)}, which is for when it is used"
        return
    if _points(subject.adapter):  # a test's own module may do as it likes
        yield from (f"by importing {module} {what}" for what in told.changed_on_import)
    told = _ask(subject, replace(question, modules=None))
    if told.failed:
        yield f"importing {module} fails without {listing}: {told.failed}"
    elif told.missing is None:
        yield f"without {listing}, building gives {told.other or 'no error'}, and no ImportError"
    elif not any(name.lower() in told.missing.lower() for name in frameworks):
        yield f"without {listing} the error does not name what is missing: {told.missing!r}"


# --- Whose it is --------------------------------------------------------------------------------------------


def _frameworks(subject: Subject) -> set[str]:
    """The packages that the adapter builds with: those its metadata name, else those whose code runs."""
    names = {point.name for point in _points(subject.adapter)}
    stated = {record.framework for record in adapters() if record.name in names and record.framework}
    subject.build(2, abstract=True)  # what is imported on the way is not what is used
    known = {name.partition(".")[0] for name in sys.modules}
    if brought := set().union(*map(packages, stated)) & known:
        return brought
    used = _watch.packages_run(lambda: subject.build(2, abstract=True))
    own = {home.partition(".")[0] for home in _homes(subject.adapter)}
    # Code that is made while running calls itself by names that are no packages'.
    return (used & known) - _CORE - sys.stdlib_module_names - own


def _homes(adapter: Any) -> set[str]:
    """The modules that the adapter itself is from."""
    homes = {point.module for point in _points(adapter)} | {kind.__module__ for kind in type(adapter).__mro__}
    return homes - {"builtins", "typing"}


def _points(adapter: Any) -> list[EntryPoint]:
    """The entry points that lead to this very object."""
    return [point for point in entry_points() if _led_to(point) is adapter]


def _led_to(point: EntryPoint) -> Any:
    try:
        return attrgetter(point.attr)(sys.modules[point.module])
    except (KeyError, AttributeError):
        return None


# --- In a fresh interpreter ---------------------------------------------------------------------------------


def _question(subject: Subject) -> _probe.Question | None:
    """How another interpreter finds the adapter; None where it cannot, or where no framework is used."""
    frameworks = _frameworks(subject)
    module, place, is_class = _address(subject.adapter)
    if not frameworks or not place:
        return None
    file = getattr(sys.modules.get(module), "__file__", None)
    modules = tuple(_watch.imported(frameworks))
    return _probe.Question(module, file, place, is_class, tuple(sorted(frameworks)), modules)


def _address(adapter: Any) -> tuple[str, str, bool]:
    """A module, the place in it of the adapter or its class, and which of the two; "" for no place."""
    for point in _points(adapter):
        return point.module, point.attr, False
    kind = type(adapter)
    module = kind.__module__
    for name, value in vars(sys.modules[module]).items() if module in sys.modules else ():
        if value is adapter and module != "__main__":
            return module, name, False
    if "<locals>" in kind.__qualname__ or module == "__main__":
        return module, "", False
    try:
        inspect.signature(kind).bind()
    except TypeError:
        return module, "", False
    return module, kind.__qualname__, True


def _ask(subject: Subject, question: _probe.Question) -> _probe.Answer:
    if question not in subject.answers:
        both = [question, replace(question, modules=None)]
        subject.answers.update(zip(both, _probe.ask(both, subject.environment), strict=True))
    return subject.answers[question]
