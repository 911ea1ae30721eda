"""A loopback endpoint that speaks as much of W&B's protocol as a view, a chart and a short run
need, and records what arrives.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789" * 4
PROJECT = {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}, "entityName": "me"}
RUN = {
    "id": "x",
    "name": "x",
    "displayName": "x",
    "description": None,
    "config": "{}",
    "sweepName": None,
    "project": PROJECT,
    "historyLineCount": 0,
}
USER = {"id": "u", "name": "me", "username": "me"}


class Loopback:
    """An HTTP server on a thread of its own; `reply` says what it answers."""

    def __init__(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                content = self.rfile.read(int(self.headers.get("content-length") or 0))
                reply = outer.reply(self.path, content)
                if reply is None:
                    self.close_connection = True
                    return
                body = json.dumps(reply).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reply(self, path: str, content: bytes) -> dict[str, Any] | None:
        """The JSON of an answer; None closes the connection without one."""
        raise NotImplementedError

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class WandbServer(Loopback):
    """Answers, and remembers what it was asked.

    Args:
        lacks: names of mutations that this server does not know: it answers with an error.

    Attributes:
        arrived: name of the operation and its variables, in order.
    """

    def __init__(self, lacks: tuple[str, ...] = ()):
        self.lacks = lacks
        self.arrived: list[tuple[str, dict[str, Any]]] = []
        super().__init__()

    def variables(self, operation: str) -> list[dict[str, Any]]:
        """Of each request of an operation."""
        return [variables for name, variables in self.arrived if name == operation]

    def reply(self, path: str, content: bytes) -> dict[str, Any]:
        if path != "/graphql":
            return {}
        asked = json.loads(content)
        found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
        operation = found[1] if found else ""
        variables = asked.get("variables") or {}
        self.arrived.append((operation, variables))
        if operation in self.lacks:
            return {"errors": [{"message": f'Cannot query field "{operation}"'}], "data": None}
        return {"data": self.data(asked["query"], variables)}

    def data(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertView" in query:
            view = {"id": "v1", "name": "abc", "spec": variables["spec"], "user": USER}
            view |= {"displayName": variables["displayName"], "type": variables["type"]}
            times = {"createdAt": "2026-01-01T00:00:00", "updatedAt": "2026-01-01T00:00:00"}
            view |= {"description": "", "project": PROJECT, **times}
            return {"upsertView": {"view": view, "inserted": True}}
        if "createCustomChart" in query:
            return {"createCustomChart": {"chart": {"id": "c"}}}
        if "upsertBucket" in query:
            run = {**RUN, "name": variables["name"], "displayName": variables["displayName"]}
            return {"upsertBucket": {"bucket": run, "inserted": True}}
        if "createRunFiles" in query:
            files = [{"name": n, "uploadUrl": f"{self.url}/{n}"} for n in variables["files"]]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        if "projects" in query or "models(" in query:
            node = {"id": "p", "name": "isometry", "entityName": "me", "user": None}
            node |= {"createdAt": "2026-01-01", "isBenchmark": False}
            page = {"endCursor": None, "hasNextPage": False}
            return {"models": {"edges": [{"node": node}], "pageInfo": page}}
        return {"viewer": {**USER, "entity": "me", "flags": "{}", "teams": {"edges": []}}}
