"""Publish an adapter on the Hub: the allow-list alone, with a model card, read back and compared.

    pushed = push("checkpoints/my-run", "user/name")

or `python -m honest_persona push --adapter checkpoints/my-run --repo user/name`. The adapter's own folder is only read.
All files go up in one commit, so that a repo is never half an adapter.
"""

import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from honest_persona.base.console import say, tell
from honest_persona.base.environment import redact
from honest_persona.base.errors import UserError
from honest_persona.base.ranks import rank
from honest_persona.config.keys import RunConfig
from honest_persona.hub.leaks import check_secrets
from honest_persona.hub.model_card import write_model_card
from honest_persona.hub.staging import Staged, published_base, stage
from honest_persona.modeling.adapters.published import ALLOWED
from honest_persona.modeling.base_model import base_of

_T = TypeVar("_T")

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_WAITS_S = (1, 2, 4, 8)
"""Before each new try; huggingface_hub repeats most requests by itself, but not creating a repo, nor a commit."""
_TIMEOUT_S = 120.0
"""The longest wait for an answer. huggingface_hub's own clients wait without end."""
_BUSY = (408, 429)
_FAILURES = (httpx2.HTTPError, OSError, RuntimeError, ValueError)
"""What huggingface_hub raises for HTTP, files and Xet, LFS uploads, and answers that are not JSON."""
_OF_THE_HUB = {".gitattributes"}


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
    """Upload the adapter with a model card to the repo, which is made if it does not exist, and read it back.

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
    if not _REPO.fullmatch(repo):
        raise UserError(f"--repo: {repo!r} is no name of a repo; write user/name")
    if not dry_run and get_token() is None:
        raise UserError("no token for the Hub: put HF_TOKEN, one that may write, into env.json")
    folder = Path(tempfile.mkdtemp(prefix="honest_persona-push-"))
    try:
        staged = stage(Path(adapter), folder, base_model, report)
        write_model_card(folder, staged.card, repo, license)
        check_secrets(folder, [Path("env.json"), Path(adapter, "env.json")])
    except UserError:
        shutil.rmtree(folder)
        raise
    if dry_run:
        return Pushed("", staged.files, folder, staged.left_out, notices=staged.notices)
    pushed = _Upload(staged, repo, private, revision).run()
    shutil.rmtree(folder)
    return pushed


class _Upload:
    """One upload; `done` says how much of it is done."""

    def __init__(self, staged: Staged, repo: str, private: bool, revision: str | None) -> None:
        self.staged, self.repo, self.private, self.revision = staged, repo, private, revision
        self.api = HfApi()
        self.done = "nothing was uploaded"

    def run(self) -> Pushed:
        try:
            self._make_repo()
            before = set(_retried(lambda: self.api.list_repo_files(self.repo, revision=self.revision)))
            url, commit = self._commit(before)
            self.done = f"all files were uploaded as {url}, but not read back"
            self._read_back(commit)
        except _FAILURES as error:
            reason = str(error) if isinstance(error, UserError) else _first_line(error)
            raise UserError(
                f"push to {self.repo}: {redact(reason)}\n{self.done}; all files are kept in {self.staged.folder}, and "
                "the adapter's folder is as it was"
            ) from error
        others = tuple(sorted(before - set(ALLOWED) - _OF_THE_HUB))
        return Pushed(url, self.staged.files, None, self.staged.left_out, others, self.staged.notices)

    def _make_repo(self) -> None:
        # None: the organization's default
        _retried(lambda: self.api.create_repo(self.repo, private=self.private or None, exist_ok=True))
        if self.private and not _retried(lambda: self.api.model_info(self.repo)).private:
            raise UserError("the repo is there and public; make it private on the Hub, or leave out --private")
        if self.revision is not None:
            branch = self.revision
            _retried(lambda: self.api.create_branch(self.repo, branch=branch, exist_ok=True))

    def _commit(self, before: set[str]) -> tuple[str, str]:
        """URL and id of a commit that uploads the staged files and deletes older files of the allow-list."""
        files = self.staged.files
        outdated = sorted(before & set(ALLOWED) - set(files))

        def commit() -> tuple[str, str]:
            # huggingface_hub skips files that the repo already has, so a second try after a lost answer changes nothing
            info = self.api.create_commit(
                self.repo,
                [
                    *(CommitOperationAdd(name, self.staged.folder / name) for name in files),
                    *(CommitOperationDelete(name) for name in outdated),
                ],
                commit_message="Honest persona",
                revision=self.revision,
            )
            return info.commit_url, info.oid

        return _retried(commit)

    def _read_back(self, commit: str) -> None:
        """Raises UserError: the repo's files of the allow-list differ from the staged ones."""
        files = self.staged.files
        there = set(_retried(lambda: self.api.list_repo_files(self.repo, revision=commit)))
        wrong = [f"{name}: is not in the repo" for name in sorted(set(files) - there)]
        wrong += [f"{name}: should not be in the repo" for name in sorted(there & set(ALLOWED) - set(files))]
        with tempfile.TemporaryDirectory() as fresh:
            for name in sorted(set(files) & there):
                wanted = _sha256(self.staged.folder / name)
                download = partial(self.api.hf_hub_download, self.repo, name, revision=commit, cache_dir=fresh)
                got = _sha256(Path(_retried(download)))
                if got != wanted:
                    wrong.append(f"{name}: SHA-256 {got}, uploaded was {wanted}")
        if wrong:
            raise UserError("what the Hub gives back is not what was uploaded:\n" + "\n".join(wrong))


def check_upload(config: RunConfig) -> None:
    """Before a run with `push_to_hub`: find what would certainly stop its upload.

    Raises:
        UserError: no hub_model_id, or a base model that is a folder of this machine.
    """
    if not config.trainer.get("push_to_hub"):
        return
    repo = config.trainer.get("hub_model_id")
    if repo is None or not _REPO.fullmatch(repo):
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


def _retried(call: Callable[[], _T]) -> _T:
    """`call()`, again after growing waits for errors that may pass: no connection, no answer, a busy Hub."""
    for wait_s in _WAITS_S:
        try:
            get_session().timeout = _TIMEOUT_S
            return call()
        except _FAILURES as error:
            if not _may_pass(error):
                raise
            tell(f"the Hub: {redact(_first_line(error))}; trying again in {wait_s} s")
        time.sleep(wait_s)
    return call()


def _may_pass(error: Exception) -> bool:
    if isinstance(error, OfflineModeIsEnabled):
        return False
    # an LFS upload and a download hide the cause behind errors of their own
    cause = error if isinstance(error, httpx2.HTTPError) else error.__cause__ or error
    if isinstance(cause, HfHubHTTPError):
        return cause.response.status_code >= 500 or cause.response.status_code in _BUSY
    return isinstance(cause, httpx2.TransportError | json.JSONDecodeError | ConnectionError | RuntimeError)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    cause = f" ({_first_line(error.__cause__)})" if isinstance(error, RuntimeError) and error.__cause__ else ""
    denied = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)
    return text + cause + ("; HF_TOKEN must be a token that may write there" if denied else "")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
