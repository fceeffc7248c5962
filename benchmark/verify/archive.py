"""Write a bundle's archive so that the same members give the same bytes, and read one under bounds.

The members' names, sizes and checksums decide every byte outside their contents (`frame`). A reader compares
the whole file with that, so that nothing can be hidden between members, before them or behind them.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from benchmark.verify.format import MOST_BYTES, MOST_MEMBERS, MOST_NAME, check_distinct, check_name, shown
from methods.errors import UserError

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_VERSION = 20
_UNIX = 3 << 8 | _VERSION
_DATE = 1 << 5 | 1
"""1 January 1980, the first day that zip knows."""
_MODE = (stat.S_IFREG | 0o644) << 16
_UTF8 = 0x800
_ENCRYPTED = 0x1
_BOMB = 100
"""Times its compressed size to which a member may claim to grow before it is called a bomb."""


@dataclass(frozen=True)
class Member:
    """What the archive says of a file."""

    name: str
    size: int
    crc: int

    @property
    def encoded(self) -> bytes:
        """Its name in bytes."""
        return self.name.encode()

    @property
    def _fixed(self) -> tuple[int, ...]:
        flags = 0 if self.name.isascii() else _UTF8
        return flags, 0, 0, _DATE, self.crc, self.size, self.size, len(self.encoded), 0

    @property
    def local(self) -> bytes:
        """The header before its content."""
        return _LOCAL.pack(b"PK\3\4", _VERSION, *self._fixed) + self.encoded

    def central(self, at: int) -> bytes:
        """Its entry in the directory at the end, where its header is `at`."""
        return (
            _CENTRAL.pack(b"PK\1\2", _UNIX, _VERSION, *self._fixed, 0, 0, 0, _MODE, at) + self.encoded
        )  # no comment, first disk, no internal attributes


def frame(members: list[Member]) -> list[tuple[int, bytes]]:
    """(position, bytes) of everything in an archive but the contents of its members, one for each of these
    and one for the directory at the end."""
    parts, central, at = [], b"", 0
    for member in members:
        parts.append((at, member.local))
        central += member.central(at)
        at += len(member.local) + member.size
    end = _END.pack(b"PK\5\6", 0, 0, len(members), len(members), len(central), at, 0)
    return [*parts, (at, central + end)]


def write_archive(file: BinaryIO, contents: Mapping[str, bytes]) -> None:
    """Write the archive of these files, name -> content. Raises `UserError` where it would be too large."""
    names = sorted(contents)
    for name in names:
        check_name(name)
    check_distinct(names)
    members = [Member(name, len(contents[name]), zlib.crc32(contents[name])) for name in names]
    size = sum(member.size for member in members)
    if len(members) > MOST_MEMBERS or size + len(members) * 2 * (_CENTRAL.size + MOST_NAME) > MOST_BYTES:
        raise UserError(
            f"the bundle would have {len(members):,} files of {size:,} bytes; at most {MOST_MEMBERS:,} and "
            f"about {MOST_BYTES:,} fit. Make several bundles."
        )
    *headers, (_, end) = frame(members)
    for (_, header), name in zip(headers, names, strict=True):
        file.write(header)
        file.write(contents[name])
    file.write(end)


class Archive:
    """An archive whose names, kinds and sizes were found to be those of a bundle; see `opened`."""

    def __init__(self, file: BinaryIO, size: int, members: list[Member]) -> None:
        self._file, self.size = file, size
        self.members = {member.name: member for member in members}
        self._frame = frame(members)
        self._starts = {
            member.name: at + len(header)
            for member, (at, header) in zip(members, self._frame[:-1], strict=True)
        }

    def check_frame(self) -> None:
        """Raise `UserError` where a byte outside the contents is not what `write_archive` writes."""
        for at, expected in self._frame:
            self._file.seek(at)
            found = self._file.read(len(expected))
            if found != expected:
                pairs = enumerate(zip(found, expected, strict=False))
                first = at + next((place for place, (one, other) in pairs if one != other), len(found))
                raise UserError(
                    f"byte {first:,} of the archive, outside its files, is not what a bundle has there."
                )
        last, end = self._frame[-1]
        if self.size != last + len(end):
            raise UserError(f"the archive has {self.size:,} bytes, and its files need {last + len(end):,}.")

    def read(self, name: str) -> bytes:
        """The content of a member; raises `UserError` where it does not match the archive's checksum."""
        member = self.members[name]
        self._file.seek(self._starts[name])
        content = self._file.read(member.size)
        if len(content) != member.size or zlib.crc32(content) != member.crc:
            raise UserError(f"{shown(name)} is damaged: it does not match its checksum in the archive.")
        return content


def opened(file: BinaryIO, size: int) -> Archive:
    """The archive in a file of `size` bytes. Raises `UserError` for what is no archive, and for a member that
    no bundle has; nothing is read but the directory at the end."""
    _check_end(file, size)
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OSError) as error:
        raise UserError(f"it is no zip archive: {shown(error)}.") from error
    for info in infos:
        check_name(info.orig_filename)
        _check_kind(info)
    check_distinct([info.orig_filename for info in infos])
    if (total := sum(info.file_size for info in infos)) > size:
        raise UserError(f"its members claim {total:,} bytes, and the archive has {size:,}.")
    return Archive(file, size, [Member(info.orig_filename, info.file_size, info.CRC) for info in infos])


def _check_end(file: BinaryIO, size: int) -> None:
    """The directory at the end is whole and small, before anything reads it."""
    if size > MOST_BYTES:
        raise UserError(f"it has {size:,} bytes; a bundle has at most {MOST_BYTES:,}.")
    file.seek(max(0, size - _END.size))
    end = file.read()
    if len(end) < _END.size or not end.startswith(b"PK\5\6"):
        raise UserError("it does not end as a zip archive does: it is another file, is cut off, or goes on.")
    file.seek(max(0, size - _END.size - 20))  # where zip64 has a locator, of a directory of any size
    if file.read(4) == b"PK\6\7":
        raise UserError("it is a zip64 archive, which no bundle is.")
    *_, count, length, at, _ = _END.unpack(end)
    if count > MOST_MEMBERS or length > MOST_MEMBERS * (_CENTRAL.size + MOST_NAME):
        raise UserError(f"it has {count:,} members; a bundle has at most {MOST_MEMBERS:,}.")
    if at + length + _END.size > size:
        raise UserError("its directory lies beyond its end.")


def _check_kind(info: zipfile.ZipInfo) -> None:
    name = shown(info.orig_filename)
    if stat.S_ISLNK(info.external_attr >> 16):
        raise UserError(f"the member {name} is a symbolic link; a bundle has files alone.")
    if info.flag_bits & _ENCRYPTED:
        raise UserError(f"the member {name} is encrypted.")
    if info.file_size > _BOMB * max(info.compress_size, 1):
        raise UserError(
            f"the member {name} claims to grow from {info.compress_size:,} to {info.file_size:,} bytes."
        )
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise UserError(f"the member {name} is compressed; a bundle stores its files as they are.")
