"""Refusals of options of a wrong kind or out of range, in one voice."""

from __future__ import annotations

import difflib
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from seglab.errors import ConfigError


def one_of(key: str, value: str, choices: Sequence[str]) -> str:
    """The value, if it is a legal choice.

    Raises:
        ConfigError: it is not.
    """
    if value not in choices:
        raise ConfigError(f"{key}={value} — expected one of {', '.join(choices)}")
    return value


def within(key: str, value: float, low: float, high: float = math.inf, open_low: bool = False) -> float:
    """The value, if it is a finite number from low (excluded with ``open_low``) to high.

    Raises:
        ConfigError: it is not.
    """
    if not (math.isfinite(value) and (low < value if open_low else low <= value) and value <= high):
        bound = f"{'>' if open_low else '>='} {low:g}" + (f" and <= {high:g}" if math.isfinite(high) else "")
        raise ConfigError(f"{key}={value} — expected a finite number {bound}")
    return value


def height_width(key: str, value: Sequence[int], most: int) -> tuple[int, int]:
    """The value, if it is [height, width] of at least one and at most ``most`` pixels.

    Raises:
        ConfigError: it is not.
    """
    sides = [int(side) for side in value]
    if len(sides) != 2 or min(sides) < 1 or sides[0] * sides[1] > most:
        raise ConfigError(
            f"{key}={json.dumps(sides)} — expected [height,width], both at least 1 and with at most {most} pixels"
        )
    return sides[0], sides[1]


def kinds(target: Callable[..., Any], node: Mapping[str, Any], key: str) -> None:
    """Compare the plain values of a configuration node with the annotations of what it is handed to.

    Args:
        target: the class or function whose arguments the node's values are.
        node: names and values. Names that begin with an underscore, and parameters that ``target`` does not have or
            does not annotate, are left to it.
        key: where the node stands.

    Raises:
        ConfigError: names the key, the value and what is expected.
    """
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # built in, without a signature
        return
    names = getattr(target.__init__ if inspect.isclass(target) else target, "__globals__", {})
    for name, value in node.items():
        if name in parameters and not name.startswith("_"):
            kind(f"{key}.{name}", value, _hint(parameters[name].annotation, names))


def kind(key: str, value: Any, hint: Any) -> None:
    """Refuse a value that is not of a type.

    Raises:
        ConfigError: names the key, the value and what is expected.
    """
    if not fits(value, hint):
        shown = json.dumps(value) if value is None or isinstance(value, bool) else value
        raise ConfigError(f"{key}={shown} — expected {' or '.join(dict.fromkeys(words(hint)))}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value, as YAML has it, can be meant by a type; true where the type is none that YAML has.

    A whole number is a number, true and false are none; a list stands for any sequence; a mapping with ``_target_`` for
    any object.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in arguments)
    if origin is typing.Literal:
        return any(value == each and type(value) is type(each) for each in arguments)
    if hint is None or hint is type(None):
        return value is None
    if hint is bool or hint is str:
        return isinstance(value, hint)
    if hint is int or hint is float:
        return isinstance(value, int | hint) and not isinstance(value, bool)
    plain = origin or hint
    if plain is Callable:
        return callable(value)
    if inspect.isclass(plain) and issubclass(plain, Sequence):
        items = [each for each in arguments if each is not Ellipsis]
        return isinstance(value, list | tuple) and all(any(fits(v, each) for each in items or [Any]) for v in value)
    if inspect.isclass(plain) and issubclass(plain, Mapping):
        return isinstance(value, Mapping)
    return True


def words(hint: Any) -> list[str]:
    """What a type means to someone who writes YAML, one entry for each choice."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return [text for each in arguments for text in words(each)]
    if origin is typing.Literal:
        return [f"one of {', '.join(map(str, arguments))}"]
    for known, text in ((bool, "true or false"), (int, "a whole number"), (float, "a number"), (str, "text")):
        if hint is known:
            return [text]
    if hint is None or hint is type(None):
        return ["null"]
    plain = origin or hint
    if inspect.isclass(plain) and plain is not Callable and issubclass(plain, Sequence):
        inner = dict.fromkeys(text for each in arguments if each is not Ellipsis for text in words(each))
        return [f"a list, each {' or '.join(inner)}" if inner else "a list"]
    return ["a mapping"] if inspect.isclass(plain) and issubclass(plain, Mapping) else ["a node with _target_"]


def _hint(annotation: Any, names: dict[str, Any]) -> Any:
    """A parameter's type; anything where it has none, or one that only a type checker knows."""
    if annotation is inspect.Parameter.empty:
        return Any
    try:
        return eval(annotation, names) if isinstance(annotation, str) else annotation
    except Exception:
        return Any


def dotted(node: Any, key: str = "") -> Iterator[str]:
    """Every key in nested mappings, by its dotted path."""
    if isinstance(node, Mapping):
        for name, child in node.items():
            path = f"{key}.{name}" if key else str(name)
            yield path
            yield from dotted(child, path)


def nearest(name: str, keys: Iterable[str]) -> str | None:
    """The dotted key that is most likely meant by a name that does not exist: it ends in the name, or looks alike."""
    known = {key: key.rpartition(".")[2] for key in keys}
    last = name.rpartition(".")[2]
    same = [key for key, end in known.items() if end == last]
    alike = difflib.get_close_matches(last, known.values(), n=1) or difflib.get_close_matches(name, known, n=1)
    found = same or [key for key, end in known.items() if alike and alike[0] in (key, end)]
    return min(found, key=len, default=None)


def known_keys(options: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse top-level keys that nothing reads: an override of one would change nothing, in silence.

    Raises:
        ConfigError: names the first of them and the nearest key that exists.
    """
    for name, value in options.items():
        if name not in known:
            own = [name, *dotted(value, name)]
            close = nearest(own[-1], dotted({key: node for key, node in options.items() if key in known}))
            wanted = f"did you mean {close}?" if close else f"expected one of {', '.join(sorted(known))}"
            raise ConfigError(f"nothing reads the key {own[-1]} — {wanted}")
