"""mirubato's JSON, as JavaScript reads and writes it. What is expected here was printed by JSON.stringify."""

from __future__ import annotations

from pathlib import Path

import pytest

from resettle.sandbox.module import module_at

FOLDER = Path(__file__).parents[2] / "migrations" / "mirubato"


functions = module_at(FOLDER / "functions.py")


@pytest.mark.parametrize(
    ("number", "printed"),
    [
        ("0", "0"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("95.50", "95.5"),
        ("100.0", "100"),
        ("0.1", "0.1"),
        ("-1.25e-9", "-1.25e-9"),
        ("1e-6", "0.000001"),
        ("0.0000001", "1e-7"),
        ("1E+20", "100000000000000000000"),
        ("1e21", "1e+21"),
        ("123456789012345680000.0", "123456789012345680000"),
        ("9007199254740992", "9007199254740992"),
        ("1.5e300", "1.5e+300"),
        ("5e-324", "5e-324"),
    ],
)
def test_numbers_are_printed_as_javascript_does(number: str, printed: str) -> None:
    assert functions.stringify(f'{{"n":[{number}]}}') == f'{{"n":[{printed}]}}'


def test_strings_are_escaped_as_javascript_does() -> None:
    text = r'["\u00e9\u001F\u007f\u2028\/ \b\t\n\f\r\" \\ \ud83c\udfb9"]'
    assert functions.stringify(text) == '["é\\u001f\x7f\u2028/ \\b\\t\\n\\f\\r\\" \\\\ 🎹"]'


def test_of_equal_keys_the_last_value_counts_at_the_first_place() -> None:
    assert functions.stringify('{"a":1,"b":2,"a":3}') == '{"a":3,"b":2}'


def test_array_indexes_come_first_as_keys_of_an_object() -> None:
    odd = '{"b":1,"10":1,"9":2,"01":3,"4294967295":4,"4294967294":5}'
    assert functions.stringify(odd) == '{"9":2,"10":1,"4294967294":5,"b":1,"01":3,"4294967295":4}'


def test_keys_sort_by_utf_16_code_units() -> None:
    """U+1F600 is D83D DE00, which is less than FB01."""
    assert functions.stringify_sorted('{"\ufb01":1,"😀":2,"a":3,"B":4}') == '{"B":4,"a":3,"😀":2,"\ufb01":1}'


def test_sorting_goes_through_all_objects_and_leaves_lists_alone() -> None:
    assert functions.stringify_sorted('{"b":[{"z":1,"y":[3,1]}],"a":{"d":1,"c":2}}') == (
        '{"a":{"c":2,"d":1},"b":[{"y":[3,1],"z":1}]}'
    )


@pytest.mark.parametrize("text", [None, "", "null", " null ", '""', '"null"'])
def test_what_is_not_set_becomes_the_default(text: str | None) -> None:
    assert functions.json_or(text, "[]") == "[]"
    assert functions.json_or(text, '{"source":"manual"}') == '{"source":"manual"}'


def test_what_was_set_to_nothing_stays_nothing() -> None:
    assert functions.json_or("{}", '{"source":"manual"}') == "{}"
    assert functions.json_or("[ ]", "[]") == "[]"


def test_json_inside_a_json_string_is_unwrapped() -> None:
    assert functions.json_or('"[1, \\"a\\"]"', "[]") == '[1,"a"]'
    assert functions.json_or('"\\"[1.0]\\""', "[]") == "[1]"


@pytest.mark.parametrize(
    "text",
    [
        "[1,]",
        '[{"id":',
        "goal_1",
        "{}",
        "5",
        "[NaN]",
        '["\x01"]',
        '["\\ud800"]',
        "[1e400]",
        "[12345678901234567890]",
        "[0.10000000000000000001]",
        "[" * 5_000,
        '"text"',
    ],
)
def test_what_is_no_list_or_would_be_rounded_is_malformed(text: str) -> None:
    assert functions.malformed(text, "[]")


def test_a_list_is_no_object() -> None:
    assert functions.malformed("[]", "{}")
    assert not functions.malformed('{"a":[]}', "{}")
