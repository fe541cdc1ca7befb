"""The work of `python -m honest_persona prepare`: a folder of parts is written, and uploaded where that is asked for.

What goes up is an allow-list: the files of the folder's manifest whose names prepare gives, after a search for secrets.
"""

import re
import shutil
import tempfile
from pathlib import Path

from honest_persona.base.console import one_line, say
from honest_persona.base.errors import UserError
from honest_persona.base.manifest import MANIFEST, Damaged, check, listed
from honest_persona.data.parts import EXAMPLE, Parts
from honest_persona.generation.prepare.folder import ALLOWED, KIND, print_prepared
from honest_persona.generation.prepare.folder import prepare as write_parts
from honest_persona.generation.prepare.items import Choice
from honest_persona.hub.leaks import check_secrets
from honest_persona.hub.upload import Commit, Upload, check_repo

_LICENSE = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


def prepare(
    *,
    dataset: str | None,
    templates: str | None,
    parts: str | None,
    output: str,
    group: str | None,
    label: str | None,
    label_values: str | None,
    seed: int,
    push: str | None,
    private: bool,
    license: str | None,
) -> None:
    """The arguments are those of the command line.

    Raises:
        UserError: an argument is wrong, or as `generation.prepare.folder.prepare` and `push_prepared`.
    """
    if push is not None:
        check_repo("--push", push)
    elif private:
        raise UserError("--private: is for an upload; add --push user/name")
    if license is not None and not _LICENSE.fullmatch(license):
        raise UserError(f"--license: {license!r} is no licence as the Hub names it, such as cc-by-4.0")
    needed = {"--dataset": dataset, "--templates": templates, "--parts": parts}
    if dataset is not None and templates is not None and parts is not None:
        values = None if label_values is None else tuple(value.strip() for value in label_values.split(","))
        choice = Choice(Parts.of(parts), group, label, values, seed)
        print_prepared(write_parts(dataset, templates, choice, Path(output), license), Path(output))
    elif push is None or any(value is not None for value in needed.values()):
        missing = [flag for flag, value in needed.items() if value is None]
        raise UserError(f"{', '.join(missing)} is missing; parts are written as {EXAMPLE}")
    if push is not None:
        commit = push_prepared(Path(output), push, private)
        if commit.others:
            say(f"was in the repo before, and stays: {', '.join(map(one_line, commit.others))}")
        say(f"pushed and read back: {commit.url}")


def push_prepared(folder: Path, repo: str, private: bool = False) -> Commit:
    """Upload a folder that `prepare` wrote to a dataset repo, which is made where it does not exist, and read it back.

    Raises:
        UserError: no such folder, or it was changed; a secret in a file; no token; the Hub refuses the upload, or
            gives back other files than it got.
    """
    check_repo("--push", repo)
    try:
        about = check(folder)
        names = sorted({MANIFEST, *listed(folder)})
    except Damaged as damaged:
        raise UserError(f"{folder}: {damaged}; it is no folder that prepare wrote, so prepare it anew") from damaged
    if about.get("kind") != KIND or (foreign := [name for name in names if not ALLOWED.fullmatch(name)]):
        what = f"{one_line(foreign[0])} is no file of prepare" if about.get("kind") == KIND else "prepare wrote it not"
        raise UserError(f"{folder}: {what}; nothing was uploaded, prepare it anew")
    with tempfile.TemporaryDirectory(prefix="honest_persona-push-") as fresh:
        staged = Path(fresh)
        for name in names:
            if any(path.is_symlink() for path in (folder / name, (folder / name).parent)):
                raise UserError(f"{folder / name} is a link, and what it points to may be anything; prepare it anew")
            (staged / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / name, staged / name)
        check(staged)
        check_secrets(staged, [Path("env.json")], "the dataset or the templates, and prepare it anew")
        files = {name: (staged / name).stat().st_size for name in names}
        upload = Upload(
            staged, files, repo, "dataset", lambda name: bool(ALLOWED.fullmatch(name)), "Parts and texts", private
        )
        return upload.run(
            f"{folder} is whole; to push it later: python -m honest_persona prepare --output {folder} --push {repo}"
        )
