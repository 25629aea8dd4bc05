"""Configurations of the command line: frozen dataclasses, read from TOML and from `--flags`.

Precedence: scene's or class's defaults < `--config FILE` < command line. Nothing here loads torch,
so that `--help` and a mistyped key are answered at once.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "UsageError", "dump_toml", "field_help", "from_dict", "load_toml", "merge", "nearest",
    "to_dict",
]  # fmt: skip

C = TypeVar("C")


class UsageError(ValueError):
    """A request that cannot be carried out as written: unknown name, wrong type, missing file."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or the list of what exists where nothing is similar."""
    known = sorted(known)
    match = difflib.get_close_matches(name, known, 1, 0.5)
    return f"Did you mean {match[0]!r}?" if match else f"Use one of: {', '.join(known)}."


def from_dict(cls: type[C], data: Mapping[str, Any], where: str = "config") -> C:
    """Build a configuration from nested plain values, checking every name and type.

    Args:
        cls: Dataclass; fields are numbers, strings, tuples, dictionaries or further dataclasses.
        data: Nested values as TOML gives them; strings are parsed where numbers are expected.
        where: What the data is, for messages.

    Raises:
        UsageError: an unknown key, with the nearest known one; a value of the wrong type.
    """
    types_ = _types(cls)
    for key in data:
        if key not in types_:
            raise UsageError(
                f"{where}: known keys only; got {key!r}. {nearest(key, types_)}"
            )
    values = {k: _coerce(types_[k], v, f"{where}: {k}") for k, v in data.items() if v is not None}
    return cls(**values)


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values of a configuration, without fields that are unset (None) or empty."""
    out: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = _plain(getattr(config, field.name))
        if value is not None and value != {} and value != []:
            out[field.name] = value
    return out


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries joined; later layers win, None never does."""
    out: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping) and isinstance(out.get(key), Mapping):
                out[key] = merge(out[key], value)
            elif isinstance(value, Mapping):
                out[key] = merge(value)
            elif value is not None:
                out[key] = value
    return out


def load_toml(path: str | Path) -> dict[str, Any]:
    """Content of a TOML file.

    Raises:
        UsageError: no such file, or no TOML, with line and column.
    """
    try:
        toml = importlib.import_module("tomllib")
    except ModuleNotFoundError:  # Python 3.10, where cyclopts brings the same parser
        toml = importlib.import_module("tomli")
    try:
        return toml.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(f"--config: an existing file; got {path}. Check the path.") from None
    except (toml.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UsageError(f"--config: a TOML file; got {path}: {error}. Correct it.") from None


def dump_toml(data: Mapping[str, Any]) -> str:
    """Nested plain values as TOML text."""
    lines: list[str] = []
    _table(data, (), lines)
    return "\n".join(lines).lstrip("\n") + "\n"


@cache
def field_help(cls: type) -> dict[str, str]:
    """Field name → its docstring line, read from the source."""
    tree: Any = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    body = tree.body
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[1:]):
        if dataclasses.is_dataclass(base):
            docs.update(field_help(base))
    for item, text in zip(body, body[1:], strict=False):
        if isinstance(item, ast.AnnAssign) and isinstance(text, ast.Expr):
            value = getattr(text.value, "value", None)
            if isinstance(value, str):
                docs[item.target.id] = " ".join(value.split())
    return docs


def _table(data: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    plain = {k: v for k, v in data.items() if not isinstance(v, Mapping)}
    if path and (plain or not data):
        lines += ["", f"[{'.'.join(map(_key, path))}]"]
    lines += [f"{_key(k)} = {_value(v)}" for k, v in plain.items()]
    for key, value in data.items():
        if isinstance(value, Mapping):
            _table(value, (*path, key), lines)


def _key(name: str) -> str:
    bare = name.replace("-", "").replace("_", "")
    return name if bare.isascii() and bare.isalnum() else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


@cache
def _types(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _coerce(kind: Any, value: Any, where: str) -> Any:
    """A plain value as the annotated type, or an error that names both."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        kind = next(a for a in args if a is not type(None))
        return _coerce(kind, value, where)
    if isinstance(value, list) and len(value) == 1 and origin is not tuple:
        value = value[0]
    if origin is typing.Literal:
        for choice in args:
            if str(choice) == str(value):
                return choice
        raise UsageError(
            f"{where}: one of {', '.join(map(str, args))}; got {value!r}. "
            f"{nearest(str(value), map(str, args))}"
        )
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return from_dict(kind, value, where)
    if origin is dict and isinstance(value, Mapping):
        return {str(k): _coerce(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin is tuple and isinstance(value, (list, tuple, str, float, int)):
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_coerce(args[0], item, where) for item in items)
    try:
        if kind is bool and str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        if kind in (int, float) and isinstance(value, (int, float, str)) and value is not True:
            number = kind(value)
            if kind is float or number == float(value):
                return number
        if kind is str and isinstance(value, (str, Path)):
            return str(value)
    except ValueError:
        pass
    name = getattr(kind, "__name__", str(kind)) if origin is None else str(kind)
    raise UsageError(f"{where}: {name}; got {value!r}. Correct the value.")
