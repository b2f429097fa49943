"""The one decoder of DynamoDB JSON gives every type exactly, and says what it could not read."""

import json
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resettle.batch import RECORD, TROUBLE
from resettle.connectors._dynamodb_json import decode, encode

DIGITS = "1.5000000000000000000000000000000000001"


def records(*lines: str | None) -> pa.Table:
    return pa.table({RECORD: pa.array(lines, pa.string())})


def one(value: str) -> str | None:
    """The text of one attribute, given as DynamoDB JSON."""
    decoded = decode(records(f'{{"Item":{{"x":{value}}}}}'), ["x"])
    assert decoded.column_names == ["x"], decoded[TROUBLE].to_pylist()
    assert decoded.schema.types == [pa.string()]
    return decoded["x"][0].as_py()


def trouble(line: str | None, *names: str) -> str:
    decoded = decode(records('{"Item":{"x":{"S":"good"}}}', line), names or ["x"])
    assert decoded.column_names[-1] == TROUBLE
    assert decoded[TROUBLE][0].as_py() is None
    return str(decoded[TROUBLE][1].as_py())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('{"S":"plain"}', "plain"),
        ('{"S":""}', ""),
        ('{"S":"null"}', "null"),
        ('{"S":"\\"N\\":5 \\\\"}', '"N":5 \\'),
        ('{"S":"a\\u0000b"}', "a\0b"),
        ('{"S":"\\ud83d\\ude00 😀 é"}', "😀 😀 é"),
        ('{"N":"%s"}'.replace("%s", DIGITS), DIGITS),
        ('{"N":"12345678901234567890123456789012345678"}', "12345678901234567890123456789012345678"),
        ('{"N":"-0.00"}', "-0.00"),
        ('{"N":"1E+100"}', "1E+100"),
        ('{"BOOL":true}', "true"),
        ('{"BOOL":false}', "false"),
        ('{"NULL":true}', None),
        ('{"B":"AAEC/w=="}', "AAEC/w=="),
        ('{"M":{}}', "{}"),
        ('{"L":[]}', "[]"),
        ('{"SS":["b","a"]}', '["a","b"]'),
        ('{"NS":["10","9","-1.50"]}', "[-1.50,9,10]"),
        ('{"BS":["/w==","AA=="]}', '["/w==","AA=="]'),
    ],
)
def test_every_type_arrives_as_its_exact_text(value: str, text: str | None) -> None:
    assert one(value) == text


def test_maps_and_lists_lose_their_tags_but_no_digit_and_no_order() -> None:
    value = (
        '{"M":{"z":{"N":"%s"},"a":{"L":[{"NULL":true},{"BOOL":false},{"S":"😀\\u0000\\""},{"NS":["2","1"]}]},'
        '"b":{"B":"AA=="},"m":{"M":{"S":{"S":"named like a tag"}}}}}'
    ).replace("%s", DIGITS)
    assert one(value) == (
        '{"z":%s,"a":[null,false,"😀\\u0000\\"",[1,2]],"b":"AA==","m":{"S":"named like a tag"}}'.replace("%s", DIGITS)
    )


def test_the_deepest_nesting_the_service_allows_arrives() -> None:
    value, text = '{"N":"1"}', "1"
    for _ in range(31):
        value, text = f'{{"M":{{"d":{value}}}}}', f'{{"d":{text}}}'
    assert one(value) == text


@pytest.mark.parametrize("depth", [400, 5000])
def test_nesting_beyond_any_stack_is_trouble_and_not_a_crash(depth: int) -> None:
    opening, closing = '{"L":[' * depth, "]}" * depth
    assert trouble(f'{{"Item":{{"x":{opening}{{"S":"x"}}{closing}}}}}')


def test_a_bare_item_reads_as_an_exported_one_and_both_may_be_mixed() -> None:
    decoded = decode(
        records('{"x":{"S":"bare"}}', '{ "Item" : {"x":{"S":"spaced"}} }', '{"Item":{"x":{"S":"wrapped"}}}'),
        ["x"],
    )
    assert decoded["x"].to_pylist() == ["bare", "spaced", "wrapped"]


def test_a_bare_item_may_have_an_attribute_named_item() -> None:
    assert decode(records('{"x":{"S":"1"},"Item":{"S":"2"}}'), ["Item", "x"]).to_pylist() == [{"Item": "2", "x": "1"}]
    assert decode(records('{"Item":{"Item":{"S":"2"}}}'), ["Item"]).to_pylist() == [{"Item": "2"}]


def test_names_are_given_in_the_order_asked_for_and_null_where_a_record_has_none() -> None:
    decoded = decode(records('{"Item":{"a":{"S":"1"},"b":{"S":"2"}}}'), ["c", "b", "a"])
    assert decoded.column_names == ["c", "b", "a"]
    assert decoded.to_pylist() == [{"c": None, "b": "2", "a": "1"}]


def test_names_that_differ_only_in_case_or_hold_quotes_are_told_apart() -> None:
    line = json.dumps({"Item": {"id": {"S": "1"}, "ID": {"L": []}, "a'\"b.c": {"S": "3"}, "$x": {"S": "4"}}})
    decoded = decode(records(line), ["ID", "id", "a'\"b.c", "$x"])
    assert decoded.to_pylist() == [{"ID": "[]", "id": "1", "a'\"b.c": "3", "$x": "4"}]


def test_no_names_and_no_records_are_fine() -> None:
    assert decode(records('{"Item":{}}'), []).num_rows == 1
    assert decode(records(), ["x"]).to_pydict() == {"x": []}


def test_chunks_and_slices_of_a_batch_decode_alike() -> None:
    lines = [json.dumps({"Item": {"x": {"L": [{"N": str(n)}]} if n % 2 else {"N": str(n)}}}) for n in range(5000)]
    whole = records(*lines)
    chunked = pa.concat_tables([whole.slice(0, 7), whole.slice(7)])
    expected = [f"[{n}]" if n % 2 else str(n) for n in range(5000)]
    assert decode(chunked, ["x"])["x"].to_pylist() == expected
    assert decode(whole.slice(4000, 10), ["x"])["x"].to_pylist() == expected[4000:4010]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "not valid JSON"),
        (None, "not valid JSON"),
        ('{"Item":{"x":{"S":"cut', "not valid JSON"),
        ('{"Item":{"x":{"S":"two"}}} {}', "not valid JSON"),
        ('{"Item":{"x":{"S":"lone \\ud800"}}}', "not valid JSON"),
        ("[]", "not a JSON object"),
        ("5", "not a JSON object"),
        ('{"Item":[]}', "not a DynamoDB item"),
    ],
)
def test_what_is_no_item_is_trouble_of_its_own_record_only(line: str | None, reason: str) -> None:
    assert trouble(line) == reason


@pytest.mark.parametrize(
    "value",
    [
        '{"X":"secret"}',
        '{"S":5}',
        '{"S":{"a":1}}',
        '{"S":null}',
        '{"N":1.50000000000000000000000001}',
        '{"M":{"n":{"N":"NaN"}}}',
        '{"M":{"n":{"N":"1],"}}}',
        '{"M":{"n":"untagged"}}',
        '{"M":[]}',
        '{"L":{}}',
        '{"SS":"secret"}',
        '{"NS":[1]}',
        '{"B":7}',
        '{"M":{"n":{"BOOL":"true"}}}',
        '{"M":{"n":{"NULL":false}}}',
        '{"M":{}, "L":[]}',
        '"untagged"',
        "[]",
        "{}",
    ],
)
def test_an_attribute_of_no_known_type_is_trouble_that_names_it_and_no_value(value: str) -> None:
    told = trouble(f'{{"Item":{{"y":{{"S":"1"}},"x":{value}}}}}')
    assert told.startswith('attribute "x": ')
    assert "secret" not in told


def test_a_record_in_trouble_still_gives_what_can_be_read() -> None:
    decoded = decode(records('{"Item":{"id":{"S":"1"},"x":{"Q":1}}}', '{"Item":{"id":{"S":"2"}}}'), ["id", "x"])
    assert decoded["id"].to_pylist() == ["1", "2"]
    assert decoded["x"].to_pylist() == [None, None]


def test_threads_decode_side_by_side() -> None:
    tables = [records(*(f'{{"Item":{{"x":{{"N":"{n}"}}}}}}' for n in range(start, start + 3000))) for start in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda table: decode(table, ["x"])["x"].to_pylist(), tables))
    assert found == [[str(n) for n in range(start, start + 3000)] for start in range(8)]


def test_encode_sorts_keys_and_writes_binary_as_base64() -> None:
    item = {"b": {"B": b"\0\xff"}, "a": {"M": {"z": {"BS": [b"1"]}, "y": {"N": DIGITS}}}}
    line = encode(item)
    assert line == '{"Item":{"a":{"M":{"y":{"N":"%s"},"z":{"BS":["MQ=="]}}},"b":{"B":"AP8="}}}'.replace("%s", DIGITS)
    assert encode(dict(reversed(item.items()))) == line


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | TEXTS | st.integers(-(10**37), 10**37),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def tagged(value: object) -> dict[str, object]:
    match value:
        case None:
            return {"NULL": True}
        case bool():
            return {"BOOL": value}
        case int():
            return {"N": str(value)}
        case str():
            return {"S": value}
        case list():
            return {"L": [tagged(member) for member in value]}
        case dict():
            return {"M": {name: tagged(member) for name, member in value.items()}}
    raise TypeError


@given(st.lists(VALUES, min_size=1, max_size=8))
def test_whatever_is_encoded_decodes_to_the_same_values(values: list[object]) -> None:
    decoded = decode(records(*(encode({"x": tagged(value)}) for value in values)), ["x"])
    assert decoded.column_names == ["x"]
    for value, text in zip(values, decoded["x"].to_pylist(), strict=True):
        expected = value if isinstance(value, str) or value is None else json.loads(text)
        assert (text if isinstance(value, str) or value is None else value) == expected
