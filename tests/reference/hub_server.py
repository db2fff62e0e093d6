"""A small stand-in of the Hugging Face hub on this machine.

It keeps model repositories in memory and answers what huggingface_hub asks to fetch and to share
them. Its refusals have the status and the headers that the hub's have.
"""

import base64
import contextlib
import json
import re
import socket
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from reference.hub_repositories import Refused, Repository, git_hash, sha256

OWNER = "lab"
WRITER, READER = "good-token", "reading-token"
LARGE_SUFFIX = ".safetensors"


class HubServer(ThreadingHTTPServer):
    """The hub.

    Attributes:
        repositories: by "owner/name".
        asked: the requests so far, each "METHOD /path".
        cut_after: the byte of every file before which its download breaks off, each time.
        hang_up: whether every connection breaks off without an answer.
        status: what every request is answered with.
        page: what every request gets instead, as from a network where one has to log in.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = {}
        self.stored = {}
        self.asked = []
        self.connections = set()
        self.cut_after = None
        self.hang_up = False
        self.status = None
        self.page = None
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name, files, **options):
        """A repository with one commit."""
        self.repositories[name] = Repository(**options)
        self.repositories[name].commit("initial commit", dict(files))
        return self.repositories[name]

    def stop(self):
        """No network any more: the connections that are open break off too."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
            self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address):
        # A client that has gone is no news.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self):
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, *_):
        pass

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        self.body = self._read_body()
        if self.server.hang_up:
            self.close_connection = True
            return
        if self.server.page is not None:
            self._send(self.server.page, headers={"Content-Type": "text/html"})
            return
        try:
            if self.server.status is not None:
                raise Refused(self.server.status, HTTPStatus(self.server.status).phrase)
            for method, pattern, action in ROUTES:
                if (found := re.fullmatch(pattern, path)) and method == self.command:
                    action(self, *found.groups())
                    return
            raise Refused(404, f"no such page: {self.command} {path}")
        except Refused as refused:
            code = {} if refused.code is None else {"X-Error-Code": refused.code}
            headers = {"X-Error-Message": refused.message} | code
            self._send_json({"error": refused.message}, refused.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def _read_body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, content, status=200, headers=None, announced=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if announced is None else announced))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_json(self, value, status=200, headers=None):
        kind = {"Content-Type": "application/json"}
        self._send(json.dumps(value).encode(), status, kind | (headers or {}))

    # Who asks, and what for.

    def _token(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        if token not in (None, WRITER, READER):
            raise Refused(401, "Invalid credentials in Authorization header")
        return token

    def _require_writer(self, owner):
        token = self._token()
        if token is None:
            raise Refused(401, "Invalid username or password.")
        if token != WRITER or owner != OWNER:
            raise Refused(403, f"You don't have the rights to write under the namespace {owner!r}")

    def _repository(self, name):
        token = self._token()
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and token is None):
            # To those whom it does not know the hub does not tell what is not there.
            if token is None:
                raise Refused(401, "Invalid username or password.")
            raise Refused(404, "Repository not found", "RepoNotFound")
        return repository

    def _version(self, name, revision):
        commit = self._repository(name).version(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # Reading.

    def information(self, name, revision="main"):
        repository, commit = self._repository(name), self._version(name, revision)
        self._send_json(
            {
                "id": name,
                "sha": commit.name,
                "private": repository.private,
                "gated": "manual" if repository.gated else False,
                "siblings": [{"rfilename": file} for file in commit.files],
            }
        )

    def tree(self, name, revision):
        files = self._version(name, revision).files
        self._send_json(
            [
                {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
                for path, content in files.items()
            ]
        )

    def resolve(self, name, revision, path):
        commit = self._version(name, revision)
        if self._repository(name).gated:
            status = 401 if self._token() is None else 403
            raise Refused(status, f"Access to model {name} is restricted.", "GatedRepo")
        if path not in commit.files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        content = commit.files[path]
        etag = sha256(content) if path.endswith(LARGE_SUFFIX) else git_hash(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit.name, "Accept-Ranges": "bytes"}
        start, status = 0, 200
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start, status = int(found[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        rest, end = content[start:], self.server.cut_after
        if self.command == "GET" and end is not None:
            self.close_connection = True
            self._send(content[start:end], status, headers, announced=len(rest))
        else:
            self._send(rest, status, headers)

    # Writing.

    def create(self):
        asked = json.loads(self.body)
        owner, name = asked["organization"], f"{asked['organization']}/{asked['name']}"
        self._require_writer(owner)
        address = {"url": f"{self.server.endpoint}/{name}"}
        if name in self.server.repositories:
            self._send_json({"error": "You already created this model repo", **address}, 409)
            return
        self.server.add(name, {".gitattributes": b""}, private=asked.get("visibility") == "private")
        self._send_json(address)

    def check_card(self):
        text = json.loads(self.body)["content"]
        warnings = [] if text.startswith("---\n") else [{"message": "empty or missing metadata"}]
        if "license: bad" in text:
            self._send_json({"errors": [{"message": '"license" must be known'}]}, 400)
        else:
            self._send_json({"errors": [], "warnings": warnings})

    def before_upload(self, name, revision):
        self._require_writer(name.partition("/")[0])
        held = self._version(name, revision).files
        files = []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            large = path.endswith(LARGE_SUFFIX)
            file = {"path": path, "uploadMode": "lfs" if large else "regular"}
            if path in held:
                file["oid"] = (sha256 if large else git_hash)(held[path])
            files.append({**file, "shouldIgnore": False})
        self._send_json({"files": files})

    def batch(self, name):
        self._require_writer(name.partition("/")[0])
        objects = []
        for asked in json.loads(self.body)["objects"]:
            if asked["oid"] not in self.server.stored:
                upload = {"href": f"{self.server.endpoint}/storage/{asked['oid']}"}
                asked = {**asked, "actions": {"upload": upload}}
            objects.append(asked)
        self._send_json({"transfer": "basic", "objects": objects})

    def store(self, digest):
        if sha256(self.body) != digest:
            raise Refused(400, "the content is not what was announced")
        self.server.stored[digest] = self.body
        self._send(b"")

    def commit(self, name, revision):
        self._require_writer(name.partition("/")[0])
        files = dict(self._version(name, revision).files)
        lines = [json.loads(line) for line in self.body.splitlines()]
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        commit = self._repository(name).commit(lines[0]["value"]["summary"], files)
        address = f"{self.server.endpoint}/{name}/commit/{commit}"
        self._send_json({"commitUrl": address, "commitOid": commit, "success": True})


NAME = r"([^/]+/[^/]+)"
ROUTES = [
    ("GET", f"/api/models/{NAME}", Handler.information),
    ("GET", f"/api/models/{NAME}/revision/(.+)", Handler.information),
    ("GET", f"/api/models/{NAME}/tree/(.+)", Handler.tree),
    ("HEAD", f"/{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
    ("GET", f"/{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.check_card),
    ("POST", f"/api/models/{NAME}/preupload/(.+)", Handler.before_upload),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", "/storage/(.+)", Handler.store),
    ("POST", f"/api/models/{NAME}/commit/(.+)", Handler.commit),
]
