"""What a service is to a schedule: a job that is small and does everything, and what is right afterwards."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from resettle.errors import ConfigError, RejectedError, ResettleError
from tests.faults.schedule import Schedule
from tests.faults.virtual import Time

PLANTED = "Wilhelmine-of-the-records"
"""In every value: no message may show it."""
MOST_PER_REQUEST = 100.0
"""Seconds, virtual: the longest wait of a Caller is 30, of Drive's 64, and Retry-After says up to 30."""


class Service:
    """One stand-in, used for one schedule after the other."""

    name: ClassVar[str]
    often: ClassVar[tuple[str, ...]]
    """Kinds of faults that may pass."""
    ends: ClassVar[tuple[str, ...]] = ()
    """Kinds about which nothing can be done."""
    milder: ClassVar = 1.0
    """See `Schedule`: less where many requests make one transaction, which is lost with each of them."""
    refuses: ClassVar[tuple[str, ...]] = ()
    """Reasons of refusals that are right, because the bytes of a file were not what they should be."""

    def reset(self) -> None:
        """As it was before anything was done."""
        raise NotImplementedError

    def disturb(self, day: Schedule | None) -> None:
        """From now on things go wrong as the schedule has it; None: nothing does."""
        raise NotImplementedError

    def job(self) -> None:
        """What a run does; AssertionError where something that was read is not right."""
        raise NotImplementedError

    def check(self) -> None:
        """What is there after the job was done, by whatever way."""
        raise NotImplementedError


class Tally(Counter[str]):
    """How days ended: `ended`, `told`; and what struck."""


def live_through(service: Service, seed: int, time: Time, tally: Tally) -> None:
    """One day: the job ends right, or says what it could not do; then, without faults, it ends right."""
    day = Schedule(f"{service.name} {seed}", service.often, service.ends, time, milder=service.milder)
    service.reset()
    service.disturb(day)
    began = time.now
    try:
        service.job()
        tally["ended"] += 1
        tally["ended with faults"] += bool(day.struck)
    except ResettleError as error:
        tally["told"] += 1
        told(service, error, day)
        service.disturb(None)
        service.job()
    service.disturb(None)
    service.check()
    tally.update(day.struck)
    assert not day.hasty, f"asked again before Retry-After was over: {day.hasty[:3]}"
    assert time.now - began <= MOST_PER_REQUEST * day.asked, "it waited too long"


def told(service: Service, error: ResettleError, day: Schedule) -> None:
    """Something did go wrong; the message names the connection, and shows no value."""
    assert day.struck, repr(error)
    assert error.message.startswith(f"{service.name}: "), repr(error)
    shown = "".join(traceback.format_exception(error)) + str(error.hint)
    assert PLANTED not in shown, shown
    good = isinstance(error, RejectedError) and error.reason in service.refuses
    assert good or not isinstance(error, RejectedError | ConfigError), f"it is no record's fault, nor ours: {error!r}"


@contextmanager
def repeatable(service: Service, seed: int) -> Iterator[None]:
    """What fails says how to see it again."""
    try:
        yield
    except Exception as error:
        error.add_note(f"schedule {seed} of {service.name}: pytest tests/faults -k {service.name} --seed {seed}")
        raise
