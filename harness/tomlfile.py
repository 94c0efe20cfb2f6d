# SPDX-License-Identifier: MIT
"""TOML files that people write: read, checked against a type, and every mistake told with its line."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
from msgspec import inspect

from harness.errors import UsageError

T = TypeVar("T")
Keys = Sequence[str | int]
"""Where a value is: ``("bases", 0, "kind")`` is the key ``kind`` of the first ``[[bases]]``."""

LARGEST = 100_000
"""Bytes that a file may have; nobody writes as much."""

PATIENCE = 4_000_000
"""Bytes that may be read to find a line."""

_NOT_TOML = (ValueError, RecursionError)
"""What tomllib raises for a text that it cannot read: nesting and numbers have their own errors."""


@dataclass(frozen=True)
class TomlFile:
    """One file's text and what it says. ``noun`` is what it should be ("definition")."""

    path: Path
    noun: str
    text: str
    data: dict[str, Any]

    @classmethod
    def read(cls, path: Path, noun: str, advice: str) -> Self:
        """Read a file. Raises UsageError with ``advice`` when there is none, and when it is no TOML."""
        try:
            if path.is_dir():
                raise IsADirectoryError("it is a folder")
            if path.stat().st_size > LARGEST:
                raise UsageError(f"the {noun} {path} has more than {LARGEST:,} bytes", advice=advice)
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read the {noun} {str(path)!r}: {error}", advice=advice) from None
        try:
            # Without the line break, a mistake in the last line has no number.
            return cls(path, noun, text, tomllib.loads(text + "\n"))
        except _NOT_TOML as error:
            why = "its brackets are nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise UsageError(
                f"{path} is not a valid {noun}: {why}", advice="correct that line; the file is TOML"
            ) from None

    def convert(self, kind: type[T]) -> T:
        """Return what the file says as a ``kind``.

        Raises UsageError naming the line, the key and what may stand there.
        """
        try:
            return msgspec.convert(self.data, kind)
        except msgspec.ValidationError as error:
            said, _, place = str(error).partition(" - at ")
            raise self._explained(said, _keys(place), inspect.type_info(kind)) from None

    def refused(self, keys: Keys, why: str, allowed: Collection[str] = ()) -> UsageError:
        """Return the error for the value at ``keys``; ``allowed`` are the values that could stand there."""
        # What only a longer path would find is at its table's line.
        lines = (line_of(self.text, keys[:length]) for length in range(len(keys), 0, -1))
        line = next((f", line {number}" for number in lines if number), "")
        name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")
        key = f", {name}" if name else ""
        advice = "correct the file"
        if allowed:
            advice = _advice(_value(self.data, keys), allowed)
        return UsageError(f"{self.path} is not a valid {self.noun}{line}{key}: {why}", advice=advice)

    def _explained(self, said: str, keys: tuple[str | int, ...], root: inspect.Type) -> UsageError:
        """Turn what msgspec says into the error for people."""
        table = _type_at(root, keys, self.data)
        unknown = re.fullmatch(r"Object contains unknown field `(.*)`", said, re.DOTALL)
        if unknown:
            error = self.refused((*keys, unknown[1]), "there is no such key")
            error.advice = _advice(unknown[1], _names(table))
            return error
        missing = re.fullmatch(r"Object missing required field `(.*)`", said)
        if missing:
            allowed = _tags(table) if missing[1] == getattr(table, "tag_field", "kind") else ()
            return self.refused(keys, f"the key {missing[1]} is missing", allowed)
        allowed = [str(value) for value in getattr(table, "values", ())] or _tags(
            _type_at(root, keys[:-1], self.data)
        )
        return self.refused(keys, said[:1].lower() + said[1:], allowed)


def line_of(text: str, keys: Keys) -> int:
    """Return the line, from 1, where the value at ``keys`` begins, 0 if it is nowhere.

    It is where the file, read only up to there, first has it. In a very long file nothing is found.
    """
    lines = text.splitlines()
    if len(lines) * len(text) > PATIENCE:
        return 0
    complete = 0
    for number in range(1, len(lines) + 1):
        try:
            data = tomllib.loads("\n".join(lines[:number]))
        except _NOT_TOML:
            continue
        if _value(data, keys) is not None:
            return complete + 1
        complete = number
    return 0


def _value(data: Any, keys: Keys) -> Any:
    for key in keys:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _keys(place: str) -> tuple[str | int, ...]:
    """Read msgspec's ``$.bases[0].kind``; of ``[...]``, some value of a table, the table is told."""
    found: list[str | int] = []
    for name, index in re.findall(r"\.([^.\[\]`]+)|\[(\d+|\.\.\.)\]", place.rpartition("`$")[2]):
        if index == "...":
            break
        found.append(name or int(index))
    return tuple(found)


def _type_at(kind: inspect.Type, keys: Keys, data: Any) -> inspect.Type | None:
    """Return the type that the value at ``keys`` should have, None where it depends on what is wrong."""
    for key in keys:
        kind_here = _struct(kind, data)
        if isinstance(kind_here, inspect.StructType):
            kinds = {field.encode_name: field.type for field in kind_here.fields}
            if key not in kinds:
                return None
            kind = kinds[str(key)]
        elif isinstance(kind_here, inspect.VarTupleType):
            kind = kind_here.item_type
        else:
            return None
        data = _value(data, (key,))
    return _struct(kind, data)


def _struct(kind: inspect.Type | None, data: Any) -> inspect.Type | None:
    """Of several kinds of table, return the one that the data names."""
    if not isinstance(kind, inspect.UnionType):
        return kind
    for one in kind.types:
        tag = getattr(one, "tag_field", None)
        if isinstance(one, inspect.StructType) and isinstance(data, dict) and data.get(tag) == one.tag:
            return one
    return kind


def _names(table: inspect.Type | None) -> list[str]:
    """Return the keys that a table may have; ``name`` is not one where it comes from the file's name."""
    if not isinstance(table, inspect.StructType):
        return []
    names = [field.encode_name for field in table.fields if field.required or field.encode_name != "name"]
    return [*names, table.tag_field] if table.tag_field else names


def _tags(tables: inspect.Type | None) -> list[str]:
    """Return the names of the kinds of table that may stand in one place."""
    if not isinstance(tables, inspect.UnionType):
        return []
    return [str(one.tag) for one in tables.types if isinstance(one, inspect.StructType)]


def _advice(value: object, allowed: Collection[str]) -> str:
    close = difflib.get_close_matches(value, allowed, 1) if isinstance(value, str) else []
    guess = f"did you mean {close[0]}? " if close else ""
    return f"{guess}write one of: {', '.join(sorted(allowed))}"
