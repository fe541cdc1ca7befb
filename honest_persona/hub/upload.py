"""One upload to the Hub: all files in one commit, so that a repo is never half of them, then read back and compared.

    commit = Upload(folder, files, "user/name", "dataset", allowed, "Parts").run()

What may pass by itself, such as a busy Hub, is tried again.
"""

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from honest_persona.base.console import tell
from honest_persona.base.environment import redact
from honest_persona.base.errors import UserError

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


def is_repo(name: object) -> bool:
    """Whether the Hub could have a repo of this name."""
    return isinstance(name, str) and _REPO.fullmatch(name) is not None


def check_repo(flag: str, repo: str, has_token: bool = True) -> None:
    """Raises UserError: no name of a repo, or no token where `has_token` asks for one."""
    if not is_repo(repo):
        raise UserError(f"{flag}: {repo!r} is no name of a repo; write user/name")
    if has_token and get_token() is None:
        raise UserError("no token for the Hub: put HF_TOKEN, one that may write, into env.json")


class Commit(NamedTuple):
    url: str
    others: tuple[str, ...]
    """files that were in the repo before, are not of ours, and stay"""


class Upload:
    """One upload; `done` says how much of it is done."""

    def __init__(
        self,
        folder: Path,
        files: Mapping[str, int],
        repo: str,
        kind: Literal["model", "dataset"],
        allowed: Callable[[str], bool],
        message: str,
        private: bool = False,
        revision: str | None = None,
    ) -> None:
        """Args:
        files: bytes by path within the folder.
        allowed: whether a file of the repo is ours by its name; such files that are not uploaded now are deleted.
        message: of the commit.
        revision: a branch, made where it does not exist.
        """
        self.folder, self.files, self.repo, self.kind = folder, files, repo, kind
        self.allowed, self.message, self.private, self.revision = allowed, message, private, revision
        self.api = HfApi()
        self.done = "nothing was uploaded"

    def run(self, kept: str) -> Commit:
        """Raises UserError: it failed; the message says how much is done, and then what `kept` says."""
        try:
            self._make_repo()
            before = set(self._listed(self.revision))
            url, commit = self._commit(before)
            self.done = f"all files were uploaded as {url}, but not read back"
            self._read_back(commit)
        except _FAILURES as error:
            reason = str(error) if isinstance(error, UserError) else _first_line(error)
            raise UserError(f"push to {self.repo}: {redact(reason)}\n{self.done}; {kept}") from error
        return Commit(url, tuple(sorted(name for name in before - _OF_THE_HUB if not self.allowed(name))))

    def _listed(self, revision: str | None) -> list[str]:
        return _retried(lambda: self.api.list_repo_files(self.repo, revision=revision, repo_type=self.kind))

    def _make_repo(self) -> None:
        # None: the organization's default
        private = self.private or None
        _retried(lambda: self.api.create_repo(self.repo, private=private, repo_type=self.kind, exist_ok=True))
        if self.private and not _retried(lambda: self.api.repo_info(self.repo, repo_type=self.kind)).private:
            raise UserError("the repo is there and public; make it private on the Hub, or leave out --private")
        if self.revision is not None:
            branch = self.revision
            _retried(lambda: self.api.create_branch(self.repo, branch=branch, repo_type=self.kind, exist_ok=True))

    def _commit(self, before: set[str]) -> tuple[str, str]:
        """URL and id of a commit that uploads the files and deletes older ones of ours."""
        outdated = sorted(name for name in before - set(self.files) if self.allowed(name))

        def commit() -> tuple[str, str]:
            # huggingface_hub skips files that the repo already has, so a second try after a lost answer changes nothing
            info = self.api.create_commit(
                self.repo,
                [
                    *(CommitOperationAdd(name, self.folder / name) for name in self.files),
                    *(CommitOperationDelete(name) for name in outdated),
                ],
                commit_message=self.message,
                repo_type=self.kind,
                revision=self.revision,
            )
            return info.commit_url, info.oid

        return _retried(commit)

    def _read_back(self, commit: str) -> None:
        """Raises UserError: the repo's files of ours differ from the uploaded ones."""
        files, there = set(self.files), set(self._listed(commit))
        wrong = [f"{name}: is not in the repo" for name in sorted(files - there)]
        wrong += [f"{name}: should not be in the repo" for name in sorted(there - files) if self.allowed(name)]
        with tempfile.TemporaryDirectory() as fresh:
            for name in sorted(files & there):
                wanted = _sha256(self.folder / name)
                download = partial(
                    self.api.hf_hub_download, self.repo, name, repo_type=self.kind, revision=commit, cache_dir=fresh
                )
                got = _sha256(Path(_retried(download)))
                if got != wanted:
                    wrong.append(f"{name}: SHA-256 {got}, uploaded was {wanted}")
        if wrong:
            raise UserError("what the Hub gives back is not what was uploaded:\n" + "\n".join(wrong))


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
