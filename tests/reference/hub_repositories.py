"""What the stand-in of the hub keeps, and how it refuses."""

import hashlib
from dataclasses import dataclass, field


@dataclass
class Commit:
    """A version of a repository: what it says, and its files with their bytes."""

    message: str
    files: dict[str, bytes]
    name: str


@dataclass
class Repository:
    """A repository: its commits, oldest first, and the tags on them."""

    private: bool = False
    gated: bool = False
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, message, files):
        name = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files)}".encode()).hexdigest()
        self.commits.append(Commit(message, files, name))
        return name

    def version(self, revision):
        """The commit that a branch, a tag or a commit's name means; None where there is none."""
        if revision == "main":
            return self.commits[-1]
        name = self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit.name == name), None)


class Refused(Exception):
    """An answer that is not what was asked for."""

    def __init__(self, status, message, code=None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content):
    return hashlib.sha256(content).hexdigest()
