"""Made-up exports of the three DynamoDB tables to S3: same arguments, same bytes; every trap by name."""

import argparse
import base64
import gzip
import hashlib
import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

SESSIONS, NOTES, AUDIT = "medzen-video-sessions", "medzen-soap-notes", "medzen-meeting-audit"
CHUNK = 20_000  # sessions in memory at once
FIRST_MS, SPAN_MS = 1_704_067_200_000, 62_000_000_000  # early 2024 to the end of 2025
ACCOUNT = "123456789012"

STATUS = [b"INITIATED", b"ACTIVE", b"COMPLETED", b"FAILED"]
REGION = [b"us-east-1", b"eu-central-1", b"af-south-1"]
LANGUAGE = [b"en-US", b"fr-FR"]
FINAL = [b"FINALIZED", b"PENDING", b"NOT_REQUIRED", b"ERROR"]
NOTE_STATUS = [b"DRAFT", b"REVIEWED", b"SIGNED", b"ARCHIVED"]
MODEL = [
    b"claude-opus-4-5-20251101-v1:0",
    b"anthropic.claude-opus-4-5-20251101-v1:0",
    b"claude-3-sonnet",
]
LATER_EVENT = [
    b"CALL_DISCONNECTED",
    b"TRANSCRIPTION_STARTED",
    b"TRANSCRIPTION_COMPLETED",
    b"TRANSCRIPTION_FAILED",
    b"SOAP_GENERATION_STARTED",
    b"SOAP_GENERATION_COMPLETED",
    b"SOAP_GENERATION_FAILED",
]
COMPLAINT = [
    "Persistent headache",
    "Toux sèche depuis trois jours",
    "Follow-up: blood pressure",
    "Fever at night",
]


def typed(value: Any) -> dict[str, Any]:
    """A plain value as DynamoDB types it."""
    match value:
        case None:
            return {"NULL": True}
        case bool():
            return {"BOOL": value}
        case int() | float() | Decimal():
            return {"N": str(value)}
        case str():
            return {"S": value}
        case list():
            return {"L": [typed(each) for each in value]}
        case dict():
            return {"M": {name: typed(each) for name, each in value.items()}}
    raise TypeError(f"DynamoDB has no type for {type(value).__name__}")


def encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# ---- messy items ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Messy:
    """One trap: an item of the source and what must become of it."""

    name: str
    table: str
    item: dict[str, Any]
    """Attributes, typed as DynamoDB types them."""
    outcome: str
    """One of `done` and `held`."""
    expect: dict[str, Any]
    """For done: target column -> value (instants as ISO text in UTC). For held: {"reason": why}."""
    note: str = ""


MIGRATION_TIME = "migration_time"
"""Stands in `Messy.expect` for the start of the run that first saw the unit."""

NOON = "2025-12-26T12:00:00+00:00"
NOON_MS = 1_766_750_400_000


def messy_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


_EMPTY4: dict[str, Any] = {"subjective": {}, "objective": {}, "assessment": {}, "plan": {}}

SESSION_ID = messy_id(1)
"""A session that is among the messy items and arrives; messy notes and events belong to it."""


def _session(number: int, **changes: Any) -> dict[str, Any]:
    plain = {
        "id": messy_id(number),
        "appointmentId": messy_id(9001),
        "providerId": messy_id(9002),
        "patientId": messy_id(9003),
        "status": "COMPLETED",
        "startTime": NOON_MS,
        "endTime": NOON_MS + 60_000,
        "joinUrl": "https://app.medzen.example/join/1",
        "meetingId": f"chime-meeting-{NOON_MS}-{number}",
        "mediaRegion": "af-south-1",
        "transcriptionEnabled": False,
        "createdAt": NOON_MS,
        "updatedAt": NOON_MS,
    }
    return _item(plain, changes)


def _note(number: int, **changes: Any) -> dict[str, Any]:
    plain = {
        "id": messy_id(number),
        "sessionId": SESSION_ID,
        "appointmentId": messy_id(9001),
        "soapData": {
            "chiefComplaint": "Fever",
            "subjective": {},
            "objective": {},
            "assessment": {},
            "plan": {},
        },
        "status": "SIGNED",
        "aiModel": "claude-3-sonnet",
        "aiGeneratedAt": NOON_MS,
        "createdAt": NOON_MS,
        "updatedAt": NOON_MS,
    }
    return _item(plain, changes)


def _event(number: int, **changes: Any) -> dict[str, Any]:
    plain = {
        "id": messy_id(number),
        "sessionId": SESSION_ID,
        "eventType": "CALL_JOINED",
        "eventData": {"attendee": "a"},
        "timestamp": NOON_MS,
        "createdAt": NOON_MS,
    }
    return _item(plain, changes)


class Missing:
    """An attribute that the item does not have."""


def _item(plain: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = {name: value for name, value in (plain | changes).items() if value is not Missing}
    return {name: value.value if isinstance(value, Raw) else typed(value) for name, value in merged.items()}


@dataclass(frozen=True)
class Raw:
    """An attribute typed by hand: what `typed` does not make, such as sets and binary."""

    value: dict[str, Any]


def _done(name: str, table: str, item: dict[str, Any], note: str = "", **expect: Any) -> Messy:
    return Messy(name, table, item, "done", expect, note)


def _held(name: str, table: str, item: dict[str, Any], reason: str, note: str = "") -> Messy:
    return Messy(name, table, item, "held", {"reason": reason}, note)


def _times(value: Any) -> dict[str, Any]:
    return {"startTime": value, "createdAt": value, "updatedAt": value}


def _soap(number: int, soap: Any) -> dict[str, Any]:
    return _note(number, soapData=soap)


def _nested(levels: int) -> dict[str, Any]:
    return {"end": "🏁"} if levels == 0 else {f"level{levels}": _nested(levels - 1)}


_NOON3 = {"start_time": NOON, "created_at": NOON, "updated_at": NOON}
_UNKNOWN3 = dict.fromkeys(_NOON3, MIGRATION_TIME)
_DIGITS = {"integer": Decimal("12345678901234567890123456789012345678"),
           "decimal": Decimal("1.2345678901234567890123456789012345678"),
           "small": Decimal("0.00000000000000000000012345678901234567")}  # fmt: skip
_TEXT = "  e\u0301 (NFD)\u200b 👩🏾‍⚕️ trailing  "

MESSY: tuple[Messy, ...] = (
    _done("instant_ms", SESSIONS, _session(1), **_NOON3),
    _done("instant_seconds", SESSIONS, _session(2, **_times(NOON_MS // 1000)), **_NOON3),
    _done("instant_ms_text", SESSIONS, _session(3, **_times(str(NOON_MS))), **_NOON3),
    _done("instant_iso", SESSIONS, _session(4, **_times("2025-12-26T12:00:00.000Z")), **_NOON3),
    _done("instant_iso_offset", SESSIONS, _session(5, **_times("2025-12-26T13:00:00+01:00")), **_NOON3),
    _done(
        "instant_fractional_ms",
        SESSIONS,
        _session(6, startTime=Decimal("1766750400123.5")),
        start_time="2025-12-26T12:00:00.123500+00:00",
    ),
    _done("time_zero", SESSIONS, _session(7, **_times(0)), **_UNKNOWN3),
    _done("time_empty", SESSIONS, _session(8, **_times("")), **_UNKNOWN3),
    _done("time_missing", SESSIONS, _session(9, **_times(Missing)), **_UNKNOWN3),
    _done("time_null", SESSIONS, _session(10, **_times(None)), **_UNKNOWN3),
    _held("appointment_not_a_uuid", SESSIONS, _session(11, appointmentId="appt-17"), "cast"),
    _done(
        "meeting_id_malformed",
        SESSIONS,
        _session(12, meetingId="???"),
        "kept and warned of",
        meeting_id="???",
    ),
    _held("status_lower_case", SESSIONS, _session(13, status="completed"), "unknown_status"),
    _held("status_ended", SESSIONS, _session(14, status="ENDED"), "unknown_status"),
    _held("text_with_nul", SESSIONS, _session(15, joinUrl="https://a\u0000b"), "unstorable"),
    _done("text_kept_as_it_is", SESSIONS, _session(16, meetingId=_TEXT), meeting_id=_TEXT),
    _done(
        "attributes_nothing_maps",
        SESSIONS,
        _session(
            17,
            tags=Raw({"SS": ["a", "b"]}),
            numbers=Raw({"NS": ["1", "2.5"]}),
            keys=Raw({"BS": ["AAE=", "Ag=="]}),
            blob=Raw({"B": "AAEC/w=="}),
        ),
        **_NOON3,
    ),
    _done(
        "transcription_missing",
        SESSIONS,
        _session(18, transcriptionEnabled=Missing),
        transcription_enabled=False,
    ),
    _done("soap_component_null", NOTES, _soap(101, {"chiefComplaint": "a", "subjective": None}), **_EMPTY4),
    _done("soap_missing", NOTES, _soap(102, Missing), **_EMPTY4),
    _done("soap_null", NOTES, _soap(103, None), **_EMPTY4),
    _done("soap_array", NOTES, _soap(104, []), "preserved and flagged: where is the migration's choice"),
    _done("soap_text", NOTES, _soap(105, "text"), "preserved and flagged: where is the migration's choice"),
    _done(
        "soap_json_text",
        NOTES,
        _soap(106, '{"chiefComplaint": "Toux", "subjective": {"hpi": "3 jours"}}'),
        **(_EMPTY4 | {"chief_complaint": "Toux", "subjective": {"hpi": "3 jours"}}),
    ),
    _done("soap_alias", NOTES, _soap(107, {"chief_complaint": "Fièvre"}), chief_complaint="Fièvre", **_EMPTY4),
    _done(
        "soap_blank_complaint",
        NOTES,
        _soap(115, {"chiefComplaint": "", "chief_complaint": "Céphalée"}),
        chief_complaint="Céphalée",
        **_EMPTY4,
    ),
    _done(
        "soap_more_members",
        NOTES,
        _soap(116, {"Subjective": {"hpi": "3 jours"}, "source": {"data_quality": {"uncertainties": []}}}),
        **_EMPTY4,
    ),
    _done("soap_38_digits", NOTES, _soap(108, {"objective": _DIGITS}), objective=_DIGITS),
    _done("soap_text_kept", NOTES, _soap(109, {"plan": {"note": _TEXT}}), plan={"note": _TEXT}),
    _done(
        "soap_sets",
        NOTES,
        _note(110, soapData=Raw({"M": {"plan": {"M": {}}, "codes": {"SS": ["R51"]}}}), extra=Raw({"B": "AA=="})),
        plan={},
    ),
    _held("soap_with_nul", NOTES, _soap(111, {"subjective": {"hpi": "a\u0000b"}}), "unstorable"),
    _held("note_without_session", NOTES, _note(112, sessionId=messy_id(404)), "foreign_key"),
    _held("note_appointment_not_a_uuid", NOTES, _note(113, appointmentId="appt-17"), "cast"),
    _held("note_status_ended", NOTES, _note(114, status="ENDED"), "unknown_status"),
    _done(
        "audit_created_later",
        AUDIT,
        _event(201, createdAt=NOON_MS + 1000),
        created_at="2025-12-26T12:00:01+00:00",
    ),
    _done(
        "audit_timestamp_later",
        AUDIT,
        _event(202, timestamp=NOON_MS + 2000),
        created_at="2025-12-26T12:00:02+00:00",
    ),
    _done("audit_twin_first", AUDIT, _event(203), "same id as audit_twin_second", created_at=NOON),
    _done(
        "audit_twin_second",
        AUDIT,
        _event(203, timestamp=NOON_MS + 5000),
        "same id, another sort key: both arrive, one of them under a derived id",
        created_at="2025-12-26T12:00:05+00:00",
    ),
    _done("audit_deep", AUDIT, _event(204, eventData=_nested(30)), event_data=_nested(30)),
    _done("audit_data_missing", AUDIT, _event(205, eventData=Missing), created_at=NOON),
    _done("audit_text_kept", AUDIT, _event(206, eventData={"t": _TEXT}), event_data={"t": _TEXT}),
    _done("event_unlisted", AUDIT, _event(209, eventType="call_paused"), event_type="CALL_PAUSED"),
    _held("audit_without_session", AUDIT, _event(207, sessionId=messy_id(404)), "foreign_key"),
    _held("audit_with_nul", AUDIT, _event(208, eventData={"t": "\u0000"}), "unstorable"),
)
"""The traps, each by name. With `audit_shape="real"` those of the audit table are left out."""


# ---- ordinary items -------------------------------------------------------------------------------


_HEX = np.array([list(f"{number:02x}".encode()) for number in range(256)], np.uint8)
_PLACES = np.array([0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34])


def _uuids(rng: np.random.Generator, count: int) -> list[bytes]:
    octets = rng.integers(0, 256, (count, 16), np.uint8)
    octets[:, 6] = octets[:, 6] & 0x0F | 0x40
    octets[:, 8] = octets[:, 8] & 0x3F | 0x80
    text = np.full((count, 36), ord("-"), np.uint8)
    text[:, _PLACES], text[:, _PLACES + 1] = _HEX[octets, 0], _HEX[octets, 1]
    return text.view("S36").ravel().tolist()


def _pick(rng: np.random.Generator, choices: list[bytes], count: int) -> list[bytes]:
    return [choices[at] for at in rng.integers(0, len(choices), count).tolist()]


def _changed(first: int, count: int, part: float) -> list[bool]:
    """Which rows a later export finds changed: exactly `part` of them, evenly spread."""
    steps = np.floor(np.arange(first, first + count + 1) * part + 1e-9)
    return (np.diff(steps) > 0).tolist()


@dataclass(frozen=True)
class Chunk:
    """What the sessions of one chunk share with their notes and events."""

    number: int
    first: int
    ids: list[bytes]
    appointments: list[bytes]
    meetings: list[bytes]
    starts: list[int]
    note_ids: list[bytes | None]

    @classmethod
    def make(cls, seed: int, number: int, first: int, count: int) -> "Chunk":
        rng = np.random.default_rng([seed, 0, number])
        starts = (FIRST_MS + rng.integers(0, SPAN_MS, count)).tolist()
        meetings = [
            b"chime-meeting-%d" % start if kind < 0.1 else uuid
            for start, kind, uuid in zip(starts, rng.random(count).tolist(), _uuids(rng, count), strict=True)
        ]
        noted = zip((rng.random(count) < 0.5).tolist(), _uuids(rng, count), strict=True)
        note_ids = [uuid if has else None for has, uuid in noted]
        return cls(number, first, _uuids(rng, count), _uuids(rng, count), meetings, starts, note_ids)


_SESSION = (
    b'{"Item":{"id":{"S":"%b"},"appointmentId":{"S":"%b"},"providerId":{"S":"%b"},"patientId":{"S":"%b"},'
    b'"status":{"S":"%b"},"startTime":{"N":"%d"},"endTime":%b,"joinUrl":{"S":"https://app.medzen.example/join/%b"},'
    b'"meetingId":{"S":"%b"},"mediaRegion":{"S":"%b"},"transcriptionEnabled":{"BOOL":%b},%b%b'
    b'"finalizationStatus":{"S":"%b"},"createdAt":{"N":"%d"},"updatedAt":{"N":"%d"}}}\n'
)


def _session_lines(chunk: Chunk, seed: int, changed: float) -> list[bytes]:
    rng, count = np.random.default_rng([seed, 1, chunk.number]), len(chunk.ids)
    columns = zip(
        chunk.ids, chunk.appointments, _uuids(rng, count), _uuids(rng, count), _pick(rng, STATUS, count),
        chunk.starts, rng.integers(60_000, 5_400_000, count).tolist(), chunk.meetings,
        _pick(rng, REGION, count),
        (rng.random(count) < 0.7).tolist(), _uuids(rng, count), _pick(rng, LANGUAGE, count), chunk.note_ids,
        _pick(rng, FINAL, count), _changed(chunk.first, count, changed), strict=True,
    )  # fmt: skip
    lines = []
    for (
        id_, appointment, provider, patient, status, start, length, meeting, region,
        transcribed, transcript, language, note, final, change,
    ) in columns:  # fmt: skip
        ended = status in (b"COMPLETED", b"FAILED")
        text = b'"transcriptId":{"S":"%b"},"transcriptLanguage":{"S":"%b"},' % (transcript, language)
        lines.append(
            _SESSION % (
                id_, appointment, provider, patient,
                (b"COMPLETED" if status == b"FAILED" else b"FAILED") if change else status,
                start, b'{"N":"%d"}' % (start + length) if ended else b'{"NULL":true}',
                meeting, meeting, region, b"true" if transcribed else b"false", text if transcribed else b"",
                b'"soapNoteId":{"S":"%b"},' % note if note else b"",
                final, start - 5000, start + length + change,
            )
        )  # fmt: skip
    return lines


def _soap_parts() -> tuple[list[bytes], list[bytes], list[bytes], list[bytes]]:
    """Components as the model writes them, typed and encoded once: a note picks one of each."""
    days, drugs = (1, 2, 3, 7, 14), ("lisinopril 10 mg", "paracétamol 500 mg", "amoxicillin 1 g")
    subjective = [
        {"hpi": f'Began {day} day(s) ago; "worse at night"', "ros": {"neuro": "headache", "ent": None},
         "pmh": ["hypertension"], "psh": [], "medications": [{"name": drug, "daily": day % 3 + 1}],
         "allergies": [], "social_history": {"smoker": False}, "family_history": {}}
        for day in days for drug in drugs
    ]  # fmt: skip
    objective = [
        {"vitals": {"measured": False, "temperature": temperature}, "telemedicine_observations": "Calm",
         "physical_exam_limited": {"skin": "normal"}, "diagnostics_reviewed": []}
        for temperature in (None, Decimal("37.2"), Decimal("38.50"))
    ]  # fmt: skip
    assessment = [
        {"problem_list": [{"problem": "Headache", "icd10": code, "confidence": Decimal("0.80")}],
         "clinical_impression_summary": "Likely benign\nReview in a week"}
        for code in ("R51", "I10", "J06.9")
    ]  # fmt: skip
    plan = [
        {"treatments": [drug], "orders": [], "follow_up": {"days": day}, "patient_education": "Repos, eau",
         "work_school_notes": None}
        for day in days for drug in drugs
    ]  # fmt: skip
    first, second, third, fourth = (
        [encode(typed(each)) for each in part] for part in (subjective, objective, assessment, plan)
    )
    return first, second, third, fourth


_NOTE = (
    b'{"Item":{"id":{"S":"%b"},"sessionId":{"S":"%b"},"appointmentId":{"S":"%b"},"soapData":{"M":{'
    b'"chiefComplaint":%b,"subjective":%b,"objective":%b,"assessment":%b%b}},"status":{"S":"%b"},'
    b'"aiModel":{"S":"%b"},"aiGeneratedAt":{"N":"%d"},"createdAt":{"N":"%d"},"updatedAt":{"N":"%d"}}}\n'
)
_PARTS = _soap_parts()


def _note_lines(chunk: Chunk, seed: int, changed: float) -> list[bytes]:
    rng, count = np.random.default_rng([seed, 2, chunk.number]), len(chunk.ids)
    columns = zip(
        chunk.note_ids, chunk.ids, chunk.appointments,
        _pick(rng, [encode(typed(each)) for each in COMPLAINT], count),
        *(_pick(rng, part, count) for part in _PARTS), rng.random(count).tolist(),
        _pick(rng, NOTE_STATUS, count), _pick(rng, MODEL, count), chunk.starts,
        _changed(chunk.first, count, changed), strict=True,
    )  # fmt: skip
    return [
        _NOTE % (
            id_, session, appointment, complaint, subjective, objective, assessment,
            b"" if chance < 0.1 else b',"plan":' + plan,
            (b"DRAFT" if status == b"SIGNED" else b"SIGNED") if change else status,
            model, start + 61_000, start + 60_000, start + 90_000 + change,
        )
        for id_, session, appointment, complaint, subjective, objective, assessment, plan, chance,
        status, model, start, change in columns if id_
    ]  # fmt: skip


_DATA = [
    encode(typed(each))
    for each in (
        {},
        {"attendeeId": "a-1", "device": {"os": "Android", "version": 14}},
        {
            "quality": {"network": {"loss": Decimal("0.02"), "samples": [1, {"late": True}]}},
            "reason": None,
        },
        {
            "error": {
                "code": "ThrottlingException",
                "chain": [{"cause": {"cause": {"message": "délai dépassé"}}}],
            }
        },
    )
]
_EVENT = (
    b'{"Item":{"id":{"S":"%b"},"sessionId":{"S":"%b"},"eventType":{"S":"%b"},"eventData":%b,'
    b'"timestamp":{"N":"%d"},"createdAt":{"N":"%d"}}}\n'
)
_REAL_EVENT = (
    b'{"Item":{"pk":{"S":"%b"},"sk":{"S":"EVENT#%d#%b"},"eventType":{"S":"%b"},%b'
    b'"timestamp":{"S":"%bZ"},"data":%b,"ttl":{"N":"%d"}}}\n'
)


def _event_lines(chunk: Chunk, seed: int, shape: str) -> list[bytes]:
    rng, count = np.random.default_rng([seed, 3, chunk.number]), len(chunk.ids)
    lines: list[bytes] = []
    for kinds, delay in (([b"CALL_INITIATED"], -5000), ([b"CALL_JOINED"], 0), (LATER_EVENT, 60_000)):
        types, data = _pick(rng, kinds, count), _pick(rng, _DATA, count)
        moments = np.array(chunk.starts) + delay + rng.integers(0, 1000, count)
        if shape == "documented":
            columns = zip(_uuids(rng, count), chunk.ids, types, data, moments.tolist(), strict=True)
            lag = rng.integers(-50, 50, count).tolist()
            lines += [_EVENT % (*row, row[-1] + late) for row, late in zip(columns, lag, strict=True)]
        else:
            lines += _real_event_lines(chunk, rng, types, data, moments)
    return lines


def _real_event_lines(
    chunk: Chunk, rng: np.random.Generator, types: list[bytes], data: list[bytes], moments: np.ndarray
) -> list[bytes]:
    """Events as the code writes them; 1 in 100 of a meeting nobody knows, 2 in 100 of a recording."""
    iso = np.datetime_as_string(moments.astype("datetime64[ms]")).astype("S23").tolist()
    strangers, chances = _uuids(rng, len(types)), rng.random(len(types)).tolist()
    lines = []
    for at, (kind, chance) in enumerate(zip(types, chances, strict=True)):
        meeting = strangers[at] if chance < 0.01 else chunk.meetings[at]
        owner, named = b"MEETING#" + meeting, b'"meetingId":{"S":"%b"},' % meeting
        if chance > 0.98:
            owner, named = b"RECORDING#" + chunk.appointments[at], b""
            kind = b"RECORDING_STARTED"
        moment = int(moments[at])
        ttl = moment // 1000 + 90 * 86_400
        lines.append(_REAL_EVENT % (owner, moment, kind, kind, named, iso[at], data[at], ttl))
    return lines


# ---- the export -----------------------------------------------------------------------------------


class DataFile:
    """One data file of an export: gzip without a clock or a name in it, so that it is the same every time."""

    def __init__(self, path: Path) -> None:
        self.path, self.items = path, 0
        self._file = path.open("wb")
        self._gzip = gzip.GzipFile("", "wb", compresslevel=1, fileobj=self._file, mtime=0)

    def write(self, lines: list[bytes]) -> None:
        self._gzip.write(b"".join(lines))
        self.items += len(lines)

    def close(self, key: str) -> dict[str, Any]:
        """Finish the file; return its line of the manifest."""
        self._gzip.close()
        self._file.close()
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "md5")
        return {
            "itemCount": self.items,
            "md5Checksum": base64.b64encode(digest.digest()).decode(),
            "etag": f"{hashlib.md5(digest.digest()).hexdigest()}-1",
            "dataFileS3Key": f"{key}/data/{self.path.name}",
        }


class Export:
    """One table's export, as `ExportTableToPointInTime` leaves it in a bucket whose root is `folder`."""

    def __init__(self, folder: Path, table: str, files: int, token: str) -> None:
        digest = hashlib.sha256(f"{table} {token}".encode()).hexdigest()
        self.folder, self.table = folder, table
        self.key = f"{table}/AWSDynamoDB/0{NOON_MS}-{digest[:8]}"
        data = folder / self.key / "data"
        data.mkdir(parents=True)
        (folder / self.key / "_started").touch()
        # One more than asked for stays empty, as that of an empty partition does.
        self.files = [DataFile(data / f"{digest[8:32]}{number:02d}.json.gz") for number in range(files + 1)]

    def close(self) -> None:
        """Finish the data files and write both manifests, each with its checksum."""
        lines = [file.close(self.key) for file in self.files]
        arn = f"arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/{self.table}"
        noon = "2025-12-26T12:00:00.000Z"
        summary = {
            "version": "2020-06-30",
            "exportArn": f"{arn}/export/{self.key.rpartition('/')[2]}",
            "startTime": noon,
            "endTime": noon,
            "tableArn": arn,
            "tableId": messy_id(0),
            "exportTime": noon,
            "s3Bucket": "medzen-exports",
            "s3Prefix": self.table,
            "s3SseAlgorithm": "AES256",
            "s3SseKmsKeyId": None,
            "manifestFilesS3Key": f"{self.key}/manifest-files.json",
            "billedSizeBytes": 0,
            "itemCount": sum(line["itemCount"] for line in lines),
            "outputFormat": "DYNAMODB_JSON",
            "exportType": "FULL_EXPORT",
        }
        self._manifest("manifest-files", b"".join(encode(line) + b"\n" for line in lines))
        self._manifest("manifest-summary", encode(summary))

    def _manifest(self, name: str, content: bytes) -> None:
        # The documentation calls the checksum `.checksum`; what real exports leave behind is `.md5`.
        (self.folder / self.key / f"{name}.json").write_bytes(content)
        (self.folder / self.key / f"{name}.md5").write_bytes(base64.b64encode(hashlib.md5(content).digest()))


def generate(
    folder: Path,
    sessions: int,
    *,
    seed: int = 7,
    messy: bool = True,
    audit_shape: str = "documented",
    changed: float = 0.0,
    files: int = 4,
    notes: bool = True,
    audit: bool = True,
) -> None:
    """Write the exports of `sessions` sessions, about half as many notes and three times as many events.

    `changed` gives that part of the sessions and notes another status and updatedAt, and nothing else.
    `audit_shape` is `documented` (id, sessionId) or `real` (pk, sk, as the code writes them).
    """
    if audit_shape not in ("documented", "real"):
        raise ValueError(f"audit_shape is documented or real, not {audit_shape!r}")
    tables = [SESSIONS, *[NOTES] * notes, *[AUDIT] * audit]
    exports = {table: Export(folder, table, files, f"{seed} {changed}") for table in tables}
    size = max(1, min(CHUNK, -(-sessions // files)))
    pending: list[Future[None]] = []
    # zlib works outside the interpreter's lock: one chunk is compressed while the next is made.
    with ThreadPoolExecutor(max_workers=len(tables)) as pool:
        for number, first in enumerate(range(0, sessions, size)):
            chunk = Chunk.make(seed, number, first, min(size, sessions - first))
            lines = {table: _lines(table, chunk, seed, changed, audit_shape) for table in tables}
            for written in pending:
                written.result()
            at = number % files
            pending = [pool.submit(exports[table].files[at].write, made) for table, made in lines.items()]
        for written in pending:
            written.result()
    for each in _messy(audit_shape) if messy else ():
        if each.table in exports:
            exports[each.table].files[files - 1].write([encode({"Item": each.item}) + b"\n"])
    for export in exports.values():
        export.close()


def _lines(table: str, chunk: Chunk, seed: int, changed: float, audit_shape: str) -> list[bytes]:
    if table == SESSIONS:
        return _session_lines(chunk, seed, changed)
    if table == NOTES:
        return _note_lines(chunk, seed, changed)
    return _event_lines(chunk, seed, audit_shape)


def _messy(audit_shape: str) -> list[Messy]:
    return [each for each in MESSY if audit_shape == "documented" or each.table != AUDIT]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--messy", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--audit-shape", choices=["documented", "real"], default="documented")
    parser.add_argument("--changed", type=float, default=0.0)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--notes", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--audit", action=argparse.BooleanOptionalAction, default=True)
    generate(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
