"""A stand-in for the Hugging Face hub, in place of huggingface_hub's connections.

It keeps model repositories in memory and answers the requests that download and upload them.
"""

import base64
import hashlib
import json
import os
import re
import time
from dataclasses import dataclass, field

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import constants

NO_NETWORK = httpx2.ConnectError("connection refused")
HANGS_UP = httpx2.RemoteProtocolError("server disconnected")


@dataclass
class Commit:
    """A version of a repository: its message, and its files with their bytes."""

    message: str
    files: dict[str, bytes]
    name: str


@dataclass
class Repository:
    """A repository: its commits, oldest first, the tags on them, and other branches than main."""

    private: bool = False
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def commit(self, message, files, revision="main"):
        commits = self.branches.get(revision, self.commits)
        name = hashlib.sha1(f"{len(commits)} {message} {sorted(files)}".encode()).hexdigest()
        commits.append(Commit(message, files, name))
        return name

    def version(self, revision):
        """The commit that a branch, a tag or a commit's name means."""
        branches = self.branches | {"main": self.commits}
        by_name = {commit.name: commit for commits in branches.values() for commit in commits}
        by_name |= {name: commits[-1] for name, commits in branches.items()}
        return by_name[self.tags.get(revision, revision)]


class Hub:
    """The hub.

    Attributes:
        repositories: by "owner/name".
        asked: the requests so far, each "METHOD /path".
        cut_after: number of bytes after which every download of a file breaks off.
        failure: raised, or given as (status, content), instead of every answer.
    """

    def __init__(self):
        self.repositories = {}
        self.asked = []
        self.cut_after = None
        self.failure = None

    @property
    def endpoint(self):
        return constants.ENDPOINT

    def add(self, name, files, **options):
        """Add a repository with one commit."""
        self.repositories[name] = Repository(**options)
        self.repositories[name].commit("initial commit", dict(files))
        return self.repositories[name]

    def answer(self, request):
        asked = f"{request.method} {request.url.path}"
        self.asked.append(asked)
        if isinstance(self.failure, Exception):
            raise self.failure
        if self.failure is not None:
            status, content = self.failure
            return httpx2.Response(status, content=content)
        for pattern, action in ROUTES.items():
            if found := re.fullmatch(pattern, asked):
                return action(self, request, *found.groups())
        raise AssertionError(f"the stand-in has no answer to {asked}")

    def information(self, request, name, revision="main"):
        repository = self.repositories.get(name)
        if repository is None:
            return httpx2.Response(404, headers={"X-Error-Code": "RepoNotFound"})
        commit = repository.version(revision)
        described = {"id": name, "sha": commit.name, "private": repository.private}
        return httpx2.Response(200, json=described)

    def tree(self, request, name, revision):
        files = self.repositories[name].version(revision).files
        entries = [
            {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
            for path, content in files.items()
        ]
        return httpx2.Response(200, json=entries)

    def resolve(self, request, name, revision, path):
        commit = self.repositories[name].version(revision)
        content = commit.files[path]
        headers = {"ETag": f'"{git_hash(content)}"', "X-Repo-Commit": commit.name}
        headers["Content-Length"] = str(len(content))
        return httpx2.Response(200, headers=headers, content=self._sent(content))

    def _sent(self, content):
        yield content[: self.cut_after]
        if self.cut_after is not None:
            raise HANGS_UP

    def create(self, request):
        asked = json.loads(request.content)
        name = f"{asked['organization']}/{asked['name']}"
        there = name in self.repositories
        if not there:
            self.add(name, {".gitattributes": b""}, private=asked.get("visibility") == "private")
        return httpx2.Response(409 if there else 200, json={"url": f"{self.endpoint}/{name}"})

    def branch(self, request, name, revision):
        repository = self.repositories[name]
        if revision in repository.branches:
            return httpx2.Response(409, json={"error": "Reference already exists"})
        repository.branches[revision] = [repository.version("main")]
        return httpx2.Response(200)

    def check_card(self, request):
        refused = "license: bad" in json.loads(request.content)["content"]
        errors = [{"message": '"license" must be known'}] if refused else []
        return httpx2.Response(400 if refused else 200, json={"errors": errors, "warnings": []})

    def before_upload(self, request, name, revision):
        files = [
            {"path": asked["path"], "uploadMode": "regular", "shouldIgnore": False}
            for asked in json.loads(request.content)["files"]
        ]
        return httpx2.Response(200, json={"files": files})

    def commit(self, request, name, revision):
        files = dict(self.repositories[name].version(revision).files)
        header, *added = (json.loads(line)["value"] for line in request.content.splitlines())
        files |= {file["path"]: base64.b64decode(file["content"]) for file in added}
        commit = self.repositories[name].commit(header["summary"], files, revision)
        address = f"{self.endpoint}/{name}/commit/{commit}"
        return httpx2.Response(200, json={"commitUrl": address, "commitOid": commit})


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


NAME = r"([^/]+/[^/]+)"
ROUTES = {
    f"GET /api/models/{NAME}": Hub.information,
    f"GET /api/models/{NAME}/revision/(.+)": Hub.information,
    f"GET /api/models/{NAME}/tree/(.+)": Hub.tree,
    f"(?:HEAD|GET) /{NAME}/resolve/([^/]+)/(.+)": Hub.resolve,
    "POST /api/repos/create": Hub.create,
    "POST /api/validate-yaml": Hub.check_card,
    f"POST /api/models/{NAME}/branch/(.+)": Hub.branch,
    f"POST /api/models/{NAME}/preupload/(.+)": Hub.before_upload,
    f"POST /api/models/{NAME}/commit/(.+)": Hub.commit,
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub that this process uses, with an empty cache and nobody logged in."""
    hub, home = Hub(), tmp_path / "hub_home"

    def handle_request(transport, request):
        request.read()
        return hub.answer(request)

    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", handle_request)
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    # huggingface_hub has read its environment already.
    for name, value in {
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    # It waits up to 8 s between its attempts.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    huggingface_hub.close_session()
    return hub
