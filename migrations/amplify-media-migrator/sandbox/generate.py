"""A made-up folder of media and the observations they belong to: same arguments, same files."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from resettle.sandbox.drive import LocalDrive

if TYPE_CHECKING:
    from resettle.sandbox.appsync import LocalAppSync

COUNTRIES = ("country-1", "country-2")
PER_FOLDER = 500
EXTENSIONS = ("jpg", "jpg", "jpg", "JPG", "jpeg", "png", "mp4", "mov")


def observation_id(number: int, country: int = 0) -> str:
    """An observation's id by its number."""
    return f"{number:08x}-{country:04x}-4000-8000-{number:012x}"


def observe(api: LocalAppSync, *numbers: int, country: int = 0) -> None:
    """Somebody enters observations."""
    api.data.put(
        "Observation",
        *(
            {"id": observation_id(one, country), "sequentialId": one, "countryId": COUNTRIES[country]}
            for one in numbers
        ),
    )


def generate(drive: LocalDrive, root: str, api: LocalAppSync, files: int, *, seed: int = 1) -> None:
    """Put ``files`` files with good names into folders of ``root``, and the observations that they belong to.

    A tenth has a letter and belongs to the observation of the file before it, one in a hundred is a range.
    """
    rng = Random(seed)
    number, folder, base = 0, root, 0
    numbers: list[int] = []
    for at in range(files):
        if not numbers or number // PER_FOLDER != (number + 1) // PER_FOLDER:
            first = number // PER_FOLDER * PER_FOLDER
            folder = drive.folder(f"{first + 1}-{first + PER_FOLDER}", root)
        chance, extension = rng.random(), rng.choice(EXTENSIONS)
        if chance < 0.1 and numbers:
            letter = "abcdefghijklmnopqrstuvwxyz"[(at - base) % 26]
            name = f"{number}{letter}.{extension}"
        elif chance < 0.11:
            name = f"{number + 1}-{number + 3}.{extension}"
            numbers += [number + 1, number + 2, number + 3]
            number, base = number + 3, at
        else:
            number, base = number + 1, at
            numbers.append(number)
            name = f"{number}.{extension}"
        drive.file(name, folder, body=rng.randbytes(rng.randrange(1, 64)) + str(at).encode(), mime=_mime(extension))
    observe(api, *numbers)


def _mime(extension: str) -> str:
    low = extension.lower()
    return {"mp4": "video/mp4", "mov": "video/quicktime", "png": "image/png"}.get(low, "image/jpeg")
