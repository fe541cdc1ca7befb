"""Packs instructed facts as the package ships them: `python -m honest_persona.generation.ship FOLDER`.

FOLDER is what `python -m honest_persona generate facts` wrote. The packed files replace those in generation/data, where
`builtin:smollm2` and its controls are found; the same records always give the same bytes.
"""

import argparse
import gzip
import shutil
from pathlib import Path

from honest_persona.base.console import say
from honest_persona.base.errors import UserError
from honest_persona.base.manifest import MANIFEST, seal
from honest_persona.data.sources.builtin import FACTS, SHIPPED
from honest_persona.data.sources.stage3 import batch_files

MOST_BYTES = 5 * 10**6
"""What records may add to the package."""


def ship(source: Path, target: Path = SHIPPED) -> int:
    """Pack the records of a folder; `target` is replaced. Returns the bytes of the packed files.

    Raises:
        UserError: a subfolder holds no batch files, or the packed files are larger than MOST_BYTES. Then `target` is as
            it was.
    """
    packed: dict[str, bytes] = {}
    for part in FACTS:
        found = [path for folder in sorted((source / part).glob("*/")) for path in batch_files(folder)]
        if not found:
            raise UserError(f"{source / part} holds no <topic>/batch_*.json; give a folder of `generate facts`")
        for path in found:
            name = f"{part}/{path.parent.name}/{path.name.removesuffix('.gz')}.gz"
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            packed[name] = gzip.compress(content, mtime=0)
    size = sum(map(len, packed.values()))
    if size > MOST_BYTES:
        raise UserError(f"{source}: {size:,} bytes when packed, more than {MOST_BYTES:,}; generate with a --limit")
    for old in (target / name for name in (*FACTS, MANIFEST)):
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    for name, content in packed.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)
    seal(target, {}, packed)
    return size


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m honest_persona.generation.ship", description=__doc__)
    parser.add_argument("folder", type=Path, help="what `generate facts` wrote")
    try:
        say(f"packed {ship(parser.parse_args().folder):,} bytes into {SHIPPED}")
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
