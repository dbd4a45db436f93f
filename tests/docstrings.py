"""What a public docstring must say, as functions: a public name in, a list of complaints out."""

import inspect
import re
import sys
from typing import NoReturn

from tests.public_names import PublicName

SOURCED = ("functional_train.updates.transforms.", "functional_train.updates.optimizers.")
NOTHING = {None, "None", NoReturn, "NoReturn", inspect.Signature.empty}


def docstring(value: object) -> str:
    """Return the docstring written at the definition, never an inherited one."""
    return inspect.cleandoc(value.__doc__ or "")


def section(text: str, name: str) -> str:
    """Return the indented lines below the line `name:`."""
    found = re.search(rf"^{name}:[ ]*\n((?:[ ]+.*(?:\n|$)|\n)*)", text, re.MULTILINE)
    return found.group(1) if found else ""


def documented_arguments(value: object, seen: frozenset[str] = frozenset()) -> set[str]:
    """Names that the section Args explains, and those of the functions it refers to as "as `other`"."""
    text = section(docstring(value), "Args")
    entries = re.findall(r"^[ ]+((?:\*{0,2}\w+(?:,[ ]*)?)+)(?:[ ]*\(.*?\))?:(?:\s|$)", text, re.MULTILINE)
    names = {name.strip(" *") for entry in entries for name in entry.split(",")}
    for reference in re.findall(r"\b[Aa]s (?:in |of |for )?`(?:ft\.)?(\w+)`", text):
        other = getattr(sys.modules.get(getattr(value, "__module__", "")), reference, None)
        if other is not None and reference not in seen:
            names |= documented_arguments(other, seen | {reference})
    return names


def says_what_it_does(public: PublicName) -> list[str]:
    """A public docstring opens with one line that ends with a period."""
    first = docstring(public.value).split("\n")[0]
    return [] if first.endswith(".") else [f"{public.path}: the first line {first!r} does not end with a period"]


def explains_arguments(public: PublicName) -> list[str]:
    """The section Args of a public function names every parameter."""
    if not public.is_function:
        return []
    parameters = [name for name in inspect.signature(public.value).parameters if name not in {"self", "cls"}]
    missing = [name for name in parameters if name not in documented_arguments(public.value)]
    return [f"{public.path}: Args does not name {name}" for name in missing]


def explains_result(public: PublicName) -> list[str]:
    """A public function that returns something has a section Returns, or Yields."""
    if not public.is_function or inspect.signature(public.value).return_annotation in NOTHING:
        return []
    text = docstring(public.value)
    return [] if section(text, "Returns") or section(text, "Yields") else [f"{public.path}: no section Returns"]


def shows_an_example(public: PublicName) -> list[str]:
    """A public name has a section Example with at least one line to run."""
    shown = ">>> " in section(docstring(public.value), "Example")
    return [] if shown else [f"{public.path}: no section Example with a line that starts with >>>"]


def is_annotated(public: PublicName) -> list[str]:
    """Every parameter and the result of a public function are annotated."""
    if not public.is_function:
        return []
    signature = inspect.signature(public.value)
    bare = [name for name, parameter in signature.parameters.items() if parameter.annotation is parameter.empty]
    bare += ["return"] if signature.return_annotation is signature.empty else []
    return [f"{public.path}: no annotation for {name}" for name in bare]


def names_its_source(public: PublicName) -> list[str]:
    """A transformation or an optimizer has a line "Source: ..." with the paper or the class it follows."""
    if not public.is_function or not public.home.startswith(SOURCED):
        return []
    sourced = re.search(r"^Source: \S", docstring(public.value), re.MULTILINE)
    return [] if sourced else [f"{public.path}: no line that starts with 'Source: '"]


RULES = (
    says_what_it_does,
    explains_arguments,
    explains_result,
    shows_an_example,
    is_annotated,
    names_its_source,
)
