"""A Hub on the loopback interface: what huggingface_hub asks of repos, held in memory, with faults on demand.

A dataset's repo is named datasets/user/name here, as in its addresses.

with LoopbackHub(token="...") as hub:
    hub.fail("POST .*/commit/", 500, times=2)
    hub.files("user/name")
"""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

RESET, HANG, LOST, WRONG_BYTES = "reset", "hang", "lost", "wrong bytes"
_LFS = (".safetensors",)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class LoopbackHub:
    """Every request needs `token`. `requests` are "METHOD path" of all that were answered or failed."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.private: dict[str, bool] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self._faults: list[list] = []
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def fail(self, request: str, how: int | str, times: int = 10**9) -> None:
        """Fail the next `times` requests that match: a status code, RESET, HANG, WRONG_BYTES; LOST: done unanswered."""
        self._faults.append([re.compile(request), how, times])

    def mend(self) -> None:
        self._faults.clear()

    def fault(self, request: str) -> int | str | None:
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                if fault[2] > 0 and fault[0].search(request):
                    fault[2] -= 1
                    return fault[1]
        return None

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Of the repo, without what the Hub puts there itself."""
        files = self.commits[self.branches[repo].get(revision, revision)]
        return {name: content for name, content in files.items() if name != ".gitattributes"}

    def create(self, repo: str, private: bool = False, **files: bytes) -> None:
        self.private[repo], self.branches[repo] = private, {}
        self.add(repo, "main", {".gitattributes": b"*.safetensors filter=lfs\n", **files})

    def add(self, repo: str, branch: str, files: dict[str, bytes]) -> str:
        digest = hashlib.sha1(repr((repo, branch, len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[digest] = files
        self.branches[repo][branch] = digest
        return digest

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        return Handler


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    lost = False
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer takes 40 ms

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        try:
            body = self.rfile.read(length) if length else b"".join(self._chunks())
            path = unquote(urlsplit(self.path).path)
            fault = self.hub.fault(f"{self.command} {path}")
            if fault == RESET:
                self._reset()
            elif fault == HANG:
                self.hub._released.wait()
                self._reset()
            elif isinstance(fault, int):
                self._send(fault, b"the Hub is not well")
            elif self.headers.get("Authorization") != f"Bearer {self.hub.token}" and not path.startswith("/lfs/"):
                self._send(401, b"{}", {"X-Error-Message": "Invalid username or password."})
            else:
                self._route(path, body, wrong=fault == WRONG_BYTES, lost=fault == LOST)
        except ConnectionError:
            self._reset()

    def _reset(self) -> None:
        # a lingering time of zero sends RST
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _chunks(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

    def _send(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        if self.lost:
            raise ConnectionError
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: object, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _route(self, path: str, body: bytes, wrong: bool, lost: bool) -> None:
        hub, self.lost = self.hub, lost
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if asked.get("type") == "dataset":
                repo = f"datasets/{repo}"
            known = repo in hub.branches
            if not known:
                hub.create(repo, private=asked.get("visibility") == "private")
            return self._json({"url": f"{hub.url}/{repo}"}, 409 if known else 200)
        if path == "/api/validate-yaml":
            header = yaml.safe_load(json.loads(body)["content"].split("---")[1])
            return self._json({"errors": [], "warnings": []} if header else {"errors": [{"message": "no header"}]})
        if path.startswith("/lfs/"):
            hub.lfs[path.removeprefix("/lfs/")] = body
            return self._send(200)
        if match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = [{**o, **self._upload(o["oid"])} for o in json.loads(body)["objects"]]
            return self._json({"objects": objects})
        if match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(*match.groups(), wrong=wrong)
        path = path.replace("/api/datasets/", "/api/models/datasets/", 1)
        match = re.fullmatch(r"/api/models/((?:datasets/)?[^/]+/[^/]+)(?:/(\w+)/([^/]+))?(/.*)?", path)
        if match is None or match[1] not in hub.branches:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        return self._repo(match[1], match[2] or "revision", match[3] or "main", body)

    def _upload(self, oid: str) -> dict:
        return {} if oid in self.hub.lfs else {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{oid}"}}}

    def _repo(self, repo: str, what: str, revision: str, body: bytes) -> None:
        hub = self.hub
        branches = hub.branches[repo]
        if what == "branch":
            known = revision in branches
            branches.setdefault(revision, branches["main"])
            return self._json({}, 409 if known else 200)
        commit = branches.get(revision, revision)
        if commit not in hub.commits:
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files = hub.commits[commit]
        if what == "revision":
            return self._json({"id": repo, "sha": commit, "private": hub.private[repo], "siblings": []})
        if what == "tree":
            return self._json([_entry(name, content) for name, content in files.items()])
        if what == "preupload":
            return self._json({"files": [_mode(file["path"], files) for file in json.loads(body)["files"]]})
        assert what == "commit", what
        changed = dict(files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changed[value["path"]] = hub.lfs[value["oid"]]
            elif line["key"] == "deletedFile":
                del changed[value["path"]]
        oid = hub.add(repo, revision, changed)
        return self._json({"success": True, "commitOid": oid, "commitUrl": f"{hub.url}/{repo}/commit/{oid}"})

    def _file(self, repo: str, revision: str, name: str, wrong: bool) -> None:
        hub = self.hub
        if repo not in hub.branches:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        commit = hub.branches[repo].get(revision, revision)
        if commit not in hub.commits:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        content = hub.commits[commit].get(name)
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        etag = sha256(content) if name.endswith(_LFS) else git_oid(content)
        if wrong:
            content = bytes([content[0] ^ 1]) + content[1:]
        self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})


def _entry(name: str, content: bytes) -> dict:
    entry = {"type": "file", "path": name, "size": len(content), "oid": git_oid(content)}
    lfs = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
    return {**entry, "lfs": lfs} if name.endswith(_LFS) else entry


def _mode(name: str, files: dict[str, bytes]) -> dict:
    lfs = name.endswith(_LFS)
    oid = (sha256 if lfs else git_oid)(files[name]) if name in files else None
    return {"path": name, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid}
