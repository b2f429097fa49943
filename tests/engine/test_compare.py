"""The table in compare's docstring, line by line, as a table."""

from __future__ import annotations

import pyarrow as pa
import pytest

from resettle.engine.compare import compare
from resettle.mapping.functions import connect

W, THEN, OTHER = b"wanted".ljust(16), b"then".ljust(16), b"other".ljust(16)

UNKNOWN = None
SAME = {"same": True, "reused": 0, "target_key": "k"}
CHANGED = {"same": False, "reused": 0, "target_key": "k"}
REUSED = {"same": False, "reused": 1, "target_key": "k"}
REUSED_SAME = {"same": True, "reused": 1, "target_key": "k"}
REUSED_MOVED = {**REUSED, "target_key": "another"}
MOVED = {"same": False, "reused": 0, "target_key": "another"}

INTENDED = {"same": False, "intended": True, "reused": 0, "target_key": "k"}

ABSENT = None
EQUAL = {"_fp": W, "_left": False}
AS_LEFT = {"_fp": THEN, "_left": True}
EDITED = {"_fp": OTHER, "_left": False}

CASES = [
    # known, present, match, policy -> action, reason of a conflict
    (UNKNOWN, ABSENT, False, "hold", "create", None),
    (UNKNOWN, ABSENT, True, "hold", "create", None),
    (UNKNOWN, EQUAL, False, "hold", "reuse", None),
    (UNKNOWN, EQUAL, True, "hold", "reuse", None),
    (UNKNOWN, EDITED, True, "hold", "reuse", None),
    (UNKNOWN, EDITED, False, "hold", "conflict", "exists_in_target"),
    (UNKNOWN, EDITED, False, "source", "update", None),
    (UNKNOWN, EDITED, False, "target", "reuse", None),
    (SAME, ABSENT, False, "hold", "unchanged", None),
    (SAME, EQUAL, False, "hold", "unchanged", None),
    (SAME, EDITED, False, "hold", "unchanged", None),
    (SAME, EDITED, False, "source", "unchanged", None),
    (CHANGED, EQUAL, False, "hold", "unchanged", None),
    (CHANGED, AS_LEFT, False, "hold", "update", None),
    (CHANGED, AS_LEFT, False, "source", "update", None),
    (CHANGED, AS_LEFT, False, "target", "update", None),
    (CHANGED, EDITED, False, "hold", "conflict", "edited_in_target"),
    (CHANGED, EDITED, False, "source", "update", None),
    (CHANGED, EDITED, False, "target", "reuse", None),
    (CHANGED, ABSENT, False, "hold", "conflict", "deleted_in_target"),
    (CHANGED, ABSENT, False, "source", "conflict", "deleted_in_target"),
    (CHANGED, ABSENT, False, "target", "conflict", "deleted_in_target"),
    (MOVED, ABSENT, False, "hold", "conflict", "key_changed"),
    (MOVED, EDITED, False, "source", "conflict", "key_changed"),
    (REUSED, EQUAL, False, "hold", "unchanged", None),
    (REUSED, AS_LEFT, False, "hold", "conflict", "not_ours"),
    (REUSED, EDITED, False, "hold", "conflict", "not_ours"),
    (REUSED, EDITED, True, "hold", "unchanged", None),
    (REUSED, ABSENT, True, "hold", "unchanged", None),
    (REUSED_MOVED, ABSENT, True, "hold", "conflict", "key_changed"),
    (REUSED_SAME, EDITED, False, "hold", "unchanged", None),
    (INTENDED, ABSENT, False, "hold", "create", None),
    (INTENDED, EQUAL, False, "hold", "unchanged", None),
    (INTENDED, EDITED, False, "hold", "conflict", "edited_in_target"),
]


def decided(known: object, present: object, match: bool, policy: str) -> dict[str, object]:
    wanted = pa.table({"_at": pa.array([0]), "_key": ["k"], "_fp": pa.array([W], pa.binary())})
    known_rows = [] if known is None else [{"_at": 0, **known}]  # type: ignore[dict-item]
    present_rows = [] if present is None else [{"_at": 0, "_key": "k", **present}]  # type: ignore[dict-item]
    known_schema = pa.schema(
        [
            ("_at", pa.int64()),
            ("same", pa.bool_()),
            ("intended", pa.bool_()),
            ("reused", pa.int64()),
            ("target_key", pa.string()),
        ]
    )
    present_schema = pa.schema(
        [("_at", pa.int64()), ("_key", pa.string()), ("_fp", pa.binary()), ("_left", pa.bool_())]
    )
    (row,) = compare(
        connect(),
        wanted,
        pa.Table.from_pylist(known_rows, known_schema),
        pa.Table.from_pylist(present_rows, present_schema),
        match=match,
        policy=policy,
    ).to_pylist()
    return dict(row)


@pytest.mark.parametrize(("known", "present", "match", "policy", "action", "reason"), CASES)
def test_known_present_and_wanted_decide(
    known: object, present: object, match: bool, policy: str, action: str, reason: str | None
) -> None:
    row = decided(known, present, match, policy)
    assert row["_action"] == action
    assert row["_known"] == (known is not None)
    assert (row["_present"] is None) == (present is None)
    if reason:
        assert row["_reason"] == reason


def test_rows_are_decided_in_the_order_they_are_wanted() -> None:
    count = 5000
    keys = [f"k{n}" for n in range(count)]
    wanted = pa.table({"_at": list(range(count)), "_key": keys, "_fp": pa.array([W] * count, pa.binary())})
    present = pa.table(
        {
            "_at": list(range(count // 2)),
            "_key": keys[::-2],
            "_fp": pa.array([W] * (count // 2), pa.binary()),
            "_left": [False] * (count // 2),
        }
    )
    known = pa.table(
        {
            "_at": pa.array([], pa.int64()),
            "same": pa.array([], pa.bool_()),
            "intended": pa.array([], pa.bool_()),
            "reused": pa.array([], pa.int64()),
            "target_key": pa.array([], pa.string()),
        }
    )
    found = compare(connect(), wanted, known, present, match=False, policy="hold")
    assert found["_at"].to_pylist() == list(range(count))
    assert found["_action"].to_pylist() == ["create", "reuse"] * (count // 2)


def test_of_several_rows_with_one_natural_key_the_first_counts() -> None:
    wanted = pa.table({"_at": pa.array([0]), "_key": ["k"], "_fp": pa.array([W], pa.binary())})
    present = pa.table(
        {"_at": [0, 1], "_key": ["k", "k"], "_fp": pa.array([OTHER, W], pa.binary()), "_left": [False, False]}
    )
    known = pa.table(
        {
            "_at": pa.array([], pa.int64()),
            "same": pa.array([], pa.bool_()),
            "intended": pa.array([], pa.bool_()),
            "reused": pa.array([], pa.int64()),
            "target_key": pa.array([], pa.string()),
        }
    )
    (row,) = compare(connect(), wanted, known, present, match=True, policy="hold").to_pylist()
    assert (row["_action"], row["_present"]) == ("reuse", 0)
