"""Small files of identities and directories: read with a bound, made once, replaced as a whole."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from fedsec._kernels import fresh_bytes
from fedsec.errors import IdentityError, InvalidArgumentError, InvalidTypeError

Name = str | os.PathLike[str]

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
# Opening a pipe, say, must not wait for whoever writes into it.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NO_HARD_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | getattr(os, "O_BINARY", 0)


def path_of(name: object) -> Path:
    """A path, from a string or a path."""
    if not isinstance(name, (str, os.PathLike)):
        raise InvalidTypeError(f"path must be a string or a path, got {name!r}")
    path = Path(name)
    if "\0" in str(path):
        raise InvalidArgumentError(f"path must hold no null character, got {str(path)!r}")
    return path


def read(path: Path, limit: int, *, private: bool = False) -> bytes:
    """The contents of a regular file of at most `limit` bytes.

    A `private` one must be the file itself, not a link to it, and readable by its owner alone.
    """
    with errors_named(path):
        descriptor = os.open(path, _READ | (_NO_LINK if private else 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            _require_plain(status, private)
            size = min(limit, status.st_size)  # a read makes room for all that it is asked for
            data = file.read(size + 1)
        if len(data) > size:
            raise IdentityError(f"it takes more than the {limit} bytes allowed, or grew while it was read")
        return data


def _require_plain(status: os.stat_result, private: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise IdentityError("it is no regular file")
    mode = stat.S_IMODE(status.st_mode)
    if private and os.name == "posix" and mode & 0o077:
        raise IdentityError(f"group or others may use it (mode {mode:03o}); make it private with chmod 600")


def create(path: Path, data: bytes, mode: int) -> None:
    """Writes a file that is not there yet, onto the disk: under its name is all of it, or nothing."""
    with errors_named(path), _draft(path, data, mode) as new:
        try:
            os.link(new, path)  # never over what is there, a link included
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            os.close(os.open(path, _MAKE, mode))
            os.replace(new, path)


def replace(path: Path, data: bytes, mode: int) -> None:
    """Puts a file in the place of another: whoever reads sees all of the one or all of the other.

    For one at a time (`alone_in`): what a process that was killed meanwhile left beside it is taken away.
    """
    with errors_named(path):
        for torn in path.parent.glob(f".{glob.escape(path.name)}.*"):
            _take_away(torn)
        with _draft(path, data, mode) as new:
            os.replace(new, path)


@contextlib.contextmanager
def _draft(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """A file beside `path` that is on the disk, for the block to give its name; then the name is, too."""
    new = path.with_name(f".{path.name}.{fresh_bytes(16).hex()}")
    descriptor = os.open(new, _MAKE, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        yield new
    finally:
        _take_away(new)
    _flush_names(path.parent)


def _take_away(draft: Path) -> None:
    with contextlib.suppress(OSError):  # a disk that is broken says so where it matters
        draft.unlink()


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """One at a time among all processes that ask for the same folder (where the system has such locks)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with errors_named(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        with errors_named(folder):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _flush_names(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Turns errors of a file into an `IdentityError` that names it."""
    try:
        yield
    except IdentityError as error:
        raise IdentityError(f"{path}: {error}") from error
    except OSError as error:
        link = error.errno == errno.ELOOP
        raise IdentityError(f"{path}: {'it is a symbolic link' if link else error.strerror}") from error
