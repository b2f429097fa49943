"""Large listings of a bucket: packed, they tell what they told; one too large to keep is not made for a few keys."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from resettle.connectors import _s3_memory as memory
from resettle.connectors._s3_bucket import Found
from resettle.connectors.s3 import S3
from resettle.sandbox.s3 import LocalS3
from tests.connectors.test_remembering import NAMES, PAGES, asked, end, s3, sizes

__all__ = ["end", "s3"]
WHEN = datetime(2026, 11, 20, 12, 0, 0, 123456, UTC)


def objects(count: int) -> Iterator[Found]:
    for number in range(count):
        etag = f"{number:032x}" + ("-7" if number % 3 == 0 else "")
        yield Found(f"ü/{number}", number << 33, etag, None if number % 3 == 0 else etag, WHEN)


def test_a_packed_listing_tells_what_was_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "BLOCK", 30)
    packed, listed = memory.Packed(), list(objects(100))
    for first in range(0, 100, 7):
        packed.add(listed[first : first + 7])
    assert len(packed) == 100
    wanted = [one.key for one in listed[::2]]
    assert packed.find([*wanted, "ü/100", ""]) == {one.key: one for one in listed[::2]}
    assert packed.find([]) == {}


def test_an_empty_listing_holds_nothing() -> None:
    assert memory.Packed().find(["a"]) == {}


def test_a_listing_that_cannot_be_kept_is_not_made_again_for_few_keys(
    end: LocalS3, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "KEPT", 200)
    with s3.remembering():
        assert len(sizes(s3, *NAMES)) == len(NAMES)
        assert asked(end)[0] == PAGES
        for first in [*range(0, 243, 9)] * 2:
            wanted = NAMES[first : first + 9]
            assert sizes(s3, *wanted).keys() == set(wanted)
        listed, looked = asked(end)
        assert listed == 2 * 3  # tried twice, and given up at once
        assert looked > 450
