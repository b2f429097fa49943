"""JSON as JavaScript reads and writes it: the app parses `data`, stringifies it and compares its checksum.

ECMA-262 rules that matter here: a number is a double, printed by Number::toString (`95.0` is `95`, `1e-7` stays); of
two equal keys the last value counts, at the first one's place; keys that are array indexes come first, by size;
keys sort by UTF-16 code units; only quotes, backslashes and control characters are escaped.
"""

import json
import re
from decimal import Decimal
from functools import lru_cache

import orjson

_NUMBER = r"(?:-0[,\]}.\s]|-?(?:\d+(?:\.\d+)?[eE]|\d+\.\d*0(?!\d)|0\.000|\d[\d.]{15}))"
_ODD = re.compile(rf'(?:"\s*:|[\[,])\s*{_NUMBER}|[{{,]\s*"\d+"\s*:|\\u')
"""A number or a key that orjson prints or sorts otherwise than JavaScript, or what may be half a surrogate pair."""
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")
_SAFE = 2**53


def malformed(text: str | None, default: str) -> bool:
    """Whether `json_or` refuses it."""
    return _read(text, default) is None


def json_or(text: str | None, default: str) -> str:
    """The list or object, compact, as JavaScript would print it; ``default`` for null, '' and JSON null.

    JSON inside a JSON string is unwrapped: the app's first version stored lists that way. Raises ValueError for
    what is no JSON, of another kind than ``default``, or holds a number that a double would round.
    """
    found = _read(text, default)
    if found is None:
        raise ValueError(f"no JSON like {default}")
    return found


@lru_cache(50_000)
def _read(text: str | None, default: str) -> str | None:
    if text is None or text in ("", "null", default):
        return default
    try:
        value, odd = _parse(text)
        while isinstance(value, str):
            value, odd = _parse(value) if value else (None, False)
        if value is None:
            return default
        return _text(value, odd) if isinstance(value, list if default.startswith("[") else dict) else None
    except (ValueError, RecursionError):
        return None


def stringify(text: str) -> str:
    """JSON.stringify(JSON.parse(text))."""
    return _text(*_parse(text))


def stringify_sorted(text: str) -> str:
    """The same with the keys of every object sorted: the text that the API's calculateChecksum hashes."""
    return _exact_text(_sorted(_parse(text)[0])) if _odd(text) else sort_keys(text)


def sort_keys(text: str) -> str:
    """The same, four times as fast, of JSON without anything odd (see the variable of that name)."""
    return orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS).decode()


def _odd(text: str) -> bool:
    """Whether it may hold what orjson prints or sorts otherwise than JavaScript: true a bit too often."""
    return _ODD.search(text) is not None or (not text.isascii() and _ASTRAL.search(text) is not None)


def _text(value: object, odd: bool) -> str:
    return _exact_text(value) if odd else orjson.dumps(value).decode()


def _parse(text: str) -> tuple[object, bool]:
    """The value, and whether it must be written by `_exact_text`."""
    if _odd(text):
        return json.loads(text, parse_int=_integer, parse_float=_real, parse_constant=_refused), True
    return orjson.loads(text), False


def _exact_text(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{_exact_text(key)}:{_exact_text(item)}" for key, item in _in_order(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_exact_text, value)) + "]"
    if isinstance(value, float):
        return _number(value)
    try:
        return orjson.dumps(value).decode()
    except TypeError as error:
        raise ValueError("half a surrogate pair, which UTF-8 does not have") from error


def _in_order(members: dict[str, object]) -> list[tuple[str, object]]:
    """Array indexes first, by size; the rest as they came."""
    indexes = sorted((key for key in members if _is_index(key)), key=int)
    return [(key, members[key]) for key in (*indexes, *(key for key in members if not _is_index(key)))]


def _is_index(key: str) -> bool:
    return re.fullmatch(r"0|[1-9]\d{0,9}", key, re.ASCII) is not None and int(key) < 2**32 - 1


def _sorted(value: object) -> object:
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value, key=lambda key: key.encode("utf-16-be"))}
    return value


def _integer(digits: str) -> int | float:
    value = int(digits)
    return value if abs(value) <= _SAFE else _real(digits)


def _real(digits: str) -> float:
    """The double, if it prints as the same number. Raises ValueError if JavaScript would round it."""
    value = float(digits)
    if value in (float("inf"), float("-inf")) or Decimal(repr(value)) != Decimal(digits):
        raise ValueError("a number that a double does not keep")
    return value


def _number(value: float) -> str:
    """Number::toString: plain digits from 1e-6 up to below 1e21, an exponent beyond."""
    if value == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    plain = "".join(map(str, digits))
    point = len(plain) + int(exponent)
    minus = "-" if sign else ""
    if -6 < point <= 0:
        return f"{minus}0.{'0' * -point}{plain}"
    if 0 < point <= 21:
        whole, fraction = plain[:point].ljust(point, "0"), plain[point:]
        return minus + whole + ("." + fraction if fraction else "")
    fraction = "." + plain[1:] if plain[1:] else ""
    return f"{minus}{plain[0]}{fraction}e{point - 1:+d}"


def _refused(word: str) -> object:
    raise ValueError(f"{word} is no JSON")
