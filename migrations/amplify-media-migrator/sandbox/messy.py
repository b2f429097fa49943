"""Files as real folders hold them, each with what must become of it under the seed's rules."""

from __future__ import annotations

from dataclasses import dataclass

FIRST = 900_000
"""The messy observations' numbers begin here, beyond the generated ones."""
THERE = (1, 2, 3, 10, 11, 12, 13, 14, 15, 21, 31, 32, 40, 50)
"""Observations that are there, from `FIRST`."""
IN_TWO_COUNTRIES = 60


@dataclass(frozen=True)
class Messy:
    """A file: ``name`` (# begins a number from `FIRST`), its folder, its bytes, and what becomes of it.

    ``status`` is the seed's word, or `duplicate`; ``why`` the ledger's reason; ``numbers`` the observations linked,
    the first of which is in the object's key.
    """

    name: str
    status: str
    why: str = ""
    numbers: tuple[int, ...] = ()
    folder: str = "900000-900499"
    body: bytes = b""

    @property
    def title(self) -> str:
        """The name as Drive has it: #1 is 900001."""
        parts = self.name.split("#")
        made = [str(FIRST + int(_digits(part))) + part[len(_digits(part)) :] for part in parts[1:]]
        return parts[0] + "".join(made)


def _digits(text: str) -> str:
    return text[: len(text) - len(text.lstrip("0123456789"))]


def _review(name: str, why: str, **more: str) -> Messy:
    return Messy(name, "needs_review", f"needs_review_{why}", **more)  # type: ignore[arg-type]


MESSY = (
    Messy("#1.jpg", "completed", numbers=(1,)),
    Messy("#1a.jpg", "completed", numbers=(1,)),
    Messy("#1x.MP4", "completed", numbers=(1,)),
    Messy("#2.JPG", "completed", numbers=(2,)),
    Messy("000#3.jpeg", "completed", numbers=(3,)),
    Messy("#10-#15.mp4", "completed", numbers=(10, 11, 12, 13, 14, 15)),
    Messy("#21-#21.png", "completed", numbers=(21,)),
    Messy("#21-#22.jpg", "partial", "observation_missing", (21,)),
    Messy("#30-#32.mov", "partial", "observation_missing", (31, 32)),
    Messy("#99.jpg", "orphan", "orphan"),
    Messy("#98-#99.jpg", "orphan", "orphan"),
    Messy("#40.jpg", "completed", numbers=(40,), body=b"the same bytes"),
    Messy("#40b.jpg", "duplicate", "duplicate", body=b"the same bytes"),
    _review("#50A.jpg", "pattern"),
    _review("#50aa.jpg", "pattern"),
    _review("#50-a.jpg", "pattern"),
    _review("#50 a.jpeg", "pattern"),
    _review("#50-ק.jpg", "pattern"),
    _review("#50 (1).jpg", "pattern"),
    _review("#50 - Copy.jpg", "pattern"),
    _review("#10-#11-#12.jpg", "pattern"),
    _review("#10 - #11.jpg", "pattern"),
    _review("#10–#11.jpg", "pattern"),  # noqa: RUF001
    _review("#10-#11-A.jpg", "pattern"),
    _review("#10+#15.jpg", "pattern"),
    _review("#10a,#11a.mp4", "pattern"),
    _review(".jpg", "pattern"),
    _review("photo.jpg", "pattern"),
    _review("abc123.jpg", "pattern"),
    _review("#50.jpg.jpg", "pattern"),
    _review("E#50.jpg", "pattern"),
    _review("٩٠٠٠٥٠.jpg", "pattern"),
    _review("#50", "extension"),
    _review("#50.", "extension"),
    _review("#50.pdf", "extension"),
    _review("#50.heic", "extension"),
    _review("#11-#10.jpg", "descending_range"),
    _review("1-2000000.jpg", "long_range"),
    _review("#60.jpg", "ambiguous"),
)
