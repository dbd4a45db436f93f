"""`struct`: frozen dataclasses that are pytrees."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

from functional_train.values.errors import ImmutableError
from functional_train.values.tree._structure import register_node

T = TypeVar("T")
_STATIC = "functional_train_static"


def static_field(**options: Any) -> Any:
    """Declare a field of a struct that is not a leaf but part of the structure.

    Args:
        **options: As for `dataclasses.field`, `default` among them.

    Returns:
        A field whose values are compared, not traversed; they must be hashable.

    Example:
        >>> import functional_train as ft, torch
        >>> @ft.struct
        ... class Scaled:
        ...     value: torch.Tensor
        ...     name: str = ft.static_field(default="x")
        >>> ft.tree.leaves(Scaled(1.0, "y"))
        [1.0]
    """
    return dataclasses.field(metadata={**options.pop("metadata", {}), _STATIC: True}, **options)


def is_static(field: "dataclasses.Field[Any]") -> bool:
    """Whether a field of a struct was declared with `static_field`."""
    return bool(field.metadata.get(_STATIC))


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(static_field, dataclasses.field))
def struct(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose fields are the children of a pytree node.

    Fields declared with `static_field` belong to the structure instead. The class gets a method `replace(**changes)`.
    A `__post_init__` runs whenever a value is made, also when a tree is rebuilt around other leaves (placeholders
    included), so it must not insist on tensors.

    Args:
        cls: A class with annotated fields.

    Returns:
        The class, registered with optree and with torch's own pytree.

    Raises:
        ImmutableError: when a field of a value is written to.

    Example:
        >>> import functional_train as ft, torch
        >>> @ft.struct
        ... class Point:
        ...     x: float
        ...     y: float
        >>> point = Point(1.0, 2.0)
        >>> point.replace(y=5.0)
        Point(x=1.0, y=5.0)
        >>> ft.tree.map(lambda leaf: 10 * leaf, point)
        Point(x=10.0, y=20.0)
    """
    made = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(made)  # pyright: ignore[reportArgumentType]
    dynamic = tuple(field.name for field in fields if not is_static(field))
    static = tuple(field.name for field in fields if is_static(field))

    def refuse(self: Any, name: str, *value: object) -> None:
        del self, value
        if name == "__orig_class__":  # typing's note on what was made by calling Generic[...]
            return
        raise ImmutableError(
            f"{cls.__name__} is immutable: {name!r} cannot be written or removed. Make a new one: "
            f"value.replace({name}=...)."
        )

    def replace(self: Any, **changes: Any) -> Any:
        return dataclasses.replace(self, **changes)

    def flatten(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[str, ...]]:
        return (
            tuple([getattr(value, name) for name in dynamic]),
            tuple([getattr(value, name) for name in static]),
            dynamic,
        )

    def unflatten(metadata: tuple[Any, ...], children: Any) -> Any:
        return rebuild_struct(
            made, {**dict(zip(dynamic, children, strict=True)), **dict(zip(static, metadata, strict=True))}
        )

    def reduce(self: Any) -> tuple[Any, ...]:
        return rebuild_struct, (made, {name: getattr(self, name) for name in (*dynamic, *static)})

    replace.__doc__ = f"Make a {cls.__name__} with some fields changed."
    made.__setattr__ = refuse  # pyright: ignore[reportAttributeAccessIssue]
    made.__delattr__ = refuse  # pyright: ignore[reportAttributeAccessIssue]
    made.__reduce__ = reduce  # pyright: ignore[reportAttributeAccessIssue]
    if "replace" not in vars(cls):
        made.replace = replace  # pyright: ignore[reportAttributeAccessIssue]
    register_node(made, flatten, unflatten)
    return made


def rebuild_struct(cls: type[T], fields: dict[str, Any]) -> T:
    """A struct around given fields, whatever they are: also for pickle and copy, which know no versions of tensors."""
    value = object.__new__(cls)
    for name, field in fields.items():
        object.__setattr__(value, name, field)
    after = getattr(value, "__post_init__", None)
    if after is not None:
        after()
    return value
