"""A Hugging Face hub on the loopback address: as much of its HTTP API as a run uses.

Repositories are dictionaries of bytes; putting one again is another commit, and the old one stays.
Every request is kept with whether it carried a token.
"""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Commit:
    """The files of a repository: path -> content."""

    name: str
    files: dict

    @property
    def sha(self):
        contents = [(path, hashlib.sha1(data).hexdigest()) for path, data in self.files.items()]
        return hashlib.sha1(json.dumps([self.name, *sorted(contents)]).encode()).hexdigest()

    def info(self):
        siblings = [{"rfilename": path} for path in self.files]
        return {
            "id": self.name,
            "sha": self.sha,
            "tags": [],
            "siblings": siblings,
            "private": False,
        }

    def entry(self, path):
        data = self.files[path]
        return {"type": "file", "path": path, "size": len(data), "oid": _oid(data)}

    def tree(self, under, recursive):
        """Entries of a folder: its files, and the folders in it."""
        prefix = f"{under}/" if under else ""
        inside = [path for path in self.files if path.startswith(prefix)]
        flat = [path for path in inside if recursive or "/" not in path.removeprefix(prefix)]
        folders = {path.removeprefix(prefix).split("/")[0] for path in inside if path not in flat}
        found = [{"type": "directory", "path": prefix + f, "oid": "0" * 40} for f in folders]
        return [*found, *map(self.entry, flat)]


class Hub:
    """Repositories, and the requests that were made."""

    def __init__(self):
        self.commits, self.requests, self.address = {}, [], ""

    def put(self, kind, name, files):
        """Another commit of ``models`` or ``datasets`` owner/name; returns its hash."""
        commit = Commit(name, dict(files))
        self.commits.setdefault((kind, name), []).append(commit)
        return commit.sha

    def find(self, kind, name, revision="main"):
        """A commit, or the error code that the hub gives."""
        known = self.commits.get((kind, name))
        if known is None:
            return "RepoNotFound"
        if revision == "main":
            return known[-1]
        return next((c for c in known if c.sha == revision), "RevisionNotFound")

    @contextmanager
    def served(self):
        """Answer requests at ``address`` meanwhile."""
        handler = type("Bound", (Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


class Handler(BaseHTTPRequestHandler):
    """Info, tree, paths-info and files."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args):
        self.hub.requests.append((self.path, "authorization" in self.headers))

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        url = urlsplit(self.path)
        path = unquote(url.path)
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(.*))?", path):
            self.api(*found.groups(default=""), parse_qs(url.query), body)
        elif found := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/(\w+)/(.+)", path):
            self.file(found[1] or "models", *found.groups()[1:])
        else:
            self.refuse("NotFound")

    do_HEAD = do_POST = do_GET

    def api(self, kind, name, rest, query, body):
        part, _, tail = rest.partition("/")
        revision, _, under = tail.partition("/")
        commit = self.hub.find(kind, name, revision or "main")
        if isinstance(commit, str):
            self.refuse(commit)
        elif part in ("", "revision"):
            self.json(commit.info())
        elif part == "tree":
            self.json(commit.tree(under, query.get("recursive", ["false"])[0].lower() == "true"))
        elif part == "paths-info":
            as_json = self.headers.get("content-type", "").startswith("application/json")
            wanted = (json.loads(body) if as_json else parse_qs(body.decode()))["paths"]
            self.json([commit.entry(p) for p in wanted if p in commit.files])
        else:
            self.refuse("NotFound")

    def file(self, kind, name, revision, path):
        commit = self.hub.find(kind, name, revision)
        if isinstance(commit, str):
            self.refuse(commit)
        elif path not in commit.files:
            self.refuse("EntryNotFound", {"X-Repo-Commit": commit.sha})
        else:
            data = commit.files[path]
            headers = {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": commit.sha}
            self.reply(200, data, headers)

    def refuse(self, code, headers=None):
        # The real hub says 401 of repositories that it does not have.
        status = 401 if code == "RepoNotFound" else 404
        self.reply(status, b"{}", {"X-Error-Code": code, **(headers or {})})

    def json(self, value):
        self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def reply(self, status, data, headers):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
