"""amplify-media-migrator's local stack: a Drive folder, a bucket, and an API with observations, on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from resettle.sandbox.appsync import API_KEY, LocalAppSync, start_appsync
from resettle.sandbox.drive import LocalDrive, start_drive
from resettle.sandbox.module import module_at
from resettle.sandbox.s3 import REGION, LocalS3, start_s3

HERE = Path(__file__).parent
FILES = 300
BUCKET = "amplify-meco-sandbox-media"


@dataclass(frozen=True)
class Sandbox:
    """The running parts, and the variables of the `local` environment."""

    drive: LocalDrive
    root: str
    store: LocalS3
    bucket: str
    api: LocalAppSync
    variables: dict[str, str]

    def file(self, name: str) -> str:
        """The id of the one file with this name."""
        (found,) = (one["id"] for one in self.drive.files.values() if one.get("name") == name)
        return str(found)

    def rename(self, name: str, new: str) -> None:
        """As a person does it in Drive: the id stays."""
        self.drive.files[self.file(name)]["name"] = new


_running: dict[Path, Sandbox] = {}


@contextmanager
def stack(folder: Path, *, files: int = FILES, messy: bool = True) -> Iterator[dict[str, str]]:
    """Start everything; yields the variables of the `local` environment."""
    with sandbox(folder, files=files, messy=messy) as made:
        yield made.variables


@contextmanager
def sandbox(folder: Path, *, files: int = FILES, messy: bool = True) -> Iterator[Sandbox]:
    """Start everything, with ``files`` ordinary files and, with `messy`, every odd one."""
    schema = (HERE / "schema.graphql").read_text("utf-8")
    with start_drive() as drive, start_s3() as store, start_appsync(schema) as api:
        root = drive.folder("Observations")
        bucket = store.named(BUCKET)
        store.load(bucket)
        api.data.empty_pages = 1  # before each page of a list, as a filter or a deletion leaves them
        made = Sandbox(drive, root, store, bucket, api, _variables(folder, drive, root, store, bucket, api))
        part("generate").generate(drive, root, api, files)
        if messy:
            _mess(made)
        _running[folder] = made
        try:
            yield made
        finally:
            del _running[folder]


def _variables(
    folder: Path, drive: LocalDrive, root: str, store: LocalS3, bucket: str, api: LocalAppSync
) -> dict[str, str]:
    return {
        "DRIVE_FOLDER": root,
        "DRIVE_URL": drive.api,
        "GOOGLE_APPLICATION_CREDENTIALS": str(drive.client_file(folder / "client.json")),
        "GOOGLE_TOKEN": str(drive.token_file(folder / "token.json")),
        "STORAGE_BUCKET": bucket,
        "AWS_REGION": REGION,
        "S3_ENDPOINT": store.endpoint,
        "S3_ACCESS_KEY": store.access_key,
        "S3_SECRET_KEY": store.secret_key,
        "AMPLIFY_API_ENDPOINT": api.url,
        "AMPLIFY_API_KEY": API_KEY,
        "LEDGER": str(folder / "ledger.sqlite"),
    }


def _mess(made: Sandbox) -> None:
    """Every odd file, and the observations that some of them have."""
    messy, generate = part("messy"), part("generate")
    folders: dict[str, str] = {}
    for at, one in enumerate(messy.MESSY):
        if one.folder not in folders:
            folders[one.folder] = made.drive.folder(one.folder, made.root)
        body = one.body or f"messy {at}".encode()
        moment = f"2024-03-01T00:00:{at:02}.000Z"
        made.drive.file(one.title, folders[one.folder], body=body, createdTime=moment)
    generate.observe(made.api, *(messy.FIRST + number for number in (*messy.THERE, messy.IN_TWO_COUNTRIES)))
    generate.observe(made.api, messy.FIRST + messy.IN_TWO_COUNTRIES, country=1)


def part(name: str) -> ModuleType:
    """A module beside this file, which is in no package."""
    return module_at(HERE / f"{name}.py")


def correct(folder: Path) -> None:
    """Rename two of the files that need review, as a person does it in Drive."""
    made, messy = _running[folder], part("messy")
    made.rename("photo.jpg", f"{messy.FIRST + 50}.jpg")
    made.rename(f"{messy.FIRST + 50}A.jpg", f"{messy.FIRST + 50}b.jpg")
