"""Folders for things with any name, such as the encoders of --init_from: one for each name."""

import hashlib
from collections.abc import Iterable

MAX_BYTES = 200  # of a folder's name; file systems take 255, and temporary names are longer
DIGEST_LETTERS = 8


def folder_names(names: Iterable[str]) -> dict[str, str]:
    """Name → its folder: the name with "_" for everything but letters, digits and "-._=".

    Of several names with the same folder (a/b and a_b, or Ab and ab, which some file systems do not tell
    apart) the later ones get a digest of the name appended, and a long name ends with one. "" stays "", which
    adds no folder to a path.
    """
    folders: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        if name in folders:
            continue
        folder = "".join(letter if letter.isalnum() or letter in "-._=" else "_" for letter in name)
        if folder.strip(".") == "":
            folder = "_" * len(folder)  # "." and ".." are other directories
        is_long = len(folder.encode()) > MAX_BYTES
        if folder.casefold() in taken or is_long:
            digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:DIGEST_LETTERS]
            folder = f"{_last_bytes(folder, MAX_BYTES - DIGEST_LETTERS - 1)}-{digest}"
        taken.add(folder.casefold())
        folders[name] = folder
    return folders


def _last_bytes(text: str, limit: int) -> str:
    """The end of `text` that has at most `limit` bytes in UTF-8; names of paths differ at the end."""
    return text.encode()[-limit:].decode("utf-8", "ignore")
