"""The decompressed bytes of a source, and a check of their first ones: text in UTF-8, or something else."""

import codecs
import gzip
import itertools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from data_pipelines.installation import install_command

BLOCK_BYTES = 1 << 20
HEAD_BYTES = 1 << 20  # that are looked at before anything is read
# Read at a time: 4 bytes can expand to 128 KiB, so these to 64 MiB at most.
ZSTD_BYTES = 1 << 11
ZSTD_WINDOW = 1 << 31  # bytes of memory for `zstd --long=31`, the largest; other files take less
# Format → the bytes that such a file starts with.
FORMATS = {
    "gzip": b"\x1f\x8b",
    "Zstandard": b"\x28\xb5\x2f\xfd",
    "xz": b"\xfd7zXZ\0",
    "bzip2": b"BZh91AY&SY",
    "zip": b"PK\x03\x04",
    "Parquet": b"PAR1",
}
ENDINGS = {"gzip": ".gz", "Zstandard": ".zst", "Parquet": ".parquet"}  # of the formats that are read
MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # UTF-32-LE starts as UTF-16-LE does


def import_reader(module: str, source: str) -> Any:
    """Import an optional package; the error tells how to install it."""
    try:
        return __import__(module, fromlist=["_"])
    except ImportError as error:
        raise ImportError(
            f"{source}: reading it needs the package {module.split('.')[0]}, which is not installed "
            f"({error}); run {install_command('formats')}"
        ) from error


def text_blocks(source: str, note_bytes: Callable[[int], None] = lambda number: None) -> Iterator[bytes]:
    """The decompressed bytes of a text file; "\\n" ends every line, also of files with "\\r" alone.

    Args:
      note_bytes: called with a number of bytes, before decompression, whenever some are read.

    Raises:
      ValueError: damaged or cut-off compression, or a file that is not text in UTF-8.
    """
    blocks = _decompressed(source, note_bytes)
    head = b""
    while len(head) < HEAD_BYTES and (block := next(blocks, b"")):
        head += block
    _check_head(head, source)
    # Mac OS up to 9 ended lines with "\r". The last byte may be half of a "\r\n".
    has_old_ends = b"\r" in head[:-1] and b"\n" not in head
    parts = (head[start : start + BLOCK_BYTES] for start in range(0, len(head), BLOCK_BYTES))
    for block in itertools.chain(parts, blocks):
        yield block.replace(b"\r", b"\n") if has_old_ends else block


def _decompressed(source: str, note_bytes: Callable[[int], None]) -> Iterator[bytes]:
    """The bytes of a file, decompressed if its name says so."""
    name = source.lower()
    damage: tuple[type[Exception], ...] = ()
    try:
        with open(source, "rb") as file:
            if name.endswith(".gz"):
                damage = (gzip.BadGzipFile, EOFError, zlib.error)
                blocks = _blocks(gzip.GzipFile(fileobj=file))
            elif name.endswith(".zst"):
                zstandard = import_reader("zstandard", source)
                damage = (EOFError, zstandard.ZstdError)
                blocks = _zstd_blocks(file, zstandard)
            else:
                blocks = _blocks(file)
            noted = 0
            for block in blocks:
                note_bytes(file.tell() - noted)
                noted = file.tell()
                yield block
            note_bytes(file.tell() - noted)  # what follows the last block, such as a checksum
    except damage as error:
        raise ValueError(
            f"{source}: damaged or cut-off compressed data ({error}); fetch the file again, or correct its "
            "name if it is not compressed"
        ) from error


def _blocks(file: Any) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block


def _zstd_blocks(file: Any, zstandard: Any) -> Iterator[bytes]:
    """The bytes of all frames of a file; raises EOFError if the last one is cut off, which `stream_reader`
    takes for the end of the text."""
    frame = None
    while data := file.read(ZSTD_BYTES):
        while data:
            frame = frame or zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
            block = frame.decompress(data)
            for start in range(0, len(block), BLOCK_BYTES):
                yield block[start : start + BLOCK_BYTES]
            data = b""
            if frame.eof:
                data, frame = frame.unused_data, None
    if frame is not None:
        raise EOFError("the last frame has no end")


def _check_head(head: bytes, source: str) -> None:
    """Raises ValueError if the first bytes of a text file show that it is none, or not in UTF-8."""
    for name, start in FORMATS.items():
        if head.startswith(start):
            advice = f"give it the ending {ENDINGS[name]}" if name in ENDINGS else "decompress it"
            raise ValueError(f"{source}: got {name} data, expected text in UTF-8; {advice}")
    if head.startswith(MARKS) or _has_wide_characters(head):
        raise ValueError(
            f"{source}: got text in UTF-16 or UTF-32, expected UTF-8; convert it, for example with "
            f"`iconv -f UTF-16LE -t UTF-8` (or UTF-16BE)"
        )


def _has_wide_characters(head: bytes) -> bool:
    """Whether the blanks and line ends of a text are of two or four bytes.

    Such a text is valid UTF-8, with a NUL beside every ASCII character.
    """
    narrow = (b" ", b"\n")
    num_nul, num_narrow = head.count(b"\0"), sum(map(head.count, narrow))
    if not num_nul:
        return False
    if not num_narrow:
        return 3 * num_nul >= len(head)
    after = sum(head.count(character + b"\0") for character in narrow)
    before = sum(head.count(b"\0" + character) for character in narrow)
    return 2 * max(after, before) > num_narrow
