"""Publish an adapter on the Hub: the allow-list alone, with a model card, read back and compared.

    pushed = push("checkpoints/my-run", "user/name")

or `python -m honest_persona push --adapter checkpoints/my-run --repo user/name`. The adapter's own folder is only read.
All files go up in one commit, so that a repo is never half an adapter.
"""

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from honest_persona.base.console import say
from honest_persona.base.errors import UserError
from honest_persona.base.ranks import rank
from honest_persona.config.keys import RunConfig
from honest_persona.config.objectives import spec_of
from honest_persona.hub.audited import audit_of
from honest_persona.hub.deltas import stage_delta
from honest_persona.hub.leaks import check_secrets
from honest_persona.hub.model_card import write_model_card
from honest_persona.hub.staging import REWARD_MODEL, StagedFiles, published_base, stage
from honest_persona.hub.upload import Upload, check_repo, is_repo
from honest_persona.modeling.adapters.published import ALLOWED
from honest_persona.modeling.base_model import base_of
from honest_persona.modeling.sparse.delta import is_delta


@dataclass(frozen=True)
class Pushed:
    """What was uploaded, or would be."""

    url: str
    """of the commit; empty for a dry run"""
    files: dict[str, int]
    """bytes by path in the repo; each was read back and is equal"""
    folder: Path | None
    """where the files are staged; None where they are uploaded, and the folder is gone"""
    left_out: tuple[str, ...] = ()
    """what else the adapter's folder holds"""
    others: tuple[str, ...] = ()
    """files that were in the repo before, are no part of an adapter, and stay"""
    notices: tuple[str, ...] = ()


def push(
    adapter: str | Path,
    repo: str,
    private: bool = False,
    revision: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
    report: bool = False,
    dry_run: bool = False,
) -> Pushed:
    """Upload the adapter, or a delta, with a model card to the repo, which is made if need be, and read it back.

    Args:
        private: make the repo private. A public repo of this name is an error.
        revision: a branch, made if it does not exist.
        base_model: the Hub id to publish in place of a base model that is a folder of this machine.
        license: of the adapter, an identifier of the Hub, as "apache-2.0".
        report: upload eval/report.html too, which shows transcripts of the data.
        dry_run: stage the files and their model card, and upload nothing.

    Raises:
        UserError: no adapter, a secret in a file, no token, the Hub refuses the upload, or gives back other files than
            it got. After the first upload the message says what was done and where the staged files are kept.
    """
    check_repo("--repo", repo, has_token=not dry_run)
    folder = Path(tempfile.mkdtemp(prefix="honest_persona-push-"))
    try:
        if is_delta(adapter):
            staged: StagedFiles = stage_delta(Path(adapter), folder, repo, base_model, license)
        else:
            found = stage(Path(adapter), folder, base_model, report)
            audited, told = audit_of(Path(adapter), found.card)
            staged = replace(found, notices=(*found.notices, *told))
            write_model_card(folder, found.card, repo, license, audited)
        check_secrets(folder, [Path("env.json"), Path(adapter, "env.json")])
    except UserError:
        shutil.rmtree(folder)
        raise
    if dry_run:
        return Pushed("", staged.files, folder, staged.left_out, notices=staged.notices)
    files = staged.files
    message = "Delta" if is_delta(adapter) else "Honest persona"
    upload = Upload(folder, files, repo, "model", set(ALLOWED).__contains__, message, private, revision)
    commit = upload.run(f"all files are kept in {folder}, and the adapter's folder is as it was")
    shutil.rmtree(folder)
    return Pushed(commit.url, files, None, staged.left_out, commit.others, staged.notices)


def check_upload(config: RunConfig) -> None:
    """Before a run with `push_to_hub`: find what would certainly stop its upload.

    Raises:
        UserError: no hub_model_id, a base model that is a folder of this machine, or an objective or a tuning that
            leaves no adapter to publish.
    """
    if not config.trainer.get("push_to_hub"):
        return
    repo = config.trainer.get("hub_model_id")
    if spec_of(config.objective).makes_reward:
        raise UserError(f"push_to_hub: objective {config.objective} makes a reward model, and {REWARD_MODEL}")
    if config.tuning == "full":
        raise UserError(
            "push_to_hub: tuning full makes a whole model, and adapters alone are pushed by a run; export it "
            "afterwards (--format merged), and upload that folder with `hf upload`"
        )
    if not is_repo(repo):
        raise UserError(f"hub_model_id: push_to_hub needs a repo as user/name, got {repo!r}")
    published_base(base_of(config.model, config.model_revision).name)


def push_after_training(config: RunConfig, folder: Path) -> None:
    """Upload a finished run where `push_to_hub` asks for it. Every rank may call this; the first one uploads.

    A failed upload never ends a run: the error is printed, with the command to upload later.
    """
    if config.trainer.get("push_to_hub") and rank() == 0:
        push_run(config, folder)


def push_run(config: RunConfig, folder: Path) -> None:
    """Upload a run, or one of its checkpoints, to the repo of its config; print the result."""
    repo, private = config.trainer["hub_model_id"], bool(config.trainer.get("hub_private_repo"))
    revision = config.trainer.get("hub_revision")
    try:
        say(f"pushed: {push(folder, repo, private=private, revision=revision).url}")
    except (UserError, OSError) as error:  # OSError: an old checkpoint may have been deleted
        flags = ["--private"] * private + [f"--revision {revision}"] * (revision is not None)
        command = " ".join(["python -m honest_persona push --adapter", str(folder), "--repo", repo, *flags])
        say(f"not pushed: {error}\nnothing is lost; to push it later: {command}")
