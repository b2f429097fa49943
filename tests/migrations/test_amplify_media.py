"""amplify-media-migrator from end to end: a Drive folder's files become objects and Media records.

Every file of `messy.MESSY` becomes what it says it does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from resettle.cli import main
from resettle.connections import Connections
from resettle.engine import apply as applying
from resettle.engine import effects, flow
from resettle.engine.apply import Applied
from resettle.engine.apply import apply as apply_migration
from resettle.engine.check import check as check_migration
from resettle.engine.flow import Options
from resettle.engine.outcomes import outcomes
from resettle.engine.plan import Plan
from resettle.engine.plan import plan as plan_migration
from resettle.engine.rollback import rollback
from resettle.engine.verify import Verified
from resettle.engine.verify import verify as verify_migration
from resettle.errors import ConnectorError
from resettle.mapping.load import load
from resettle.sandbox.appsync import LOST, Fault
from resettle.sandbox.module import module_at

FOLDER = Path(__file__).parents[2] / "migrations" / "amplify-media-migrator"
NOW = datetime(2026, 7, 1, 8, 0, tzinfo=UTC)
FILES = 40
WORDS = ("completed", "partial", "failed", "orphan", "needs_review", "duplicate")


stack = module_at(FOLDER / "sandbox" / "stack.py")
messy, generate = stack.part("messy"), stack.part("generate")


class Migrated:
    """The migration with one sandbox."""

    def __init__(self, sandbox: Any, **variables: str) -> None:
        self.sandbox = sandbox
        self.drive, self.api, self.store = sandbox.drive, sandbox.api, sandbox.store
        self.bucket: str = sandbox.bucket
        self.migration = load(FOLDER, "local", {**sandbox.variables, **variables})

    def plan(self, **options: Any) -> Plan:
        with Connections(self.migration) as connections:
            return plan_migration(self.migration, connections, connections.ledger(), Options(**options), NOW)

    def apply(self, **options: Any) -> Applied:
        with Connections(self.migration) as connections:
            return apply_migration(self.migration, connections, connections.ledger(), Options(**options), NOW)

    def verify(self) -> Verified:
        with Connections(self.migration) as connections:
            return verify_migration(self.migration, connections, connections.ledger(), Options(), NOW)

    def outcomes(self, *statuses: str, reason: str | None = None) -> list[dict[str, Any]]:
        with Connections(self.migration) as connections:
            ledger, options = connections.ledger(), Options(show_values=True)
            return list(outcomes(self.migration, connections, ledger, options, statuses, reason=reason))

    def levels(self) -> set[str]:
        with Connections(self.migration) as connections:
            remarks = check_migration(self.migration, connections, connections.ledger(), Options())
            return {remark.level for remark in remarks}

    def reasons(self, status: str) -> dict[str, str]:
        """By file name, why it has this status."""
        with Connections(self.migration) as connections:
            units = connections.ledger().units(status)
        return {self.drive.files[one["unit"]]["name"]: one["reason"] for one in units}

    def put(self, name: str, folder: str = "", body: bytes = b"", **given: Any) -> str:
        parents = (folder,) if folder else (self.sandbox.root,)
        identity: str = self.drive.file(name, *parents, body=body or name.encode(), **given)
        return identity

    def observe(self, *numbers: int, country: int = 0) -> None:
        generate.observe(self.api, *numbers, country=country)

    def objects(self) -> dict[str, bytes]:
        with closing(self.store.client()) as client:
            listed = client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
            return {one["Key"]: client.get_object(Bucket=self.bucket, Key=one["Key"])["Body"].read() for one in listed}

    def content_type(self, key: str) -> str:
        with closing(self.store.client()) as client:
            return str(client.head_object(Bucket=self.bucket, Key=key)["ContentType"])

    def media(self) -> list[tuple[str, str]]:
        """The object's key and the observation's id of every Media record."""
        return sorted((key_of(one["url"]), one["observationId"]) for one in self.api.items("Media"))

    def uploads(self) -> int:
        asked, unmet = (
            sum(one.startswith(f"PUT /{self.bucket}/") for one in requests)
            for requests in (self.store.requests, self.store.unmet)
        )
        return asked - unmet

    def mutations(self) -> int:
        return sum(field.startswith(("create", "update", "delete")) for asked in self.api.requests for field in asked)


def key_of(url: str) -> str:
    place, _, key = url.partition(".s3.us-east-1.amazonaws.com/")
    assert place.startswith(f"https://{stack.BUCKET}-")
    assert key.startswith("media/")
    return unquote(key)


def key(name: str, number: int) -> str:
    return f"media/{generate.observation_id(number)}/{name}"


def linked(name: str, *numbers: int, home: int | None = None) -> list[tuple[str, str]]:
    """What `Migrated.media` gives for a file that is linked to these observations."""
    place = key(name, numbers[0] if home is None else home)
    return sorted((place, generate.observation_id(number)) for number in numbers)


def figures(result: Plan | Applied) -> dict[str, int]:
    """The migration's own figures that are not 0."""
    (counts,) = result.counts
    return {name: value for name, value in counts.as_json()["summary"].items() if value}


def without(made: dict[str, int], name: str) -> dict[str, int]:
    return {one: value for one, value in made.items() if one != name}


def counted(result: Plan | Applied) -> Any:
    (counts,) = result.counts
    return counts.as_json()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Migrated]]:
    """Make an empty sandbox, or one with ``files`` and all odd ones."""
    with ExitStack() as opened:

        def made(files: int = 0, *, odd: bool = False, **variables: str) -> Migrated:
            return Migrated(opened.enter_context(stack.sandbox(tmp_path, files=files, messy=odd)), **variables)

        yield made


# -- everything at once ----------------------------------------------------------------------------


def test_every_file_becomes_what_the_seed_says_and_a_second_run_writes_nothing(make: Callable[..., Migrated]) -> None:
    m = make(FILES, odd=True)
    assert "error" not in m.levels()
    planned = m.plan()
    assert (m.uploads(), m.mutations(), m.objects()) == (0, 0, {})
    applied = m.apply()
    assert counted(applied) == counted(planned)
    wanted = {word: sum(one.status == word for one in messy.MESSY) for word in WORDS}
    wanted["completed"] += FILES
    made = figures(applied)
    assert {word: made.get(word, 0) for word in WORDS} == wanted
    assert made["total_files"] == FILES + len(messy.MESSY)
    assert "pending" not in made
    assert m.reasons("held") | m.reasons("partial") | m.reasons("skipped") == {
        one.title: one.why for one in messy.MESSY if one.why
    }
    assert m.verify().exit_code == 0
    before = (m.uploads(), m.mutations())
    again = m.apply()
    assert (m.uploads(), m.mutations()) == before
    assert figures(again) == {**without(made, "mediaCreated"), "mediaReused": made["mediaCreated"]}
    assert counted(again)["rows"]["object"] == {"unchanged": wanted["completed"] + wanted["partial"]}


def test_every_odd_file_is_stored_once_under_its_first_observation_and_linked_to_all_of_its_own(
    make: Callable[..., Migrated],
) -> None:
    m = make(odd=True)
    m.apply()
    media, objects = m.media(), m.objects()
    wanted: list[tuple[str, str]] = []
    for one in messy.MESSY:
        if one.numbers:
            wanted += linked(one.title, *(messy.FIRST + number for number in one.numbers))
    assert media == sorted(wanted)
    assert set(objects) == {place for place, _ in wanted}
    for one in messy.MESSY:
        if one.numbers:
            place = key(one.title, messy.FIRST + one.numbers[0])
            assert objects[place] == m.drive.bodies[m.sandbox.file(one.title)]
    assert {one["type"] for one in m.api.items("Media") if key_of(one["url"]).lower().endswith("jpg")} == {"PHOTO"}
    assert {one["type"] for one in m.api.items("Media") if key_of(one["url"]).lower()[-3:] in ("mp4", "mov")} == {
        "VIDEO"
    }
    assert {one["isAvailableForPublicUse"] for one in m.api.items("Media")} == {False}
    assert m.content_type(key(f"{messy.FIRST + 2}.JPG", messy.FIRST + 2)) == "image/jpeg"


def test_batches_of_any_size_end_in_the_same_state(make: Callable[..., Migrated]) -> None:
    m = make(FILES, odd=True)
    planned = m.plan(batch_size=7)
    assert counted(m.apply(batch_size=7)) == counted(planned)
    assert figures(planned)["completed"] == FILES + sum(one.status == "completed" for one in messy.MESSY)
    assert counted(m.apply(batch_size=1000))["rows"]["media"].keys() == {"unchanged"}


def test_the_bucket_and_the_media_are_listed_once_however_many_batches_there_are(
    make: Callable[..., Migrated], monkeypatch: pytest.MonkeyPatch
) -> None:
    m = make(200)
    monkeypatch.setattr(flow, "FILES", 10)

    def asked() -> tuple[int, int]:
        pages = sum("list-type=2" in one for one in m.store.requests), m.api.requests.count(["listMedia"])
        m.store.requests.clear()
        m.api.requests.clear()
        return pages

    m.put("1.jpg", body=b"another")
    assert m.apply().exit_code == 3
    first = asked()
    monkeypatch.setattr(flow, "FILES", 1000)
    m.observe(*range(1000, 1100))
    for number in range(1000, 1100):
        m.put(f"{number}.jpg")
    m.apply()
    assert max(first) <= max(asked()) + 2


@pytest.mark.extended
def test_planning_twenty_thousand_files_takes_fewer_than_400_calls(make: Callable[..., Migrated]) -> None:
    m = make(20_000)
    for one in (m.drive, m.store, m.api):
        one.requests.clear()
    m.plan()
    assert len(m.drive.requests) + len(m.store.requests) + len(m.api.requests) < 400


def test_observations_are_looked_up_in_bulk(make: Callable[..., Migrated]) -> None:
    m = make(FILES)
    m.apply()
    asked = [field for request in m.api.requests for field in request]
    assert 0 < sum(field == "listObservations" for field in asked) <= 4
    assert "listObservationBySequentialId" not in asked


# -- partials and orphans --------------------------------------------------------------------------


def test_a_range_is_completed_when_its_observation_appears_without_a_second_upload(
    make: Callable[..., Migrated],
) -> None:
    m = make()
    m.observe(6000)
    m.put("6000-6001.jpg")
    assert figures(m.apply())["partial"] == 1
    assert m.media() == linked("6000-6001.jpg", 6000)
    m.observe(6001)
    later = m.apply()
    assert figures(later) == {"total_files": 1, "completed": 1, "mediaCreated": 1, "mediaReused": 1}
    assert m.media() == linked("6000-6001.jpg", 6000, 6001)
    assert m.uploads() == 1
    assert m.reasons("partial") == {}
    assert m.verify().exit_code == 0


def test_an_observation_that_appears_before_the_first_one_changes_neither_key_nor_url(
    make: Callable[..., Migrated],
) -> None:
    m = make()
    m.observe(1201, 1202)
    m.put("1200-1202.mp4")
    m.apply()
    assert m.media() == linked("1200-1202.mp4", 1201, 1202)
    m.observe(1200)
    planned = m.plan()
    applied = m.apply()
    assert counted(applied) == counted(planned)
    assert counted(applied)["rows"] == {"object": {"unchanged": 1}, "media": {"create": 1, "unchanged": 2}}
    assert counted(applied)["warnings"] == {}, "no row is left behind"
    assert m.media() == linked("1200-1202.mp4", 1200, 1201, 1202, home=1201)
    assert (len(m.objects()), m.uploads()) == (1, 1)
    assert m.verify().exit_code == 0
    assert figures(m.apply()) == {"total_files": 1, "completed": 1, "mediaReused": 3}


def test_an_orphan_is_completed_once_its_observation_is_entered(make: Callable[..., Migrated]) -> None:
    m = make()
    m.put("99.jpg")
    assert figures(m.apply()) == {"total_files": 1, "orphan": 1}
    assert (m.objects(), m.reasons("skipped")) == ({}, {"99.jpg": "orphan"})
    m.observe(99)
    assert figures(m.apply()) == {"total_files": 1, "completed": 1, "mediaCreated": 1}
    assert m.reasons("skipped") == {}


# -- names -----------------------------------------------------------------------------------------


def test_a_file_that_is_renamed_after_review_is_known_by_its_id(make: Callable[..., Migrated]) -> None:
    m = make()
    m.observe(50)
    m.put("photo.jpg")
    assert m.apply().exit_code == 3
    m.sandbox.rename("photo.jpg", "50.jpg")
    assert figures(m.apply()) == {"total_files": 1, "completed": 1, "mediaCreated": 1}
    assert (m.reasons("held"), m.media()) == ({}, linked("50.jpg", 50))


def test_a_migrated_file_that_is_renamed_later_is_neither_lost_nor_doubled(make: Callable[..., Migrated]) -> None:
    m = make()
    m.observe(50, 51)
    m.put("50.jpg")
    m.apply()
    m.sandbox.rename("50.jpg", "51.jpg")
    m.apply()
    assert m.reasons("held") == {"51.jpg": "key_changed"}
    assert (m.media(), m.uploads()) == (linked("50.jpg", 50), 1)


def test_a_moved_file_is_the_same_file(make: Callable[..., Migrated]) -> None:
    m = make()
    m.observe(50)
    moved = m.put("50.jpg")
    m.apply()
    folder = m.drive.folder("1-500", m.sandbox.root)
    m.drive.children[m.sandbox.root].remove(moved)
    m.drive.children.setdefault(folder, []).append(moved)
    m.drive.files[moved]["parents"] = [folder]
    assert figures(m.apply()) == {"total_files": 1, "completed": 1, "mediaReused": 1}
    assert m.uploads() == 1


def test_of_two_files_with_one_name_and_different_bytes_none_is_lost_silently(make: Callable[..., Migrated]) -> None:
    m = make()
    m.observe(50)
    for folder in ("1-500", "old"):
        m.put("50.jpg", m.drive.folder(folder, m.sandbox.root), body=folder.encode())
    planned = m.plan()
    applied = m.apply()
    assert counted(applied) == counted(planned)
    assert figures(applied) == {"total_files": 2, "completed": 1, "needs_review": 1, "mediaCreated": 1}
    assert set(m.reasons("held").values()) == {"duplicate_key"}
    assert (m.media(), m.uploads()) == (linked("50.jpg", 50), 1)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("50.jpg", "50a.jpg", "duplicate"),
        ("50-51.jpg", "050-051.jpg", "duplicate"),
        ("50.jpg", "50.jpg", "duplicate_key"),  # nothing says which of the two is the one that is there
    ],
)
def test_an_older_file_with_the_same_bytes_that_is_renamed_after_review_changes_nothing(
    make: Callable[..., Migrated], first: str, second: str, reason: str
) -> None:
    m = make()
    m.observe(50, 51)
    m.put(first, m.drive.folder("new", m.sandbox.root), body=b"same", createdTime="2024-01-01T00:00:00.000Z")
    older = m.put("photo.jpg", body=b"same", createdTime="2023-01-01T00:00:00.000Z")
    assert m.apply().exit_code == 3
    before = (m.media(), m.objects(), m.uploads(), m.mutations())
    m.sandbox.rename("photo.jpg", second)
    planned = m.plan()
    applied = m.apply()
    assert counted(applied) == counted(planned)
    assert (m.media(), m.objects(), m.uploads(), m.mutations()) == before
    assert m.verify().exit_code == 0
    assert {one["unit"]: one["reason"] for one in m.outcomes("held", "skipped")}[older] == reason
    assert counted(m.apply())["summary"] == counted(applied)["summary"]


@pytest.mark.parametrize("second", ["50.jpg", "50a.jpg"])
def test_the_same_bytes_for_the_same_observations_are_stored_once(make: Callable[..., Migrated], second: str) -> None:
    m = make()
    m.observe(50)
    m.put("50.jpg", body=b"same", createdTime="2024-01-01T00:00:00.000Z")
    m.put(second, m.drive.folder("old", m.sandbox.root), body=b"same", createdTime="2023-01-01T00:00:00.000Z")
    assert figures(m.apply()) == {"total_files": 2, "completed": 1, "duplicate": 1, "mediaCreated": 1}
    assert m.media() == linked(second, 50), "the older file counts"


def test_equal_files_are_all_linked_where_the_migration_says_so(make: Callable[..., Migrated]) -> None:
    m = make(same_bytes="each")
    m.observe(50)
    m.put("50.jpg", body=b"same")
    m.put("50a.jpg", body=b"same")
    m.apply()
    assert m.media() == sorted(linked("50.jpg", 50) + linked("50a.jpg", 50))


def test_the_key_is_the_name_as_it_is_and_the_url_is_percent_encoded(make: Callable[..., Migrated]) -> None:
    m = make(names="real")
    m.observe(1885, 1953)
    m.put("1885-ק.jpg")
    m.put("1953-A (1).JFIF")
    assert m.apply().exit_code == 0
    assert set(m.objects()) == {key("1885-ק.jpg", 1885), key("1953-A (1).JFIF", 1953)}
    ends = {one["url"].rpartition("/")[2] for one in m.api.items("Media")}
    assert ends == {"1885-%D7%A7.jpg", "1953-A%20%281%29.JFIF"}
    assert m.content_type(key("1953-A (1).JFIF", 1953)) == "image/jpeg"


def test_a_list_with_a_plus_is_two_observations_and_no_range(make: Callable[..., Migrated]) -> None:
    m = make(names="real")
    m.observe(*range(1200, 1206))
    m.put("1200+1205.jpg")
    m.apply()
    assert m.media() == linked("1200+1205.jpg", 1200, 1205)


def test_a_prefix_names_the_country_where_numbers_are_used_twice(make: Callable[..., Migrated]) -> None:
    countries = "case countryId when 'country-1' then '' when 'country-2' then 'E' end || sequentialId"
    m = make(names="prefixes", observation_key=countries)
    m.observe(5)
    m.observe(5, country=1)
    m.put("5.jpg")
    m.put("E5.jpg")
    m.put("S5.jpg")
    assert figures(m.apply()) == {"total_files": 3, "completed": 2, "orphan": 1, "mediaCreated": 2}
    assert {observation for _, observation in m.media()} == {generate.observation_id(5, at) for at in (0, 1)}


def test_the_answer_for_public_use_and_the_word_for_an_image_are_the_migrations_choice(
    make: Callable[..., Migrated],
) -> None:
    m = make(public="true")
    m.observe(50)
    m.put("50.jpg")
    m.apply()
    assert [one["isAvailableForPublicUse"] for one in m.api.items("Media")] == [True]
    wrong = Migrated(m.sandbox, image_type="IMAGE")
    m.put("50a.jpg")
    wrong.apply()
    assert wrong.reasons("held") == {"50.jpg": "choice", "50a.jpg": "choice"}
    assert m.uploads() == 1, "nothing is uploaded for what the API would refuse"


# -- what is there, what dies, what is gone --------------------------------------------------------


def test_what_an_earlier_tool_stored_and_linked_is_reused(make: Callable[..., Migrated]) -> None:
    m = make()
    m.observe(6000, 6001)
    m.put("6000-6001.jpg", body=b"there")
    m.store.client().put_object(Bucket=m.bucket, Key=key("6000-6001.jpg", 6000), Body=b"there")
    url = f"https://{m.bucket}.s3.us-east-1.amazonaws.com/{key('6000-6001.jpg', 6000)}"
    theirs = {"id": "theirs", "url": url, "type": "PHOTO", "observationId": generate.observation_id(6000)}
    m.api.data.put("Media", {**theirs, "isAvailableForPublicUse": True})
    before = m.uploads()
    assert figures(m.apply()) == {"total_files": 1, "completed": 1, "mediaCreated": 1, "mediaReused": 1}
    assert (m.uploads(), m.media()) == (before, linked("6000-6001.jpg", 6000, 6001))
    assert [one["isAvailableForPublicUse"] for one in m.api.items("Media") if one["id"] == "theirs"] == [True]


def test_a_run_that_dies_between_upload_and_media_uploads_nothing_again(
    make: Callable[..., Migrated], monkeypatch: pytest.MonkeyPatch
) -> None:
    m = make()
    m.observe(6000, 6001)
    m.put("6000-6001.jpg")

    def died(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as dying:
        dying.setattr(effects, "_written", died)
        with pytest.raises(SystemExit):
            m.apply()
    assert (m.uploads(), m.media()) == (1, [])
    m.apply()
    assert (m.uploads(), m.media()) == (1, linked("6000-6001.jpg", 6000, 6001))
    assert m.verify().exit_code == 0


def test_a_run_that_dies_before_it_remembers_what_it_made_makes_nothing_again(
    make: Callable[..., Migrated], monkeypatch: pytest.MonkeyPatch
) -> None:
    m = make()
    m.observe(6000, 6001)
    m.put("6000-6001.jpg")

    def died(*_: Any, **__: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as dying:
        dying.setattr(applying, "transactions", died)
        with pytest.raises(SystemExit):
            m.apply()
    assert (m.uploads(), m.media()) == (1, linked("6000-6001.jpg", 6000, 6001))
    assert m.apply().exit_code == 0
    assert (m.uploads(), m.media()) == (1, linked("6000-6001.jpg", 6000, 6001))


def test_a_lost_answer_to_create_media_makes_no_second_record(make: Callable[..., Migrated]) -> None:
    m = make()
    m.observe(6000, 6001)
    m.put("6000-6001.jpg")
    lost = []

    def faults(fields: Any) -> Any:
        if fields[0].startswith("create") and not lost:
            lost.append(fields)
            return LOST
        return None

    m.api.faults = faults
    assert m.apply().exit_code == 0
    assert lost
    assert m.media() == linked("6000-6001.jpg", 6000, 6001)


def test_a_file_that_vanished_since_it_was_listed_is_failed_alone_and_tried_again(
    make: Callable[..., Migrated],
) -> None:
    m = make()
    m.observe(50, 51)
    lost = m.put("50.jpg")
    m.put("51.jpg")
    body = m.drive.bodies.pop(lost)
    m.drive.bodies[lost] = b"longer than it was listed"
    assert figures(m.apply()) == {"total_files": 2, "completed": 1, "failed": 1, "mediaCreated": 1}
    assert (m.reasons("failed"), m.media()) == ({"50.jpg": "changed"}, linked("51.jpg", 51))
    m.drive.bodies[lost] = body
    assert figures(m.apply())["completed"] == 2
    assert m.reasons("failed") == {}


def test_a_file_with_two_ways_to_it_is_migrated_once(make: Callable[..., Migrated]) -> None:
    m = make()
    m.observe(50)
    folder = m.drive.folder("1-500", m.sandbox.root)
    m.drive.shortcut("50.jpg", m.put("50.jpg", folder), m.sandbox.root)
    m.drive.shortcut("again", folder, m.sandbox.root)
    made = figures(m.apply())
    assert (made["completed"], made["mediaCreated"], made.get("needs_review", 0)) == (1, 1, 0)
    assert m.uploads() == 1


def test_a_shortcut_that_leads_nowhere_needs_review(make: Callable[..., Migrated]) -> None:
    m = make()
    m.observe(50)
    m.drive.shortcut("50.jpg", "1" + "f" * 32, m.sandbox.root)
    assert m.apply().exit_code == 3
    assert m.reasons("held") == {"50.jpg": "needs_review_broken_shortcut"}


def test_a_document_of_googles_own_has_no_bytes_and_needs_review(make: Callable[..., Migrated]) -> None:
    m = make()
    m.observe(50)
    m.drive.document("50.jpg", m.sandbox.root)
    m.apply()
    assert m.reasons("held") == {"50.jpg": "needs_review_no_file"}


def test_the_ledger_is_where_the_migration_says(make: Callable[..., Migrated], tmp_path: Path) -> None:
    m = make()
    m.observe(50)
    m.put("50.jpg")
    m.apply()
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as ledger:
        assert ledger.execute("SELECT count(*) FROM resettle_rows").fetchall() == [(2,)]


def test_an_object_that_somebody_else_put_there_is_not_overwritten(make: Callable[..., Migrated]) -> None:
    m = make()
    m.observe(50)
    m.put("50.jpg", body=b"ours")
    m.store.client().put_object(Bucket=m.bucket, Key=key("50.jpg", 50), Body=b"theirs")
    m.apply()
    assert m.reasons("held") == {"50.jpg": "exists_in_target"}
    assert (m.media(), m.objects()) == ([], {key("50.jpg", 50): b"theirs"})


def test_a_second_file_of_a_name_that_comes_later_leaves_the_first_as_it_is(make: Callable[..., Migrated]) -> None:
    m = make()
    m.observe(50)
    m.put("50.jpg", body=b"first")
    m.apply()
    m.put("50.jpg", m.drive.folder("later", m.sandbox.root), body=b"second")
    m.apply()
    assert m.reasons("held") == {"50.jpg": "exists_in_target"}
    assert (m.media(), m.objects()) == (linked("50.jpg", 50), {key("50.jpg", 50): b"first"})


def test_where_media_cannot_be_looked_up_none_is_made(make: Callable[..., Migrated]) -> None:
    m = make()
    m.observe(50)
    m.put("50.jpg")
    m.api.faults = lambda fields: Fault(200, "Unheard", "of") if fields[0] == "listMedia" else None
    with pytest.raises(ConnectorError):
        m.apply()
    assert (m.media(), m.uploads()) == ([], 0)
    m.api.faults = lambda fields: None
    assert m.apply().exit_code == 0
    assert m.media() == linked("50.jpg", 50)


def test_a_run_is_taken_back_but_not_what_it_reused(make: Callable[..., Migrated]) -> None:
    m = make()
    m.observe(6000, 6001)
    m.put("6000-6001.jpg")
    url = f"https://{m.bucket}.s3.us-east-1.amazonaws.com/{key('6000-6001.jpg', 6000)}"
    theirs = {"id": "theirs", "url": url, "type": "PHOTO", "observationId": generate.observation_id(6000)}
    m.api.data.put("Media", {**theirs, "isAvailableForPublicUse": True})
    m.apply()
    with Connections(m.migration) as connections:
        rollback(m.migration, connections, connections.ledger(), Options(), NOW, 1)
    assert (m.media(), m.objects()) == (linked("6000-6001.jpg", 6000), {})
    assert m.apply().exit_code == 0
    assert m.media() == linked("6000-6001.jpg", 6000, 6001)


def test_media_that_somebody_changes_while_a_run_is_taken_back_stays_and_is_told_of(
    make: Callable[..., Migrated],
) -> None:
    m = make()
    m.observe(50, 51)
    m.put("50.jpg")
    m.put("51.jpg")
    m.apply()
    theirs = next(one for one in m.api.items("Media") if one["observationId"] == generate.observation_id(50))

    def faults(fields: Any) -> None:
        if fields[0] == "deleteMedia" and not theirs["isAvailableForPublicUse"]:
            theirs.update(isAvailableForPublicUse=True, updatedAt="2026-07-01T09:00:00.000Z")
            m.api.data.put("Media", theirs)

    m.api.faults = faults
    with Connections(m.migration) as connections:
        done = rollback(m.migration, connections, connections.ledger(), Options(), NOW, 1)
    (flow_undone,) = done.flows
    assert flow_undone.kept == {"changed_since": 1}
    assert (m.media(), m.api.items("Media")) == (linked("50.jpg", 50), [theirs])
    assert done.exit_code == 3


# -- review and export -----------------------------------------------------------------------------


STATUSES = {
    "pending": ("pending", None),
    "completed": ("done", None),
    "partial": ("partial", None),
    "failed": ("failed", None),
    "orphan": ("skipped", "orphan"),
    "needs_review": ("held", None),
    "duplicate": ("skipped", "duplicate"),
}
"""The seed's words, and what `resettle export` is asked for them, as the README says."""


def test_files_are_exported_by_status_with_what_a_person_needs_to_mend_them(make: Callable[..., Migrated]) -> None:
    m = make(odd=True)
    m.apply()
    m.put("new.jpg")
    exported = {word: m.outcomes(status, reason=reason) for word, (status, reason) in STATUSES.items()}
    named = {word: {Path(one["label"]).name for one in found} for word, found in exported.items()}
    wanted = {word: {one.title for one in messy.MESSY if one.status == word} for word in WORDS}
    assert named == {**wanted, "pending": {"new.jpg"}}
    (review,) = (one for one in exported["needs_review"] if one["label"] == "900000-900499/photo.jpg")
    assert review["reason"] == "needs_review_pattern"
    (half,) = (one for one in exported["partial"] if f"/{messy.FIRST + 30}-" in one["label"])
    assert half["waiting"] == [{"row": str(messy.FIRST + 30), "reason": "observation_missing"}]
    stored = key(Path(half["label"]).name, messy.FIRST + 31)
    assert half["targets"][0] == {"output": "object", "key": stored, "reused": False}
    linked_to = [one["key"].rpartition("/")[2] for one in half["targets"][1:]]
    assert linked_to == [generate.observation_id(messy.FIRST + number) for number in (31, 32)]


def test_review_lists_files_with_their_folder_and_reason(
    make: Callable[..., Migrated], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    m = make()
    photo = m.put("photo.jpg", m.drive.folder("1-500", m.sandbox.root))
    m.apply()
    for name, value in m.sandbox.variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main(["held", "list", "--show-values", "--env", "local", "--migration", str(FOLDER)])
    assert f"! files {photo} (1-500/photo.jpg) needs_review_pattern" in capsys.readouterr().out


def test_the_demo_has_a_stack_of_its_own_whose_owner_corrects_a_part(make: Callable[..., Migrated]) -> None:
    m = make(3, odd=True)
    m.apply()
    before = m.reasons("held")
    stack.correct(Path(m.sandbox.variables["LEDGER"]).parent)
    assert m.apply().exit_code == 3
    assert before.keys() - m.reasons("held").keys() == {"photo.jpg", f"{messy.FIRST + 50}A.jpg"}
    assert m.verify().exit_code == 0
