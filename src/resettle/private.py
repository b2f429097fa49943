"""Files that only their owner may read: whole or not there, whatever the umask, never through a link."""

from __future__ import annotations

import atexit
import functools
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from resettle.errors import ConfigError

FILE, FOLDER = 0o600, 0o700
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


def _beside(path: Path) -> Path:
    """Where a file is made before it is whole."""
    return path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.partial")


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise ConfigError(f"{path} is a link: it may lead anywhere", hint="remove it, or name the place it leads to")


def folder(path: Path) -> Path:
    """A folder of ours, made with all above it; one that is there is closed to others. No link is followed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _refuse_link(path)
    path.mkdir(mode=FOLDER, exist_ok=True)
    status = path.stat()
    if status.st_uid == os.geteuid() and status.st_mode & 0o077:
        path.chmod(FOLDER)
    return path


def new(path: Path) -> int:
    """A descriptor of a file that was not there. Raises FileExistsError, also where a link is."""
    return os.open(path, _NEW, FILE)


def closed(path: Path) -> bool:
    """Whether a file is there; it is closed to others then. No link is followed."""
    _refuse_link(path)
    if not path.exists():
        return False
    status = path.stat()
    if status.st_uid == os.geteuid() and status.st_mode & 0o077:
        path.chmod(FILE)
    return True


def keep(path: Path, content: bytes) -> None:
    """A file with this content, made whole with all above it, or the one that is there. No link is followed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if closed(path):
        return
    partial = _beside(path)
    with os.fdopen(new(partial), "wb") as file:
        file.write(content)
    try:
        os.link(partial, path)  # which another one's file, made meanwhile, survives
    except FileExistsError:
        closed(path)
    except OSError:  # a file system without such links
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file in the place of the old one, once it is whole; after an exception all is as it was.

    Raises ConfigError where something else than a file is there: a link, a folder, a device.
    """
    _refuse_link(path)
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is no file")
    partial = _beside(path)
    with os.fdopen(new(partial), "wb") as file:
        try:
            yield file
            file.flush()
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@functools.cache
def spill() -> Path:
    """This process's folder for what does not fit into memory; it goes with the process."""
    path = Path(tempfile.mkdtemp(prefix="resettle-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path
