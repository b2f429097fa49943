"""The traps of lesson media, each a lesson by name with what must become of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any


def fixed_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


ORGANIZATION, OTHER_ORGANIZATION = fixed_id(1), fixed_id(2)
TEACHER = fixed_id(3)
COURSE, OTHER_COURSE, COURSE_WITHOUT_GROUP, COURSE_OF_NOBODY = (fixed_id(number) for number in range(21, 25))
GROUP, OTHER_GROUP, GROUP_WITHOUT_ORGANIZATION = (fixed_id(number) for number in range(11, 14))
KNOWN, FOREIGN, ARCHIVED, WITH_ANOTHER_KEY, TWIN, LATER_TWIN, LOOKALIKE, KNOWN_WITH_USAGE, DELETED, RETIRED = (
    fixed_id(number) for number in range(31, 41)
)
GUIDE = "https://www.example.org/guide.pdf"

EXISTING: dict[str, dict[str, Any]] = {
    KNOWN: {"storage_key": "known.mp4", "title": "Kept as it is"},
    FOREIGN: {"storage_key": "foreign.mp4", "organization_id": OTHER_ORGANIZATION},
    ARCHIVED: {"storage_key": "archived.mp4", "status": "archived"},
    RETIRED: {"provider": "generic", "source_url": "https://old.example/1", "status": "archived"},
    WITH_ANOTHER_KEY: {"storage_key": "another.mp4"},
    TWIN: {"provider": "external_url", "source_url": GUIDE, "kind": "document"},
    LATER_TWIN: {"provider": "external_url", "source_url": GUIDE, "kind": "document"},
    # a LIKE pattern of the id in `underscores` would match this one
    LOOKALIKE: {"provider": "youtube", "source_url": "https://youtu.be/aXbXcXdXeXf"},
    KNOWN_WITH_USAGE: {"storage_key": "attached.mp4"},
}
"""Assets that are there before the migration, by id: what differs from an active uploaded video of ORGANIZATION."""


@dataclass(frozen=True)
class Item:
    """One media item and what must become of it."""

    value: Any
    asset: str | None = None
    """A name: items with equal names share one asset, others do not. An id of EXISTING: that asset is reused."""
    reason: str | None = None
    """Why it is left out, in place of an asset."""
    columns: dict[str, Any] = field(default_factory=dict)
    """Columns of the asset that is made."""
    patched: bool = True
    """Whether its assetId changes."""


@dataclass(frozen=True)
class Messy:
    """One lesson of a trap, by the trap's number in the facts (0: not in that list)."""

    trap: int
    name: str
    videos: tuple[Item, ...] | str | None = ()
    """Items, or the text of what stands in their place; None is SQL's null."""
    documents: tuple[Item, ...] | str | None = ()
    outcome: str = "done"
    """One of `done`, `skipped` and `held`."""
    reason: str | None = None
    course: str = COURSE
    teacher: str | None = TEACHER
    video_url: str | None = None
    slide_url: str | None = None

    @property
    def items(self) -> list[tuple[str, int, Item]]:
        """Slot, position and item, in order."""
        lists = (("lesson_video", self.videos), ("lesson_document", self.documents))
        return [
            (slot, position, item)
            for slot, items in lists
            if isinstance(items, tuple)
            for position, item in enumerate(items)
        ]

    @property
    def no_lists(self) -> int:
        """How many of the two lists are none."""
        return sum(not isinstance(items, tuple) for items in (self.videos, self.documents))


def text(items: tuple[Item, ...] | str | None) -> str | None:
    """A list as the application would send it."""
    return encode([item.value for item in items]) if isinstance(items, tuple) else items


def encode(value: Any) -> str:
    """JSON in which a Decimal keeps all its digits."""
    match value:
        case Decimal():
            return str(value)
        case dict():
            return "{" + ",".join(f"{json.dumps(k)}:{encode(v)}" for k, v in value.items()) + "}"
        case list():
            return "[" + ",".join(map(encode, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


SIGNED = "https://bucket.example.com/{}?X-Amz-Signature={}&X-Amz-Expires=3600"


def upload(key: str, signature: str = "a1", **more: Any) -> dict[str, Any]:
    return {"type": "upload", "link": SIGNED.format(key, signature), "key": key, **more}


def youtube(link: str, **more: Any) -> dict[str, Any]:
    return {"type": "youtube", "link": link, "metadata": {}, **more}


def generic(link: str, **more: Any) -> dict[str, Any]:
    return {"type": "generic", "link": link, **more}


def document(key: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": "pdf", "name": name, "link": SIGNED.format(key, "d1"), "key": key, "size": 2048, **more}


def _left(value: Any, reason: str) -> Item:
    return Item(value, reason=reason)


def _sized(name: str, size: Any, expect: int | None) -> Item:
    return Item(document(f"size-{name}.pdf", "s.pdf", size=size), f"size {name}", columns={"byte_size": expect})


def _long(name: str, duration: Any, expect: int | None) -> Item:
    value = upload(f"long-{name}.mp4", metadata={"duration": duration, "aspectRatio": "16:9"})
    return Item(value, f"long {name}", columns={"duration_seconds": expect, "aspect_ratio": "16:9"})


def _typed(name: str, value: dict[str, Any], kind: str, mime: str | None) -> Item:
    return Item(value, f"typed {name}", columns={"kind": kind, "mime_type": mime})


VIDEO = "T5pRlIbr6gg"
SAME_VIDEO = (
    f"https://youtu.be/{VIDEO}?si=rUHaBMnuFgAMjm2T",
    f"https://www.youtube.com/watch?v={VIDEO}&vl=en",
    f"https://www.youtube.com/embed/{VIDEO}",
    f"https://youtube.com/shorts/{VIDEO}",
    f"https://m.youtube.com/watch?t=3&v={VIDEO}",
)
DIGITS = {"z": Decimal("12345678901234567890123456789012345678"), "a": Decimal("1.10"), "n": None, "e": "é👩🏾‍⚕️"}
WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"

MESSY: tuple[Messy, ...] = (
    Messy(1, "key_in_one_lesson", (Item(upload("shared.mp4"), "shared"),)),
    Messy(1, "key_in_another_lesson", (Item(upload("shared.mp4", "b2"), "shared"),)),
    Messy(2, "key_in_another_organization", (Item(upload("shared.mp4"), "shared elsewhere"),), course=OTHER_COURSE),
    Messy(
        3,
        "key_twice_in_a_lesson",
        (
            Item(upload("twice.mp4"), "twice"),
            Item(youtube("https://youtu.be/pXLWqkA87e4"), "between"),
            Item(upload("twice.mp4"), "twice"),
        ),
    ),
    Messy(4, "one_video_by_five_links", tuple(Item(youtube(link), link) for link in SAME_VIDEO)),
    Messy(5, "videos_null", "null", outcome="skipped", reason="rows_skipped"),
    Messy(5, "videos_missing", None, outcome="skipped", reason="rows_skipped"),
    Messy(5, "videos_object", "{}", outcome="skipped", reason="rows_skipped"),
    Messy(5, "videos_text", '"[]"', outcome="skipped", reason="rows_skipped"),
    Messy(5, "item_null", (_left(None, "malformed"),), outcome="skipped", reason="rows_skipped"),
    Messy(5, "item_text", (_left("https://x", "malformed"),), outcome="skipped", reason="rows_skipped"),
    Messy(5, "item_list", (_left([{"type": "upload"}], "malformed"),), outcome="skipped", reason="rows_skipped"),
    Messy(
        5,
        "malformed_beside_good",
        (
            _left(None, "malformed"),
            Item(upload("beside.mp4", metadata=DIGITS), "beside", columns={"metadata": DIGITS}),
            _left("https://x", "malformed"),
            _left({"type": "upload", "key": 17}, "malformed"),
        ),
        '{"no": "list"}',
    ),
    Messy(6, "unknown_type", (_left({"type": "vimeo", "link": "https://vimeo.example/1"}, "unsupported_type"),
        _left({"key": "untyped.mp4"}, "unsupported_type"),
        _left({"link": "https://untyped.example/1"}, "unsupported_type"),
        _left({"type": "google_drive", "link": "https://drive.example/1"}, "unsupported_type")),
        outcome="skipped", reason="rows_skipped"),
    Messy(
        7,
        "nothing_to_point_at",
        (
            _left({"type": "upload", "link": "https://bucket.example.com/x"}, "missing_key"),
            _left({"type": "upload", "key": " \t"}, "missing_key"),
            _left(youtube("   "), "missing_link"),
            _left({"type": "generic"}, "missing_link"),
        ),
        (_left({"type": "pdf", "name": "n.pdf"}, "missing_link"),),
        outcome="skipped",
        reason="rows_skipped",
    ),
    Messy(8, "asset_of_another_organization", (Item(upload("foreign.mp4", assetId=FOREIGN), "foreign here"),)),
    Messy(8, "asset_deleted", (Item(upload("deleted.mp4", assetId=DELETED), "deleted"),)),
    Messy(8, "asset_of_another_key", (Item(upload("mine.mp4", assetId=WITH_ANOTHER_KEY), "mine"),)),
    Messy(8, "asset_no_uuid", (Item(upload("word.mp4", assetId="soon"), "word"),)),
    Messy(8, "asset_stale_but_there", (Item(upload("known.mp4", assetId=DELETED), KNOWN),)),
    Messy(9, "usage_missing", (Item(upload("known.mp4", assetId=KNOWN), KNOWN, patched=False),)),
    Messy(9, "usage_there", (Item(upload("attached.mp4", assetId=KNOWN_WITH_USAGE), KNOWN_WITH_USAGE, patched=False),)),
    Messy(9, "later_twin_known", documents=(
        Item({"name": "Guide", "link": GUIDE, "assetId": LATER_TWIN}, LATER_TWIN, patched=False),)),
    Messy(9, "twin_unknown", documents=(Item({"name": "Guide", "link": f" {GUIDE}\n"}, TWIN),)),
    Messy(10, "asset_archived", (Item(upload("archived.mp4"), ARCHIVED), Item(upload("with-archived.mp4"), "with")),
          outcome="held", reason="asset_archived"),
    Messy(10, "link_archived", (Item(generic("https://old.example/1"), RETIRED),), outcome="held",
          reason="asset_archived"),
    Messy(11, "course_without_group", (Item(upload("no-group.mp4")),), outcome="skipped", reason="missing_linkage",
          course=COURSE_WITHOUT_GROUP),
    Messy(11, "group_without_organization", (Item(upload("no-organization.mp4")),), outcome="skipped",
          reason="missing_linkage", course=COURSE_OF_NOBODY),
    Messy(16, "link_signed_once", (Item(upload("signed.mp4", "first"), "signed"),)),
    Messy(16, "link_signed_again", (Item(upload("signed.mp4", "second"), "signed"),)),
    Messy(17, "only_single_url", outcome="skipped", reason="only_older_url", video_url="https://youtu.be/old"),
    Messy(17, "slide_url_beside_document", documents=(Item(document("beside.pdf", "b.pdf"), "beside slide"),),
          slide_url="https://slides.example/1"),
    Messy(0, "nothing_at_all", outcome="skipped", reason="no_rows"),
    Messy(0, "underscores", (Item(youtube("https://youtu.be/a_b_c_d_e_f"), "underscores"),)),
    Messy(0, "sizes", documents=(
        _sized("whole", 1234, 1234), _sized("text", "1234", 1234), _sized("zero", 0, 0), _sized("half", 1234.5, None),
        _sized("comma", "1,024", None), _sized("negative", -5, None), _sized("huge", 10**30, None),
        _sized("largest", 2**63 - 1, 2**63 - 1), _sized("missing", None, None), _sized("words", "2 MB", None))),
    Messy(0, "lengths", (
        _long("whole", 90, 90), _long("up", 12.5, 13), _long("down", Decimal("12.4999999999999999999"), 12),
        _long("text", "61.2", 61), _long("negative", -1, None), _long("clock", "1:02", None),
        _long("huge", 10**12, None))),
    Messy(0, "kinds", (
        _typed("upper", upload("a-CLIP.MOV"), "video", "video/quicktime"),
        _typed("name", upload("no-extension", fileName="Talk.mp3"), "audio", "audio/mpeg"),
        _typed("metadata", upload("x.mp4", metadata={"mimeType": "Video/WebM; codecs=vp9"}), "video", "video/webm"),
        _typed("host", generic("https://files.zip"), "video", None),
        _typed("query", generic("https://files.example/a.PDF?as=b.mp4#c.png"), "document", "application/pdf"),
        _typed("other", generic("https://files.example/a.zip"), "other", "application/zip"),
        _typed("signed link", upload("bare"), "video", None)), (
        _typed("alias", document("alias", "Essay", type="docx"), "document", WORD),
        _typed("word first", document("first.docx", "first.docx"), "document", "application/pdf"),
        _typed("mime", document("mime", "x", type="image/PNG"), "image", "image/png"),
        _typed("unknown alias", document("unknown.JPG", "x", type="picture"), "image", "image/jpeg"),
        _typed("no hint", document("none", "none", type=None), "document", None))),
    Messy(0, "columns", (
        Item(generic("https://cdn.example.org/a.mp4?v=1", fileName="File", watchEnforced=True, metadata={
            "title": " A title ", "description": "d", "thumbnailUrl": "https://t.example/1.png", "duration": 59.5,
            "aspectRatio": 1.7777, "svid": "s"}), "columns", columns={
            "title": "A title", "description": "d", "thumbnail_url": "https://t.example/1.png", "duration_seconds": 60,
            "aspect_ratio": "1.7777", "is_external": True, "storage_provider": "external", "provider": "generic",
            "source_url": "https://cdn.example.org/a.mp4?v=1", "storage_key": None, "status": "active",
            "created_by_profile_id": TEACHER, "organization_id": ORGANIZATION, "byte_size": None, "kind": "video"}),
        Item(upload("full.mp4", "full"), "full", columns={
            "is_external": False, "storage_provider": "s3", "provider": "upload", "storage_key": "full.mp4",
            "source_url": SIGNED.format("full.mp4", "full"), "metadata": {}, "title": None})), (
        Item({"name": "Läse mich", "link": " https://docs.example.org/l.pdf ", "size": 5}, "named", columns={
            "title": "Läse mich", "provider": "external_url", "byte_size": 5,
            "source_url": "https://docs.example.org/l.pdf", "is_external": True}),)),
    Messy(0, "no_teacher", (Item(upload("nobody.mp4"), "nobody", columns={"created_by_profile_id": None}),),
          teacher=None),
)  # fmt: skip


def lesson_id(name: str) -> str:
    """The id of a messy lesson."""
    return fixed_id(1000 + next(number for number, messy in enumerate(MESSY) if messy.name == name))


def write(connection: Any) -> None:
    """Put the messy lessons, what they belong to and EXISTING into a database that has the product's tables."""
    put = connection.cursor().executemany
    put("INSERT INTO organization (id, name) VALUES (%s, %s)", [(ORGANIZATION, "Ours"), (OTHER_ORGANIZATION, "Theirs")])
    put("INSERT INTO profile (id, fullname, username) VALUES (%s, 'Made Up', 'teacher')", [(TEACHER,)])
    groups = ((GROUP, ORGANIZATION), (OTHER_GROUP, OTHER_ORGANIZATION), (GROUP_WITHOUT_ORGANIZATION, None))
    put("""INSERT INTO "group" (id, name, organization_id) VALUES (%s, 'A group', %s)""", groups)
    courses = ((COURSE, GROUP), (OTHER_COURSE, OTHER_GROUP), (COURSE_WITHOUT_GROUP, None),
               (COURSE_OF_NOBODY, GROUP_WITHOUT_ORGANIZATION))  # fmt: skip
    put("INSERT INTO course (id, title, description, group_id) VALUES (%s, 'A course', '', %s)", courses)
    put(
        "INSERT INTO lesson (id, title, course_id, teacher_id, videos, documents, video_url, slide_url)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        [
            (
                lesson_id(m.name),
                m.name,
                m.course,
                m.teacher,
                text(m.videos),
                text(m.documents),
                m.video_url,
                m.slide_url,
            )
            for m in MESSY
        ],
    )
    assets = [{"organization_id": ORGANIZATION, "kind": "video", "provider": "upload", "storage_key": None,
               "source_url": None, "status": "active", "title": None, "id": id_} | changes
              for id_, changes in EXISTING.items()]  # fmt: skip
    put(
        "INSERT INTO assets (id, organization_id, kind, provider, storage_provider, storage_key, source_url, status,"
        " title, is_external) VALUES (%(id)s, %(organization_id)s, %(kind)s, %(provider)s, %(storage)s,"
        " %(storage_key)s, %(source_url)s, %(status)s, %(title)s, %(external)s)",
        [
            asset | {"storage": "s3" if asset["storage_key"] else "external", "external": not asset["storage_key"]}
            for asset in assets
        ],
    )
    put(
        "INSERT INTO asset_usages (organization_id, asset_id, target_type, target_id, slot_type, position)"
        " VALUES (%s, %s, 'lesson', %s, 'lesson_video', 0)",
        [(ORGANIZATION, KNOWN_WITH_USAGE, lesson_id("usage_there"))],
    )
