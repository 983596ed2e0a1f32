"""What differs between two leaves, or two containers, at one path; and what of it a save does by itself.

Here is what is known of Orbax's changes: what it makes of tuples, classes, keys and scalars.
"""

from leafreport._leaf import Node, Spec

# What differs, the fact on the left, the fact on the right.
Fact = tuple[str, str, str]


def leaf_facts(left: Spec, right: Spec) -> tuple[list[Fact], list[Fact]]:
    """What differs between two leaves, and what of it a save does by itself."""
    if left == right:
        return [], []
    if left.kind != right.kind:
        typed, raw = (left, right) if left.kind == "key" else (right, left)
        if typed.kind == "key" and _is_raw_form(typed, raw):
            return [("key", _form(left), _form(right))], []
        if _is_number_of(left, right) or _is_number_of(right, left):
            return [], [("kind", _scalar_or_array(left), _scalar_or_array(right))]
        return [("kind", f"{left.kind} {left}", f"{right.kind} {right}")], []
    real: list[Fact] = []
    saved: list[Fact] = []
    if left.dtype != right.dtype:
        real.append(("dtype", left.dtype, right.dtype))
    if left.shape != right.shape:
        real.append(("shape", str(left.shape), str(right.shape)))
    if left.weak_type is not None and right.weak_type is not None and left.weak_type != right.weak_type:
        real.append(("weak_type", str(left.weak_type), str(right.weak_type)))
    for what in ("role", "owner"):
        a, b = getattr(left, what), getattr(right, what)
        if a is not None and b is not None and a != b:
            real.append((what, a, b))
    concrete = left.kind == "array" and not (left.abstract or right.abstract)
    if concrete and not real and _is_numpy_scalar(left) != _is_numpy_scalar(right):
        saved.append(("kind", _scalar_or_array(left), _scalar_or_array(right)))
    if (a := _placement(left)) and (b := _placement(right)) and a != b:
        real.append(("sharding", *_placement_texts(left, right)))
    return real, saved


def _is_raw_form(typed: Spec, raw: Spec) -> bool:
    """Whether one is what `jax.random.key_data` makes of the other."""
    if raw.kind != "array" or raw.dtype != "uint32" or raw.shape is None or typed.shape is None:
        return False
    return raw.shape[: len(typed.shape)] == typed.shape and raw.nbytes == typed.nbytes


def _form(spec: Spec) -> str:
    return f"typed {spec}" if spec.kind == "key" else f"raw {spec}"


def _is_numpy_scalar(spec: Spec) -> bool:
    module, _, name = spec.type.rpartition(".")
    return spec.shape == () and module in ("numpy", "ml_dtypes") and name not in ("ndarray", "memmap")


# By the first letters of a dtype's name: what Python has of its numbers.
_PYTHON = (("bool", "bool"), ("int", "int"), ("uint", "int"), ("complex", "complex"), ("", "float"))


def _is_number_of(scalar: Spec, number: Spec) -> bool:
    """Whether one is a NumPy scalar, the other the number on disk that `PyTreeCheckpointer` makes of it."""
    if (
        number.kind != "scalar"
        or not number.abstract
        or scalar.kind != "array"
        or not _is_numpy_scalar(scalar)
    ):
        return False
    return number.dtype == next(word for start, word in _PYTHON if scalar.dtype.startswith(start))


def _scalar_or_array(spec: Spec) -> str:
    if spec.kind == "scalar":
        return f"Python {spec.dtype}"
    return f"NumPy scalar {spec.dtype}" if _is_numpy_scalar(spec) else f"array {spec}"


def _placement(spec: Spec) -> object:
    """What can be compared of where an array lies; None where it is not known."""
    if spec.sharding is not None:
        return spec.sharding.type, spec.sharding.mesh, spec.sharding.spec
    return "one device" if spec.devices == 1 else None


def _placement_texts(left: Spec, right: Spec) -> tuple[str, str]:
    a, b = (str(spec.sharding or "one device") for spec in (left, right))
    return a, b


def node_facts(left: Node, right: Node) -> tuple[list[Fact], list[Fact]]:
    """What differs between two containers, and what of it a save does by itself."""
    if left == right:
        return [], []
    facts: list[Fact] = []
    if left.type != right.type:
        facts.append(("container", left.type, right.type))
    elif left.keys and right.keys:
        facts.append(("keys", left.keys, right.keys))
    if _saved_as(left, right) or _saved_as(right, left):
        return [], facts
    return facts, []


def _saved_as(live: Node, saved: Node) -> bool:
    """Whether Orbax writes the one and gives back the other, when no target tells it better."""
    if saved.kind == "none":
        return not live.keys and live.kind in ("namedtuple", "custom")
    if saved.type == "list":
        return live.kind == "tuple"
    if saved.type != "dict":
        return False
    if saved.keys not in ("", "str"):
        return False
    if live.kind in ("dict", "namedtuple"):
        return True
    return live.kind == "custom" and live.keys != "index"
