"""A world: one migration on its sandbox, in states that a run may begin in, and what is found there afterwards.

`empty`: nothing was ever applied. `revised`: a part was applied, then the source was edited. `applied`: the rest was
applied too. What is found is told without what differs from run to run.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tests.crash.zygote import Ended, Zygote

STATES = ("empty", "revised", "applied")
FIRST, SECOND, THIRD = (f"2026-07-0{day}T08:00:00+00:00" for day in (1, 2, 3))
"""When a run starts: the one that makes `revised`, those that may die, and a rollback."""
FIXED = "2026-01-01 00:00:00"
"""What a target that says `now` gets, so that two runs can be compared."""
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

Tables = dict[str, list[str]]


@dataclass(frozen=True)
class Found:
    """What is there: the target's rows, objects and API rows; what the ledger remembers; its runs; who holds the lock.

    Ids that were minted stand as what they are the ids of, run numbers as `first` and `later`. Of rows with
    minted ids, or that point at such, fingerprints differ from run to run: a later run looks whether they are right.
    """

    target: Tables
    memory: Tables
    runs: list[tuple[int, str, str, bool]]
    lock: int | None
    unfinished: int
    """Parts of uploads that nobody ended."""

    @property
    def traces(self) -> tuple[Tables, list[list[str]]]:
        """What a run did: without what it only noted of itself."""
        return self.target, [self.memory.get(name, []) for name in ("rows", "units", "images")]

    @property
    def state(self) -> str:
        """All that the next run goes by."""
        return json.dumps([self.target, self.memory, self.unfinished], sort_keys=True)


class Effects(Counter[str]):
    """How often each object was put or deleted, and each mutation done."""


@dataclass
class World:
    """One migration, its servers, and what each state is. Made by `world`."""

    migration: str
    zygote: Zygote
    folder: Path
    options: Mapping[str, Any]
    variables: dict[str, str] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)
    """Options of the run that makes `revised`."""
    run: int = 0
    """The run that made `applied`."""
    minting: ClassVar[bool] = False
    """Whether ids are minted."""
    intending: ClassVar[bool] = False
    """Whether something is written that no transaction covers."""
    hashes_targets: ClassVar[bool] = False
    """Whether what stands in the target goes into the hash of a record: a lookup reads it, or it is the record."""

    # -- what each kind of world says of itself

    def keep(self, state: str) -> None:
        """Remember what is there now under this name."""
        raise NotImplementedError

    def restore(self, state: str) -> None:
        """Make it as it was."""
        raise NotImplementedError

    def edit(self) -> None:
        """What people do to the source before the second run."""
        raise NotImplementedError

    def target(self) -> Tables:
        raise NotImplementedError

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of the ledger; `LEDGER.` stands before its tables' names."""
        raise NotImplementedError

    def effects(self) -> Effects:
        """Since the state was restored."""
        return Effects()

    def unfinished(self) -> int:
        return 0

    # -- what is the same for all

    def begin(self) -> None:
        """Make the three states."""
        self.keep("empty")
        assert self("apply", now=FIRST, options={**self.options, **self.base}).code == 0
        self.edit()
        self.keep("revised")
        ended = self("apply")
        self.run = ended.said["run"]
        self.keep("applied")

    def at(self, state: str) -> None:
        """Begin in this state."""
        self.restore(state)
        self.started = state

    def __call__(self, do: str, **given: Any) -> Ended:
        return self.zygote(
            do=do,
            migration=self.migration,
            variables=self.variables,
            **{"options": self.options, "now": SECOND, **given},
        )

    def go(self, do: str, **given: Any) -> Ended:
        """A run of this phase, as every case has it."""
        if do == "rollback":
            given = {"of": self.run, "now": THIRD, **given}
        return self(do, **given)

    def found(self) -> Found:
        has = self.has_ledger()
        rows = sorted(self._rows(), reverse=True) if has else []  # of several rows with one id the first names it
        names = {
            str(value): f"<{column} of {place}>"
            for place, minted, _ in rows
            for column, value in (json.loads(minted) if minted else {}).items()
        }

        def named(text: str) -> str:
            return UUID.sub(lambda match: names.get(match[0], match[0]), text)

        memory = {"rows": sorted(named(text) for _, _, text in rows)}
        if has:
            memory |= {name: sorted(map(named, lines)) for name, lines in self._others().items()}
        return Found(
            {name: sorted(map(named, lines)) for name, lines in self.target().items()},
            memory,
            self._runs() if has else [],
            next((holder for (holder,) in self.ask("SELECT run FROM LEDGER.locks")), None) if has else None,
            self.unfinished(),
        )

    def has_ledger(self) -> bool:
        raise NotImplementedError

    def _rows(self) -> list[tuple[str, str, str]]:
        """Of each row of the id map: which it is, what was minted, and all as text."""
        found = self.ask(
            "SELECT f.name, r.unit, r.output, r.n, r.target_key, r.fingerprint, s.columns, r.raw, r.run,"
            " r.changed_run, r.reused, r.minted FROM LEDGER.rows r JOIN LEDGER.flows f ON f.flow = r.flow"
            " JOIN LEDGER.shapes s ON s.shape = r.shape"
        )
        told = []
        for flow, unit, output, n, key, print_, columns, raw, run, changed, reused, minted in found:
            place = f"{flow}/{unit}/{output}/{n}"
            hashed = print_.hex() if isinstance(print_, bytes) else print_ and str(print_)  # a uuid in Postgres
            known = hashed is not None if self.minting else hashed
            runs = [self._when(run), self._when(changed)]
            if self.intending and runs == ["later", "later"]:
                runs[1] = None  # what a run meant to make, a later one says that it is there
            text = json.dumps([place, key, known, columns, self._hash(raw), *runs, bool(reused), minted])
            told.append((place, minted or "", text))
        return told

    def _others(self) -> Tables:
        units = self.ask(
            "SELECT f.name, u.unit, u.status, u.reason, u.detail, u.warnings, u.raw, u.first_run, u.last_run, u.retry,"
            " u.note FROM LEDGER.units u JOIN LEDGER.flows f ON f.flow = u.flow"
        )
        images = self.ask(
            "SELECT f.name, b.unit, b.output, b.n, b.target_key, b.image, b.run FROM LEDGER.before_images b"
            " JOIN LEDGER.flows f ON f.flow = b.flow"
        )
        return {
            "units": [
                json.dumps([*row[:6], self._hash(row[6]), *map(self._when, row[7:9]), bool(row[9]), row[10]])
                for row in units
            ],
            "images": [json.dumps([*row[:5], self._image(row[5]), self._when(row[6])]) for row in images],
            "flows": [json.dumps(row) for row in self.ask("SELECT flow, name, outputs FROM LEDGER.flows")],
            "shapes": [json.dumps(row) for row in self.ask("SELECT flow, output, columns FROM LEDGER.shapes")],
        }

    def _image(self, text: str) -> str:
        return re.sub(r'"fingerprint": ?"[0-9a-f]+"', '"fingerprint":"..."', text) if self.minting else text

    def _hash(self, raw: int | None) -> int | bool:
        return raw is not None if self.hashes_targets else raw or False

    def _when(self, run: int | None) -> str | None:
        return None if run is None else "first" if run == 1 and self.started != "empty" else "later"

    started = "empty"
    """The state that was restored last."""

    def _runs(self) -> list[tuple[int, str, str, bool]]:
        found = self.ask("SELECT run, phase, status, completed_at FROM LEDGER.runs ORDER BY run")
        return [(run, phase, status, completed is not None) for run, phase, status, completed in found]
