"""The entries of JAX's key paths as strings."""

from jax import tree_util


def text(name: object) -> str:
    """A name as an exact `str`: of a subclass of str the characters, of anything else its `str()`."""
    return str.__str__(name) if isinstance(name, str) else str(name)


def key_name(key: object) -> tuple[str, str]:
    """The name a key entry gives, and what kind of key it is."""
    match key:
        case tree_util.DictKey(key=inner):
            return text(inner), "str" if isinstance(inner, str) else type(inner).__name__
        case tree_util.GetAttrKey(name=inner):
            return text(inner), "attribute"
        case tree_util.SequenceKey(idx=inner) | tree_util.FlattenedIndexKey(key=inner):
            return text(inner), "index"
        case _:
            return str(key), type(key).__name__
