"""The archive as plain files below one directory, synced before they are acknowledged.

Effects: idempotent: bytes have offsets, whole files come by temporary name.
"""

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from paddock.core.errors import Broken, Missing, PaddockError, Refused
from paddock.core.names import archive_name
from paddock.hands import faults

T = TypeVar("T")

OPEN_LIMIT = 128
"""Idle files that are kept open for their next append."""
THREADS = 4
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# A control character: no name in the archive can be one of these.
_TEMPORARY = "\x01"
_CREATE_ATTEMPTS = 5


class _File:
    """A file that is being appended to. `end` counts what was accepted, `synced` what is durable."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self.descriptor = descriptor
        self.end = self.synced = os.fstat(descriptor).st_size
        self.pending: list[bytes] = []
        self.waiting: list[tuple[int, asyncio.Future[int]]] = []
        self.is_flushing = False
        self.is_over = False
        """Whether it is to be closed as soon as nobody waits for it."""

    @property
    def is_idle(self) -> bool:
        return not self.is_flushing and not self.pending


class DirectoryArchive:
    """`Archive` below `root`, which is made, 0700, if there is none. Files are 0600.

    One process has a root at a time: the one that holds the store's lock. No part of a name is followed where it is a
    symlink, so what is below the root stays below it, whoever made the tree.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="archive")
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._opening: dict[str, asyncio.Future[_File]] = {}

    def close(self) -> None:
        """Let go of all files. Idempotent; what was acknowledged is synced."""
        if self._root < 0:
            return
        self._threads.shutdown()
        for file in self._files.values():
            os.close(file.descriptor)
        self._files.clear()
        os.close(self._root)
        self._root = -1

    async def append(self, name: str, offset: int, data: bytes) -> int:
        file = await self._opened(archive_name(name))
        while file.is_over:  # forgotten while we waited for it
            file = await self._opened(name)
        if not 0 <= offset <= file.end:
            raise Refused(f"{name}: offset {offset} is beyond its {file.end} bytes")
        missing = data[file.end - offset :]
        if missing:
            file.pending.append(missing)
            file.end += len(missing)
        if file.synced == file.end:
            return file.end
        durable: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        file.waiting.append((file.end, durable))
        if not file.is_flushing:
            self._flush(file)
        return await durable

    async def length(self, name: str) -> int | None:
        name = archive_name(name)
        file = self._files.get(name)
        if file is not None:
            return file.synced
        return await self._on_thread(name, lambda: _length(self._root, name))

    async def read(self, name: str, offset: int = 0, limit: int | None = None) -> bytes:
        name = archive_name(name)
        return await self._on_thread(name, lambda: _read(self._root, name, offset, limit))

    async def write(self, name: str, data: bytes) -> None:
        name = archive_name(name)
        await self._on_thread(name, lambda: _replace(self._root, name, data))
        self._forget(name)

    async def list(self, prefix: str) -> Mapping[str, int]:
        if prefix:
            archive_name(prefix)
        return await self._on_thread(prefix, lambda: dict(sorted(_list(self._root, prefix))))

    async def remove(self, prefix: str) -> None:
        prefix = archive_name(prefix)
        for name in [name for name in self._files if name == prefix or name.startswith(f"{prefix}/")]:
            self._forget(name)
        await self._on_thread(prefix, lambda: _remove(self._root, prefix))

    async def _opened(self, name: str) -> _File:
        """The open file of a name; two who come at once open it once."""
        file = self._files.get(name)
        if file is not None:
            self._files.move_to_end(name)
            return file
        opening = self._opening.get(name)
        if opening is None:
            opening = self._opening[name] = asyncio.ensure_future(self._open(name))
            opening.add_done_callback(lambda _: self._opening.pop(name))
        # Whoever gives up does not take the others' file with him.
        return await asyncio.shield(opening)

    async def _open(self, name: str) -> _File:
        file = _File(name, await self._on_thread(name, lambda: _open_to_append(self._root, name)))
        self._files[name] = file
        idle = (file for file in list(self._files.values()) if file.is_idle)
        while len(self._files) > OPEN_LIMIT and (oldest := next(idle, None)) is not None and oldest is not file:
            self._forget(oldest.name)
        return file

    def _forget(self, name: str) -> None:
        """What stands on the disk is the truth again: the next append looks there."""
        file = self._files.pop(name, None)
        if file is not None:
            file.is_over = True
            if file.is_idle:
                os.close(file.descriptor)

    def _flush(self, file: _File) -> None:
        """Write and sync all that is pending, on a thread; what comes meanwhile goes into the next flush."""
        data, file.pending, file.is_flushing = b"".join(file.pending), [], True
        upto = file.synced + len(data)
        written = asyncio.get_running_loop().run_in_executor(self._threads, _append, file.descriptor, data, file.synced)
        written.add_done_callback(lambda done: self._flushed(file, upto, done))

    def _flushed(self, file: _File, upto: int, done: asyncio.Future[None]) -> None:
        file.is_flushing = False
        exc = asyncio.CancelledError() if done.cancelled() else done.exception()
        if exc is None:
            file.synced = upto
            for wanted, durable in file.waiting:
                if wanted <= upto and not durable.done():
                    durable.set_result(wanted)
            file.waiting = [(wanted, durable) for wanted, durable in file.waiting if wanted > upto]
        else:
            self._fail(file, exc)
        if file.pending:
            self._flush(file)
        elif file.is_over:
            os.close(file.descriptor)

    def _fail(self, file: _File, exc: BaseException) -> None:
        """Nothing after `synced` is there: everybody resends from the length that the next append finds."""
        file.pending = []
        for _, durable in file.waiting:
            if not durable.done():
                durable.set_exception(_explained(file.name, exc) if isinstance(exc, OSError) else exc)
        file.waiting = []
        if self._files.get(file.name) is file:
            del self._files[file.name]
        file.is_over = True

    async def _on_thread(self, name: str, act: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, act)
        except OSError as exc:
            raise _explained(name, exc) from exc


def _explained(name: str, exc: OSError) -> PaddockError:
    """An operating system's error in our words."""
    if exc.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR):
        return Refused(f"{name}: a part of it is a symlink, or a file where a directory is wanted, or the reverse")
    if exc.errno == errno.ENAMETOOLONG:
        return Refused(f"{name}: longer than this file system takes")
    return Broken(f"{name}: {exc.strerror}")


@contextmanager
def _parent(root: int, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """The descriptor of the directory that a name is in, and its last part. `OSError` where a part is a symlink."""
    *parts, last = name.split("/")
    with contextlib.ExitStack() as opened:
        directory = root
        for part in parts:
            directory = _step_into(directory, part, make=make)
            opened.callback(os.close, directory)
        yield directory, last


def _step_into(directory: int, part: str, *, make: bool) -> int:
    for _ in range(_CREATE_ATTEMPTS if make else 1):
        try:
            return os.open(part, _DIRECTORY, dir_fd=directory)
        except FileNotFoundError:
            if not make:
                raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o700, dir_fd=directory)
            os.fsync(directory)
        # Again and again: retention may remove a directory that was empty just then.
    raise FileNotFoundError(errno.ENOENT, f"{part} was removed again and again")


def _open_to_append(root: int, name: str) -> int:
    with _parent(root, name, make=True) as (directory, last):
        try:
            descriptor = os.open(last, os.O_RDWR | _FILE, dir_fd=directory)
        except FileNotFoundError:
            descriptor = os.open(last, os.O_RDWR | os.O_CREAT | _FILE, 0o600, dir_fd=directory)
            os.fsync(directory)
    _check_plain(descriptor, name)
    # Whatever a killed server had written is durable before it counts.
    os.fdatasync(descriptor)
    return descriptor


def _check_plain(descriptor: int, name: str) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused(f"{name}: not a plain file")


def _append(descriptor: int, data: bytes, offset: int) -> None:
    """Write and sync. If that does not succeed nothing is left beyond `offset`."""
    faults.at("archive.appending")
    try:
        _write_all(descriptor, data, offset)
        os.fdatasync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, offset)
        raise
    faults.at("archive.appended")


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written


def _length(root: int, name: str) -> int | None:
    try:
        with _reading(root, name) as descriptor:
            os.fdatasync(descriptor)
            return os.fstat(descriptor).st_size
    except FileNotFoundError:
        return None


def _read(root: int, name: str, offset: int, limit: int | None) -> bytes:
    try:
        with _reading(root, name) as descriptor:
            there = max(0, os.fstat(descriptor).st_size - offset)
            wanted = there if limit is None else min(limit, there)
            return b"".join(_pieces(descriptor, offset, wanted))
    except FileNotFoundError:
        raise Missing(f"{name}: no such file") from None


def _pieces(descriptor: int, offset: int, wanted: int) -> Iterator[bytes]:
    while wanted > 0 and (piece := os.pread(descriptor, wanted, offset)):
        yield piece
        offset, wanted = offset + len(piece), wanted - len(piece)


@contextmanager
def _reading(root: int, name: str) -> Iterator[int]:
    with _parent(root, name) as (directory, last):
        descriptor = os.open(last, os.O_RDONLY | _FILE, dir_fd=directory)
    _check_plain(descriptor, name)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _replace(root: int, name: str, data: bytes) -> None:
    temporary = f"{_TEMPORARY}{secrets.token_hex(8)}"
    with _parent(root, name, make=True) as (directory, last):
        _check_replaceable(directory, last, name)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o600, dir_fd=directory)
        try:
            _write_all(descriptor, data, 0)
            os.fsync(descriptor)
            faults.at("archive.writing")
            os.rename(temporary, last, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise
        finally:
            os.close(descriptor)
        os.fsync(directory)
        faults.at("archive.written")


def _check_replaceable(directory: int, last: str, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(last, dir_fd=directory, follow_symlinks=False).st_mode):
            raise Refused(f"{name}: not a plain file")


def _list(root: int, prefix: str) -> Iterator[tuple[str, int]]:
    """Name and length of each plain file below a directory; what could not have been put there by name is left out."""
    try:
        with contextlib.ExitStack() as opened:
            directory, last = opened.enter_context(_parent(root, prefix)) if prefix else (root, ".")
            top = os.open(last, _DIRECTORY, dir_fd=directory)
            opened.callback(os.close, top)
            yield from _below(top, prefix)
    except (FileNotFoundError, NotADirectoryError):
        return


def _below(directory: int, prefix: str) -> Iterator[tuple[str, int]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            name = f"{prefix}/{entry.name}" if prefix else entry.name
            if not _is_name(name):
                continue
            if entry.is_file(follow_symlinks=False):
                yield name, entry.stat(follow_symlinks=False).st_size
            elif entry.is_dir(follow_symlinks=False):
                below = os.open(entry.name, _DIRECTORY, dir_fd=directory)
                try:
                    yield from _below(below, name)
                finally:
                    os.close(below)


def _is_name(text: str) -> bool:
    try:
        archive_name(text)
    except Refused:
        return False
    return True


def _remove(root: int, prefix: str) -> None:
    try:
        with _parent(root, prefix) as (directory, last):
            if stat.S_ISDIR(os.stat(last, dir_fd=directory, follow_symlinks=False).st_mode):
                shutil.rmtree(last, dir_fd=directory)
            else:
                os.unlink(last, dir_fd=directory)
    except FileNotFoundError:
        pass
    _remove_empty(root, prefix)


def _remove_empty(root: int, prefix: str) -> None:
    """Remove the directories above that hold nothing any more."""
    while "/" in prefix:
        prefix = prefix.rpartition("/")[0]
        try:
            with _parent(root, prefix) as (directory, last):
                os.rmdir(last, dir_fd=directory)
        except FileNotFoundError:
            continue
        except OSError:
            return
