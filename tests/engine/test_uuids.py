"""The fast way from text to uuids gives what a cast gives, or says that it cannot."""

from __future__ import annotations

import uuid

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resettle.engine.uuids import from_text


def column(values: list[str | None], *, pad: int = 0) -> pa.ChunkedArray:
    """The values behind ``pad`` others in one buffer, cut off again, as slices come out of a database."""
    return pa.chunked_array([pa.array(["x" * 36] * pad + values, pa.string()).slice(pad)])


@given(st.lists(st.none() | st.uuids(), max_size=30), st.integers(0, 3))
def test_every_uuid_keeps_its_bytes_and_every_null_its_place(values: list[uuid.UUID | None], pad: int) -> None:
    found = from_text(column([None if value is None else str(value) for value in values], pad=pad))
    assert found is not None
    assert found.to_pylist() == [None if value is None else value.bytes for value in values]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "appt-17",
        "AAAAAAAA-0000-4000-8000-000000000001",
        "aaaaaaaa00004000800000000000000100000",
        "aaaaaaaa-0000-4000-8000-00000000000g",
        "aaaaaaaa-0000-4000-80000-00000000001",
        "{aaaaaaaa-0000-4000-8000-0000000001}",
        "éaaaaaaa-0000-4000-8000-00000000001",
    ],
)
def test_any_other_text_is_left_to_the_cast(text: str) -> None:
    assert from_text(column([str(uuid.UUID(int=7)), text])) is None
