"""Trees in plain data: what `save` writes beside the tensors, and what `load` compares and rebuilds.

A node is None, a leaf, or a container, all of them JSON:

    {"value": 3}                                                        a leaf that is no tensor, as `encode` writes it
    {"tensor": 0, "dtype": "float32", "shape": [2, 3]}                  the tensor in entry 0 of the file
    {"kind": "dict", "keys": ["a"], "children": [...]}                  and so for the other containers
    {"kind": "namedtuple", "class": "module:Name", "keys": [...], "children": [...]}
    {"kind": "struct", "class": "module:Name", "static": {...}, "keys": [...], "children": [...]}
"""

import dataclasses
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch

from functional_train.runs.checkpoints._plain import Unnamed, decode, dtype_named, encode, encode_static
from functional_train.values.errors import CheckpointError, StructureError
from functional_train.values.params import Params
from functional_train.values.struct import is_static, rebuild_struct
from functional_train.values.tree._structure import children, is_leaf, with_children

Node = Any
# What is wanted where anything will do.
ANYTHING: Node = {"anything": True}
_FACTORIES: dict[str, Any] = {"": None, "list": list, "dict": dict, "int": int, "float": float, "tuple": tuple}
_HERE = __name__.partition(".")[0]
_MOST_SHOWN = 20
_MAPPINGS: dict[type, str] = {dict: "dict", OrderedDict: "OrderedDict", defaultdict: "defaultdict", Params: "Params"}
# What is written of a container, by its kind.
_FIELDS: dict[str, set[str]] = {
    **{kind: {"kind", "children"} for kind in ("list", "tuple")},
    "deque": {"kind", "children", "maxlen"},
    **{kind: {"kind", "children", "keys"} for kind in ("dict", "OrderedDict", "Params")},
    "defaultdict": {"kind", "children", "keys", "factory"},
    "namedtuple": {"kind", "children", "keys", "class"},
    "struct": {"kind", "children", "keys", "class", "static"},
}


def _is_namedtuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(type(value), "_fields")


def _join(path: str, key: Any) -> str:
    return f"{path}/{key}" if path else str(key)


def describe(tree: Any, leaf_node: Callable[[str, Any], Node], path: str = "") -> Node:
    """Write a tree as a node.

    Args:
        tree: Tensors and plain values in the containers that optree knows.
        leaf_node: `(path, leaf) -> node`; see `value_node`.
        path: Of the tree.
    """
    if tree is None:
        return None
    if is_leaf(tree):
        return leaf_node(path, tree)
    head, pairs = _container(tree, path)
    return head | {"children": [describe(child, leaf_node, _join(path, name)) for name, child in pairs]}


def value_node(path: str, leaf: Any) -> Node:
    """The node of a leaf that is no tensor."""
    return {"value": encode(leaf, f"{path!r}" if path else "the tree")}


def _container(tree: Any, path: str) -> tuple[dict[str, Any], list[tuple[Any, Any]]]:
    """What a container is, and its children by name, in the container's own order."""
    cls = type(tree)
    if cls in _MAPPINGS:
        keys = [encode(key, f"the key {key!r} at {path!r}") for key in tree]
        head: dict[str, Any] = {"kind": _MAPPINGS[cls], "keys": keys}
        if cls is defaultdict:
            name = getattr(tree.default_factory, "__name__", "")
            if tree.default_factory is not _FACTORIES.get(name, ...):
                raise StructureError(f"the factory of the defaultdict at {path!r} cannot be written; make it a dict.")
            head["factory"] = name
        return head, list(tree.items())
    if cls in (list, tuple):
        return {"kind": cls.__name__}, list(enumerate(tree))
    if cls is deque:
        return {"kind": "deque", "maxlen": tree.maxlen}, list(enumerate(tree))
    below = children(tree) or []
    head = {"class": f"{cls.__module__}:{cls.__qualname__}", "keys": [name for name, _ in below]}
    if _is_namedtuple(tree):
        return {"kind": "namedtuple"} | head, list(below)
    if dataclasses.is_dataclass(cls):
        fields = [field.name for field in dataclasses.fields(cls) if is_static(field)]
        static = {
            name: encode_static(getattr(tree, name), f"the static field {_join(path, name)!r}") for name in fields
        }
        return {"kind": "struct"} | head | {"static": static}, list(below)
    raise StructureError(
        f"at {path!r} there is a {cls.__qualname__}, a container whose contents cannot be written. Saved are dicts, "
        "lists, tuples, NamedTuples, ft.Params and ft.struct classes."
    )


def _names(node: Node) -> list[Any]:
    return node.get("keys", list(range(len(node["children"]))))


def _by_name(node: Node) -> dict[str, tuple[Any, Node]]:
    """The children of a container by the text of their keys, which tells 1 from "1"."""
    pairs = zip(_names(node), node["children"], strict=True)
    return {repr(name): (decode(name), child) for name, child in pairs}


def shown(lines: Sequence[str], separator: str = "\n  ") -> str:
    """So many of the lines that people read them, and how many there are besides."""
    more = [f"and {len(lines) - _MOST_SHOWN} more"] if len(lines) > _MOST_SHOWN else []
    return separator.join([*lines[:_MOST_SHOWN], *more])


def differences(found: Node, wanted: Node, path: str = "", *, cast: bool = False) -> Iterator[str]:
    """Say in words where what a file holds is not what is wanted.

    Dicts are equal in any order, `Params` and all other containers in theirs alone. Classes are compared by name and
    fields, not by module: what a script defines is `__main__`'s in one process and not in another.

    Args:
        found: From the file.
        wanted: Of the same kind.
        path: Of both.
        cast: Whether dtypes may differ.
    """
    if wanted == ANYTHING:
        return
    place = f"at {path!r}" if path else "at the top"
    if _kind(found) != _kind(wanted):
        yield f"{place}: the file has {_kind(found)[1]}, wanted is {_kind(wanted)[1]}"
    elif found is None:
        return
    elif "tensor" in found:
        if found["shape"] != wanted["shape"]:
            yield f"{place}: the file has shape {tuple(found['shape'])}, wanted is {tuple(wanted['shape'])}"
        dtypes = [dtype_named(node["dtype"]) for node in (found, wanted)]
        if dtypes[0] != dtypes[1] and not (cast and may_cast(*dtypes)):
            yield f"{place}: the file has {found['dtype']}, wanted is {wanted['dtype']}"
    elif "value" not in found:
        yield from _differing_children(found, wanted, path, place, cast=cast)


def _differing_children(found: Node, wanted: Node, path: str, place: str, *, cast: bool) -> Iterator[str]:
    left, right = _by_name(found), _by_name(wanted)
    for text, (name, _) in right.items():
        if text not in left:
            yield f"at {_join(path, name)!r}: the file has nothing there"
    for text, (name, _) in left.items():
        if text not in right:
            yield f"at {_join(path, name)!r}: the file has it, nothing is wanted there"
    if found["kind"] != "dict" and list(left) != list(right) and left.keys() == right.keys():
        yield f"{place}: the file has the same names in another order, {_names(found)}"
    for name in ("static", "maxlen", "factory"):
        if repr(found.get(name)) != repr(wanted.get(name)):
            yield f"{place}: the file has {name} {found.get(name)}, wanted is {wanted.get(name)}"
    for text, (name, child) in left.items():
        if text in right:
            yield from differences(child, right[text][1], _join(path, name), cast=cast)


def may_cast(found: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether only digits can be lost."""
    if found.is_complex or wanted.is_complex:
        return found.is_complex and wanted.is_complex
    return found.is_floating_point and wanted.is_floating_point


def _kind(node: Node) -> tuple[str, str]:
    """A node's kind, and in words; equal for what may stand for each other."""
    if node is None:
        return "none", "None"
    if "tensor" in node:
        return "tensor", "a tensor"
    if "value" in node:
        return "value", f"a {type(decode(node['value'])).__name__}"
    return node["kind"], f"a {node['class'].partition(':')[2] if 'class' in node else node['kind']}"


def leaf_nodes(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """The leaves of a node with their paths, as `ft.tree.items` would give them."""
    if node is None:
        return
    if "children" not in node:
        yield path, node
        return
    for name, child in zip(_names(node), node["children"], strict=True):
        yield from leaf_nodes(child, _join(path, decode(name)))


def rebuild(node: Node, leaf: Callable[[Node, Any], Any], like: Any = None) -> Any:
    """Make the tree that a node describes.

    Args:
        node: From a file whose digest is right.
        leaf: From the node of a tensor, and what `like` has there, to the tensor.
        like: A tree without differences, whose containers are used; without one, and where it is `...`, only this
            library's own classes are.
    """
    if node is None:
        return None
    if "children" not in node:
        return leaf(node, like) if "tensor" in node else decode(node["value"])
    if like is not None and like is not ...:
        parts = {repr(encode(key)): key for key in like} if type(like) in _MAPPINGS else None
        named = _by_name(node)
        if parts is None:
            below = [rebuild(child, leaf, old) for (_, child), (_, old) in _side_by_side(named, like)]
            return with_children(like, below)
        new = {key: rebuild(named[text][1], leaf, like[key]) for text, key in parts.items()}
        return _mapping(node, new)
    below = [rebuild(child, leaf) for child in node["children"]]
    if node["kind"] in ("list", "tuple"):
        return below if node["kind"] == "list" else tuple(below)
    if node["kind"] == "deque":
        return deque(below, node["maxlen"])
    if "class" not in node:
        return _mapping(node, dict(zip(map(decode, node["keys"]), below, strict=True)))
    cls = _our_class(node)
    if node["kind"] == "namedtuple":
        return cls(*below)
    static = {name: decode(value) for name, value in node["static"].items()}
    if any(isinstance(value, Unnamed) for value in static.values()):
        raise _to_be_shown(cls.__name__)
    return rebuild_struct(cls, dict(zip(node["keys"], below, strict=True)) | static)


def _side_by_side(named: dict[str, tuple[Any, Node]], like: Any) -> Iterator[tuple[tuple[Any, Node], tuple[str, Any]]]:
    return zip(named.values(), children(like) or [], strict=True)


def _mapping(node: Node, contents: dict[Any, Any]) -> Any:
    if node["kind"] == "defaultdict":
        return defaultdict(_FACTORIES[node["factory"]], contents)
    cls = next(cls for cls, kind in _MAPPINGS.items() if kind == node["kind"])
    return contents if cls is dict else cls(contents)


def _our_class(node: Node) -> Any:
    """A class of this library that a node names; a file may name no other, since its constructor would run."""
    module, _, name = node["class"].partition(":")
    cls: Any = sys.modules.get(module) if module.partition(".")[0] == _HERE else None
    for part in name.split("."):
        cls = getattr(cls, part, None)
    own = isinstance(cls, type) and cls.__module__ == module
    if own and node["kind"] == "namedtuple" and list(getattr(cls, "_fields", ())) == node["keys"]:
        return cls
    if own and node["kind"] == "struct" and dataclasses.is_dataclass(cls):
        fields = dataclasses.fields(cls)
        static = [field.name for field in fields if is_static(field)]
        if [field.name for field in fields if not is_static(field)] == node["keys"] and static == list(node["static"]):
            return cls
    raise _to_be_shown(name)


def _to_be_shown(name: str) -> StructureError:
    return StructureError(
        f"the file holds a {name}, which load makes only when it is shown one: pass like=, a tree of the same "
        "structure such as the state that training starts from. Files never name code that runs."
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _check_fields(node: dict[str, Any], required: AbstractSet[str], optional: AbstractSet[str] = frozenset()) -> None:
    """Refuse a node of which more is written than of its kind, or less."""
    if not required <= node.keys() <= required | optional:
        raise CheckpointError(f"{node!r:.80} is no node of a tree: its fields are {sorted(required)}.")


def check_node(node: Node, count: int) -> None:
    """Refuse what is no node, or whose tensors are not among `count` entries."""
    if node is None:
        return
    if not isinstance(node, dict):
        raise CheckpointError(f"{node!r:.80} is no node of a tree.")
    if "tensor" in node:
        _check_fields(node, {"tensor", "dtype", "shape"}, {"stride", "offset"})
        shape, stride = node["shape"], node.get("stride", [])
        if not (isinstance(node["dtype"], str) and isinstance(shape, list) and isinstance(stride, list)):
            raise CheckpointError(f"{node!r:.80} describes no tensor.")
        sizes = [*shape, *stride, node.get("offset", 0), node["tensor"]]
        if not all(map(_is_count, sizes)) or node["tensor"] >= count:
            raise CheckpointError(f"{node!r:.80} describes no tensor of the file.")
        return
    if "value" in node:
        _check_fields(node, {"value"})
        decode(node["value"])
        return
    kind = node.get("kind")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise CheckpointError(f"{kind!r:.80} is no kind of container.")
    _check_fields(node, _FIELDS[kind])
    below: Any = node["children"]
    keys: Any = node.get("keys")
    if not isinstance(below, list):
        raise CheckpointError(f"the children of a {kind} are a list, not {below!r:.80}.")
    named = "keys" in _FIELDS[kind]
    if named and (not isinstance(keys, list) or len(keys) != len(below)):
        raise CheckpointError(f"a {kind} names {keys!r:.80}, which are not its children.")
    if named and len({repr(key) for key in keys}) != len(keys):
        raise CheckpointError(f"a {kind} has two children of one name.")
    words_only = kind in ("namedtuple", "struct", "Params")
    if words_only and not all(isinstance(key, str) for key in keys or []):
        raise CheckpointError(f"the names of a {kind} are strings, not {keys!r:.80}.")
    if not isinstance(node.get("class", ""), str):
        raise CheckpointError(f"the class of a {kind} is {node['class']!r:.80}.")
    if not isinstance(node.get("static", {}), dict):
        raise CheckpointError(f"a struct has a mapping of static fields, not {node['static']!r:.80}.")
    if node.get("factory", "") not in _FACTORIES:
        raise CheckpointError(f"{node['factory']!r:.80} is no factory of a defaultdict.")
    if not (node.get("maxlen") is None or _is_count(node["maxlen"])):
        raise CheckpointError("the maxlen of a deque is a count or None.")
    for key in keys or []:
        hash(decode(key))
    for value in node.get("static", {}).values():
        decode(value)
    for child in below:
        check_node(child, count)
