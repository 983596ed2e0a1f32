"""Checks of what an adapter says of leaves, and of the models it makes of a framework's own objects."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from types import ModuleType
from typing import Any

import jax
import numpy as np

from leafreport._errors import ModelError
from leafreport._model import ROLES, LeafFacts, Model
from leafreport.adapting import is_array
from leafreport.testing._subject import WIDTH, Subject, listed, named, said

_MOST = 100_000  # objects looked at in one model: enough for any, and an end to what reaches everything


def facts(subject: Subject) -> Iterator[str]:
    """One fact a leaf, each true of the leaf's own axes."""
    real, shapes = subject.stack(2), subject.stack(2, abstract=True)
    found = list(_wrong_facts("dense_stack", real))
    if not found and real.facts != shapes.facts and len(list(named(shapes.params))) == 4:
        found.append("dense_stack tells other facts of an abstract stack than of the concrete one")
    if not found and hasattr(subject.adapter, "describe"):
        for model in (real, shapes):
            try:
                told = Model(model.params, model.apply, subject.adapter.describe(model.params))
            except Exception as error:  # noqa: BLE001  # an adapter's own code
                found.append(f"describe(params) raises {said(error)}")
            else:
                found += _wrong_facts("describe(params)", told)
    yield from dict.fromkeys(found)


def _wrong_facts(source: str, model: Model) -> Iterator[str]:
    leaves = list(named(model.params))
    told: Any = model.facts
    if told is None:
        return
    if not isinstance(told, Sequence):
        yield f"{source} tells a {type(told).__name__}, and no sequence of leafreport.LeafFacts"
        return
    if len(told) != len(leaves):
        yield f"{source} tells {len(told)} facts of {len(leaves)} leaves: one for each, in flatten order"
        return
    found: dict[str, list[str]] = {}
    for fact, (path, leaf) in zip(told, leaves, strict=True):
        if wrong := _wrong_fact(fact, leaf):
            found.setdefault(wrong, []).append(path)
    yield from (f"{source} tells of {listed(paths)} {wrong}" for wrong, paths in found.items())


def _wrong_fact(fact: Any, leaf: Any) -> str:
    if not isinstance(fact, LeafFacts):
        return f"a {type(fact).__name__}, and no leafreport.LeafFacts"
    if fact.role is not None and fact.role not in ROLES:
        return f"the role {fact.role!r}: roles are {', '.join(ROLES)}"
    for name in ("axes", "module"):
        value = getattr(fact, name)
        if value is not None and not (
            isinstance(value, tuple) and all(isinstance(step, str) for step in value)
        ):
            return f"{name}={value!r}, where it is a tuple of strings"
    if fact.axes is not None and is_array(leaf):
        rank = len(leaf.shape)
        if len(fact.axes) != rank and not (fact.stacked and len(fact.axes) < rank):
            return f"the axes {fact.axes!r}, where it has {rank}"
    return ""


def models(subject: Subject) -> Iterator[str]:
    """What `model` and `recognizes` make of an object that is no model, and of those that were given."""
    make = getattr(subject.adapter, "model", None)
    if make is not None:
        yield from _strange(make)
    elif subject.models:
        yield "it has no model(obj, *example_inputs), and models were given to check"
    yield from _recognized(subject)
    for obj, *inputs in subject.models if make is not None else ():
        yield from _wrong_model(make, obj, inputs)


def _strange(make: Any) -> Iterator[str]:
    try:
        made = make(object(), jax.ShapeDtypeStruct((2, WIDTH), np.float32))
    except ModelError as error:
        if not str(error):
            yield "model(object(), x) raises a ModelError that says nothing"
    except ImportError:
        pass  # without the framework; `builds` says so
    except Exception as error:  # noqa: BLE001  # an adapter's own code
        yield f"model(object(), x) raises {said(error)}, and no ModelError that says what it takes"
    else:
        yield f"model(object(), x) gives a {type(made).__name__}: an object that is no model is a ModelError"


def _recognized(subject: Subject) -> Iterator[str]:
    recognizes = getattr(subject.adapter, "recognizes", None)
    if recognizes is None:
        return
    strangers = {"object()": object(), "{}": {}, "an array": np.zeros(2)}
    own = {type(obj).__name__: obj for obj, *_ in subject.models if not _is_plain(obj)}
    for shown, obj in {**strangers, **own}.items():
        try:
            found = recognizes(obj)
        except ImportError:
            return
        except Exception as error:  # noqa: BLE001  # an adapter's own code
            yield f"recognizes({shown}) raises {said(error)}: it is True or False for any object"
            return
        if found is not (shown in own):
            yield f"recognizes({shown}) gives {found!r}, and not {shown in own}"
            return


def _is_plain(obj: Any) -> bool:
    """Whether its class is Python's own, as of a function that makes a model."""
    return type(obj).__module__ in {"builtins", "functools"}


def _wrong_model(make: Any, obj: Any, inputs: list[Any]) -> Iterator[str]:
    kind = type(obj).__name__
    before = _held(obj)
    try:
        model = make(obj, *inputs)
    except Exception as error:  # noqa: BLE001  # an adapter's own code
        yield f"model({kind}, ...) raises {said(error)}"
        return
    if not isinstance(model, Model):
        yield f"model({kind}, ...) gives a {type(model).__name__}, and no leafreport.Model"
        return
    wrong = [path for path, leaf in named(model.params) if not is_array(leaf)]
    if wrong:
        yield f"model({kind}, ...) has leaves in params that are no arrays: {listed(wrong)}"
        return
    # Where the object holds no arrays, they are made from the inputs.
    if _some_abstract(inputs) and not any(is_array(held) for held in before.values()):
        made = [path for path, leaf in named(model.params) if not isinstance(leaf, jax.ShapeDtypeStruct)]
        if made:
            yield f"model({kind}, ...) makes arrays from abstract inputs: {listed(made)}"
    yield from _wrong_facts(f"model({kind}, ...)", model)
    try:
        jax.make_jaxpr(model.apply)(model.params, *inputs)
    except Exception as error:  # noqa: BLE001  # as above
        yield f"the apply of model({kind}, ...) cannot be traced on its inputs: {said(error)}"
    after = _held(obj)
    # Equal keys are the same places; what was held is still alive in `before`, so its id is no one else's.
    different = [place for place in before if place not in after or after[place] is not before[place]]
    different += [place for place in after if place not in before]
    if different:
        yield f"model changes the {kind} that it is given: {listed(different)}"


def _some_abstract(inputs: Any) -> bool:
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree_util.tree_leaves(inputs))


def _held(obj: Any) -> dict[str, Any]:
    """What an object holds, by place: leaves, attributes, entries, and what these hold."""
    held = {f"leaf {number}": leaf for number, leaf in enumerate(jax.tree_util.tree_leaves(obj))}
    seen: set[int] = set()
    todo: list[tuple[str, Any]] = [("", obj)]
    while todo and len(seen) < _MOST:
        place, node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        for name, value in _inside(node).items():
            there = f"{place}.{name}" if place else str(name)
            held[there] = value
            todo.append((there, value))
    return held


def _inside(node: Any) -> dict[Any, Any]:
    match node:
        case dict():
            return node
        case tuple() | list():
            return dict(enumerate(node))
        case type() | ModuleType():
            return {}
    if is_array(node) or not hasattr(node, "__dict__"):
        return {}
    # A value that a class works out once and keeps is no change.
    return {
        name: value
        for name, value in vars(node).items()
        if not isinstance(getattr(type(node), str(name), None), cached_property)
    }
