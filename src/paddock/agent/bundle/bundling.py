"""Makes one file that holds the whole agent, for any Python, the same bytes each time.

Effects: none; whoever asked for the bytes writes them.
"""

import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path, PurePath

from paddock.core.errors import Broken, Missing, Refused

ROOMS = ("core", "wire", "hands", "agent")
VENDORED = ("websockets", "python-socks", "PyYAML")
"""What the agent needs beside the standard library; each is as good without its compiled part, if slower."""

_PACKAGE = Path(__file__).parents[2]
_FIRST = "agent/unpacking.py"
_SHEBANG = b"#!/usr/bin/env python3\n"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
_LEFT_OUT = frozenset({".pyc", ".so", ".c", ".pyx", ".pxd", ".pyi", ".pyd", ".pth"})
_NOTES = frozenset({"INSTALLER", "REQUESTED", "RECORD", "direct_url.json"})  # of the machine, not of the package
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def archive(extensions: Sequence[str] = ()) -> bytes:
    """The bundle. `extensions` are names of installed distributions that go with it, with their skills.

    Missing if one is not installed; Refused if one has a compiled part: no file suits every machine then.
    """
    files = dict(_files(extensions))
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    first = (_PACKAGE / _FIRST).read_text("utf-8").replace('DIGEST = ""', f'DIGEST = "{digest.hexdigest()[:16]}"')
    return _zipped({**files, "__main__.py": first.encode()})


def _zipped(files: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    made.write(_SHEBANG)  # within the archive: the places that it notes are counted from here
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as opened:
        for name in sorted(files):
            about = zipfile.ZipInfo(name, _LONG_AGO)
            about.compress_type = zipfile.ZIP_DEFLATED
            about.create_system = 3
            about.external_attr = 0o100644 << 16
            opened.writestr(about, files[name])
    return made.getvalue()


def _files(extensions: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    yield from own()
    for name in _closure([*VENDORED, *extensions]):
        found = _installed(name)
        if name in VENDORED:
            yield from vendored(found)
        else:
            yield from _extension(found)


def own() -> Iterator[tuple[str, bytes]]:
    """Paddock itself: the rooms that the agent stands on, and the licence."""
    for path in [_PACKAGE / "__init__.py", *(path for room in ROOMS for path in (_PACKAGE / room).rglob("*.py"))]:
        yield f"paddock/{path.relative_to(_PACKAGE).as_posix()}", path.read_bytes()
    try:
        yield from _notes(distribution("paddock"))
    except PackageNotFoundError:
        # It runs out of a tree of sources, where the licence lies beside.
        yield "LICENSE", (_PACKAGE.parents[1] / "LICENSE").read_bytes()


def vendored(found: Distribution) -> Iterator[tuple[str, bytes]]:
    """The pure part of an installed distribution, by its own record, with its licence."""
    for file in found.files or ():
        if _is_code(file) and not file.parts[0].startswith("_"):
            yield file.as_posix(), Path(str(found.locate_file(file))).read_bytes()
    yield from _notes(found)


def _extension(found: Distribution) -> Iterator[tuple[str, bytes]]:
    name = found.metadata["Name"]
    compiled = [str(file) for file in found.files or () if file.suffix in (".so", ".pyd")]
    if compiled:
        raise Refused(f"{name}: {compiled[0]} is compiled", hint="install it with pip beside Paddock, there")
    files = [file for file in found.files or () if _is_code(file)]
    for file in files:
        yield file.as_posix(), Path(str(found.locate_file(file))).read_bytes()
    if not files:
        yield from _edited(found)
    yield from _notes(found)


def _edited(found: Distribution) -> Iterator[tuple[str, bytes]]:
    """One that is installed as a link to its sources: the packages that its entry points name."""
    for package in sorted({point.value.partition(":")[0].partition(".")[0] for point in found.entry_points}):
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise Broken(f"{found.metadata['Name']}: its package {package} is not found")
        root = Path(spec.origin).parent
        for path in root.rglob("*"):
            relative = path.relative_to(root.parent)
            if path.is_file() and _is_code(relative):
                yield relative.as_posix(), path.read_bytes()


def _notes(found: Distribution) -> Iterator[tuple[str, bytes]]:
    """What a distribution says of itself: metadata, entry points, licences."""
    for file in found.files or ():
        if file.parts[0].endswith(".dist-info") and file.name not in _NOTES:
            yield file.as_posix(), Path(str(found.locate_file(file))).read_bytes()


def _is_code(file: PurePath) -> bool:
    is_inside = ".." not in file.parts and not file.is_absolute()
    return (
        is_inside
        and "__pycache__" not in file.parts
        and not file.parts[0].endswith(".dist-info")
        and file.suffix not in _LEFT_OUT
    )


def _closure(names: Iterable[str]) -> list[str]:
    """With what they need, as far as that is installed; what Paddock has, and what depends on the machine, is not."""
    found: dict[str, None] = {}
    left = list(names)
    while left:
        name = left.pop(0)
        if name in found or name.lower() == "paddock":
            continue
        found[name] = None
        for requirement in _installed(name).requires or ():
            wanted = _NAME.match(requirement)
            if wanted is not None and ";" not in requirement:
                left.append(next((each for each in VENDORED if each.lower() == wanted[0].lower()), wanted[0]))
    return list(found)


def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise Missing(f"{name}: is not installed here", hint=f"pip install {name}") from None
