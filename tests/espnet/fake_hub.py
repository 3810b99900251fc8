"""A Hugging Face hub of this process: uploads, listings and downloads of models."""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

REVISION = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Serves `repos`: name -> {path: contents}.

    Attributes:
        repos: What is on it; an upload needs its repository to exist.
        messages: Of the commits that were made.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.messages = {}, []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def answer(self, content, status=200, **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def files(self, parts):
        found = self.server.repos.get("/".join(parts[:2]))
        if found is None:
            self.answer({"error": "no"}, 404, X_Error_Code="RepoNotFound")
        return found

    def do_POST(self):
        parts = unquote(urlparse(self.path).path).strip("/").split("/")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if parts[:2] != ["api", "models"]:  # such as validate-yaml
            return self.answer({"errors": [], "warnings": []})
        files = self.files(parts[2:])
        if files is None:
            return
        if parts[4] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            mode = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return self.answer({"files": [{"path": name, **mode} for name in names]})
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
        name = "/".join(parts[2:4])
        url = f"{self.server.address}/{name}/commit/{REVISION}"
        self.answer({"commitOid": REVISION, "commitUrl": url, "success": True})

    def do_GET(self):
        parts = unquote(urlparse(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            files = self.files(parts[2:])
            if files is None:
                return
            if parts[4:5] == ["tree"]:
                return self.answer([self.entry(*item) for item in files.items()])
            siblings = [{"rfilename": name} for name in files]
            name = "/".join(parts[2:4])
            self.answer({"_id": "1", "id": name, "sha": REVISION, "siblings": siblings})
        elif len(parts) > 4 and parts[2] == "resolve":
            content = (self.files(parts) or {}).get("/".join(parts[4:]))
            if content is None:
                return self.answer({}, 404, X_Error_Code="EntryNotFound")
            etag = self.entry("", content)["oid"]
            self.answer(content, ETag=f'"{etag}"', X_Repo_Commit=REVISION)
        else:
            self.answer({"error": "no"}, 404)

    do_HEAD = do_GET

    @staticmethod
    def entry(name, content):
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "oid": oid, "size": len(content), "path": name}


@contextlib.contextmanager
def running_hub():
    """Give a running hub; other processes find it by HF_ENDPOINT."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


@contextlib.contextmanager
def fake_hub(monkeypatch):
    """Give a hub that huggingface_hub takes for the real one in this process."""
    from huggingface_hub import constants

    real, name = constants.ENDPOINT, "HUGGINGFACE_CO_URL_TEMPLATE"
    with running_hub() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = getattr(constants, name).replace(real, hub.address)
        monkeypatch.setattr(constants, name, template)
        yield hub
