"""Typed reading of JSON objects: every error says where it is, what is there and what must be."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from fv2es.errors import ResultError


class Fields:
    """The fields of one JSON object. All methods raise ResultError.

    Args:
        value: what should be an object.
        place: how errors name it, such as `a.json: utterances[3]`.
    """

    def __init__(self, value: object, place: str) -> None:
        self.place = place
        if not isinstance(value, Mapping):
            raise self.error(f"{_shown(value)} must be an object")
        self.value: Mapping[str, Any] = value

    def __iter__(self) -> Iterator[str]:
        return iter(self.value)

    def __contains__(self, name: str) -> bool:
        return name in self.value

    def error(self, message: str) -> ResultError:
        """The error to raise about this object."""
        return ResultError(self.place, message)

    def inner(self, name: str) -> "Fields":
        """An object in a field."""
        return Fields(self._get(name), f"{self.place}.{name}")

    def items(self, name: str) -> list["Fields"]:
        """The objects of an array."""
        return [Fields(each, f"{self.place}.{name}[{index}]") for index, each in enumerate(self._array(name))]

    def text(self, name: str) -> str:
        """A string."""
        value = self._get(name)
        if not isinstance(value, str):
            raise self.error(f"{name} {_shown(value)} must be a string")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """An array of strings."""
        values = self._array(name)
        for each in values:
            if not isinstance(each, str):
                raise self.error(f"{name} {_shown(each)} must be a string")
        return tuple(values)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._get(name)
        if not isinstance(value, bool):
            raise self.error(f"{name} {_shown(value)} must be true or false")
        return value

    def whole(self, name: str) -> int:
        """A whole number >= 0."""
        value = self._get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.error(f"{name} {_shown(value)} must be a whole number, 0 or more")
        return value

    def number(self, name: str, *, least: float = -math.inf, most: float = math.inf) -> float:
        """A finite number in [least, most]."""
        return self._number(name, self._get(name), least, most)

    def number_or_none(self, name: str, *, least: float = -math.inf, most: float = math.inf) -> float | None:
        """A finite number in [least, most], or null."""
        value = self._get(name)
        return None if value is None else self._number(name, value, least, most)

    def numbers(self, name: str, *, count: int) -> list[float] | None:
        """An array of `count` finite numbers, or null."""
        if self._get(name) is None:
            return None
        values = self._array(name)
        if len(values) != count:
            raise self.error(f"{name} holds {len(values)} numbers; it must be null or hold {count}")
        return [self._number(name, each, -math.inf, math.inf) for each in values]

    def span(self) -> tuple[float, float]:
        """`start_s` and `end_s`, the one before the other."""
        start_s, end_s = self.number("start_s"), self.number("end_s")
        if not start_s < end_s:
            raise self.error(f"start_s {start_s:g} must lie before end_s {end_s:g}")
        return start_s, end_s

    def table(
        self, name: str, *, labels: Sequence[str], least: float = -math.inf, most: float = math.inf
    ) -> dict[str, float]:
        """A number in [least, most] for each of the model's labels, in their order."""
        inner = self.inner(name)
        inner._check_known(labels)
        return {label: inner.number(label, least=least, most=most) for label in labels}

    def table_or_none(self, name: str, *, known: Collection[str]) -> dict[str, float] | None:
        """Numbers for some of the model's labels, or null."""
        if self._get(name) is None:
            return None
        inner = self.inner(name)
        inner._check_known(known)
        return {label: inner.number(label) for label in inner}

    def _check_known(self, labels: Collection[str]) -> None:
        for label in self.value:
            if label not in labels:
                raise self.error(f"{label!r} is no label of the model ({', '.join(labels)})")

    def _get(self, name: str) -> Any:
        if name not in self.value:
            raise self.error(f"{name} is missing")
        return self.value[name]

    def _array(self, name: str) -> list[Any]:
        value = self._get(name)
        if not isinstance(value, list):
            raise self.error(f"{name} {_shown(value)} must be an array")
        return value

    def _number(self, name: str, value: object, least: float, most: float) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if math.isfinite(number) and least <= number <= most:
                return number
        rule = f" in [{least:g}, {most:g}]" if math.isfinite(least) or math.isfinite(most) else ""
        raise self.error(f"{name} {_shown(value)} must be a finite number{rule}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
