"""What a file is by its first bytes, where this is not what its ending says."""

from pathlib import Path

from honest_persona.data.sources.text import COMPRESSED

_HEAD_BYTES = 512
_SIGNATURES = {
    b"PK\x03\x04": "zip archive",
    b"PK\x05\x06": "zip archive",
    b"\x1f\x8b": "gzip file",
    b"BZh": "bzip2 file",
    b"\x28\xb5\x2f\xfd": "zstd file",
    b"\xfd7zXZ\0": "xz file",
    b"7z\xbc\xaf\x27\x1c": "7z archive",
    b"PAR1": "Parquet file",
    b"ARROW1": "Arrow file",
    b"SQLite format 3\0": "SQLite database",
    b"%PDF": "PDF document",
    b"\xd0\xcf\x11\xe0": "spreadsheet of an old Excel",
}
_BY_ENDING = {
    ".gz": "gzip file",
    ".bz2": "bzip2 file",
    ".zst": "zstd file",
    ".parquet": "Parquet file",
    ".arrow": "Arrow file",
}
REMEDIES = {
    ".zip": "unpack it and give the folder",
    ".tar": "unpack it and give the folder",
    ".tgz": "unpack it and give the folder",
    ".7z": "unpack it and give the folder",
    ".rar": "unpack it and give the folder",
    ".xlsx": "save the sheet as CSV UTF-8 in the spreadsheet program",
    ".xls": "save the sheet as CSV UTF-8 in the spreadsheet program",
    ".ods": "save the sheet as CSV in UTF-8 in the spreadsheet program",
    ".pkl": "load it and save its rows, with pandas: to_parquet",
    ".pickle": "load it and save its rows, with pandas: to_parquet",
    ".pt": "load it and write its rows as JSON Lines",
    ".db": "export the table as CSV",
    ".sqlite": "export the table as CSV",
    ".yaml": "write its entries as JSON Lines",
    ".yml": "write its entries as JSON Lines",
    ".feather": "save it as .parquet, with pandas: to_parquet",
}
"""What to do with files of endings that are not read."""
_PAGES = (b"<!doctype html", b"<html")
_POINTER = b"version https://git-lfs.github.com/spec/"


def kind_problem(path: Path) -> str | None:
    """The reason to reject a whole file, from its first bytes. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    wanted = _BY_ENDING.get(path.suffix.lower())
    if not head:
        return "empty_file"
    if head.startswith(_POINTER):
        return "git_lfs_pointer"
    if head.lstrip().lower().startswith(_PAGES):
        return "another_kind:web page"
    found = next((kind for signature, kind in _SIGNATURES.items() if head.startswith(signature)), None)
    if found is None and wanted is not None and wanted != "Arrow file":  # a stream of Arrow has no signature
        return f"damaged_file:{wanted}"
    return None if found == wanted or (found is None) else f"another_kind:{found}"


def bare_ending(path: Path) -> str:
    """The ending in small letters, without that of a compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""
