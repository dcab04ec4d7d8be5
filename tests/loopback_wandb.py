"""A stand-in for a W&B server on the loopback: what wandb 0.25 asks for while runs are pushed.

It keeps what it is sent and answers as its schema says; ``failing`` names what it answers with an
HTTP status instead: a GraphQL operation, ``stream`` (history) or ``put`` (files).
"""

import gzip
import json
import re
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ME = {"id": "me", "name": "me"}
FIELDS = [
    *("aliases", "artifactCollectionName", "artifactTypeName", "clientID", "digest"),
    *("digestAlgorithm", "enableDigestDeduplication", "entityName", "historyStep", "projectName"),
    *("runName", "sequenceClientID", "tags"),
]


class Standin(ThreadingHTTPServer):
    """The server.

    Attributes:
        runs: id -> what its upserts said. history: id -> lines. artifacts: name -> id.
        files: path -> bytes. asked: operations in order.
    """

    daemon_threads = True

    def __init__(self, **failing):
        super().__init__(("127.0.0.1", 0), Handler)
        self.failing = failing
        self.runs, self.history, self.artifacts, self.files = {}, {}, {}, {}
        self.asked = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """Connections that a client drops are none of our errors."""

    def bucket(self, name):
        known = self.runs[name]
        return {
            "id": f"run {name}",
            "name": name,
            "displayName": known.get("displayName"),
            "config": known.get("config") or "{}",
            "tags": [],
            "summaryMetrics": "{}",
            "wandbConfig": "{}",
            "description": "",
            "historyLineCount": len(self.history.get(name, [])),
            "logLineCount": 0,
            "eventsLineCount": 0,
            "historyTail": json.dumps(self.history.get(name, [])[-1:]),
            "eventsTail": "[]",
            "sweepName": None,
            "project": {"id": "project", "name": known.get("project"), "entity": ME},
        }

    def artifact(self, known):
        sequence = {"name": "sequence", "project": None, "__typename": "ArtifactSequence"}
        return {
            "__typename": "Artifact",
            "id": known,
            "artifactSequence": sequence,
            "versionIndex": 0,
            "artifactType": {"name": "type"},
            "description": None,
            "metadata": None,
            "ttlDurationSeconds": -1,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": "COMMITTED",
            "size": 1,
            "digest": "digest",
            "commitHash": "commit",
            "fileCount": 1,
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": None,
            "aliases": [],
        }

    def upload(self, kind, name, **more):
        at = f"{self.url}/{kind}/{name}"
        return {
            "id": name,
            "name": name,
            "displayName": name,
            "uploadUrl": at,
            "uploadHeaders": [],
            **more,
        }

    def answer(self, operation, given):
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if operation == "RunResumeStatus":
            known = self.bucket(given["name"]) if given["name"] in self.runs else None
            return {
                "model": {"id": "project", "name": given["project"], "entity": ME, "bucket": known}
            }
        if operation == "UpsertBucket":
            new = given["name"] not in self.runs
            said = {key: value for key, value in given.items() if value is not None}
            self.runs.setdefault(given["name"], {}).update(said)
            return {"upsertBucket": {"bucket": self.bucket(given["name"]), "inserted": new}}
        if operation == "CreateRunFiles":
            files = [self.upload(f"run/{given['run']}", name) for name in given["files"]]
            return {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": files}}
        if operation == "ArtifactType":
            return {"project": None}
        if operation == "InputFields":
            return {"TypeInfo": {"inputFields": [{"name": name} for name in FIELDS]}}
        if operation == "ProbeServerCapabilities":
            return {
                name: {"fields": []} for name in ("QueryType", "MutationType", "ServerInfoType")
            }
        if operation == "CreateArtifact":
            name = given["input"]["artifactCollectionName"]
            number = f"Artifact:{len(self.artifacts)}"
            known = self.artifacts.setdefault(name, b64encode(number.encode()).decode())
            sequence = {"id": "sequence", "latestArtifact": None}
            artifact = {"id": known, "state": "PENDING", "artifactSequence": sequence}
            return {"createArtifact": {"artifact": artifact}}
        if operation == "CreateArtifactManifest":
            file = self.upload("manifest", given["artifactID"])
            return {
                "createArtifactManifest": {"artifactManifest": {"id": "manifest", "file": file}}
            }
        if operation == "CreateArtifactFiles":
            edges = []
            for one in given["artifactFiles"]:
                more = {"storagePath": "", "uploadMultipartUrls": None}
                more["artifact"] = {"id": one["artifactID"]}
                edges.append({"node": self.upload(one["artifactID"], one["name"], **more)})
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        if operation == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "digest"}}}
        if operation == "FetchArtifactManifest":
            file = {"directUrl": f"{self.url}/manifest/{given['id']}"}
            return {"artifact": {"currentManifest": {"id": "manifest", "file": file}}}
        if operation == "ArtifactByID":
            return {"artifact": self.artifact(given["id"])}
        return {
            "viewer": {
                "id": "me",
                "entity": "me",
                "username": "me",
                "flags": "{}",
                "teams": {"edges": []},
            }
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def reply(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        data = self.server.files.get(self.path)
        self.reply(404 if data is None else 200, json.loads(data or b"{}"))

    def do_PUT(self):
        data = self.body()
        if status := self.server.failing.get("put"):
            return self.reply(status, {})
        self.server.files[self.path] = data
        return self.reply(200, {})

    def do_POST(self):
        said = json.loads(self.body())
        if self.path.endswith("/graphql"):
            found = re.search(r"(?:query|mutation)\s+(\w+)", said["query"])
            operation = found[1] if found else "viewer"
            self.server.asked.append(operation)
            if status := self.server.failing.get(operation, self.server.failing.get("graphql")):
                return self.reply(status, {"errors": [{"message": "so it fails"}]})
            return self.reply(
                200, {"data": self.server.answer(operation, said.get("variables") or {})}
            )
        if status := self.server.failing.get("stream"):
            return self.reply(status, {})
        run = self.path.split("/")[-2]
        lines = said.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        self.server.history.setdefault(run, []).extend(lines)
        return self.reply(200, {"exitcode": None, "limits": {}})
