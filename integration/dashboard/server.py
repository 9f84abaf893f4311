"""Serves the page as the admin port does, with a made-up state behind it."""

import copy
import http.server
import json
import pathlib
import threading
import time
import urllib.parse

ASSETS = pathlib.Path(__file__).resolve().parents[2] / "src/admin/assets"
TYPES = {".css": "text/css", ".js": "text/javascript", ".txt": "text/plain"}


def policy():
    """The very policy that the product sends."""
    source = (ASSETS.parent / "server.rs").read_text()
    return source.split('PAGE_POLICY: &str = "')[1].split('"')[0]


class Serve:
    """A server on a free port, until the `with` is over. `full` refuses those who would listen."""

    def __init__(self, state, full=False):
        self.state, self.full, self.asked, self.ends, self.listening = state, full, [], False, 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ends = True
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request):
        url = urllib.parse.urlsplit(request.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        self.asked.append(request.path)
        if url.path == "/":
            page = (ASSETS / "index.html").read_text().replace("/assets/", "/assets/test/")
            self.send(request, 200, "text/html; charset=utf-8", page.encode(), {"content-security-policy": policy()})
        elif url.path.startswith("/assets/test/"):
            file = ASSETS / url.path.removeprefix("/assets/test/")
            self.send(request, 200, TYPES[file.suffix] + "; charset=utf-8", file.read_bytes())
        elif url.path == "/routing":
            self.routing(request, query)
        elif url.path == "/graph":
            self.graph(request, query)
        elif url.path == "/requests":
            self.requests(request, query)
        elif url.path == "/events":
            self.events(request)
        else:
            self.send(request, 404, "text/plain", b"nothing")

    def send(self, request, status, kind, body, headers=None):
        try:
            request.send_response(status)
            for name, value in {"content-type": kind, "content-length": str(len(body)), **(headers or {})}.items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(body)
        except OSError:
            pass

    def json(self, request, value, status=200):
        self.send(request, status, "application/json", json.dumps(value).encode())

    def routing(self, request, query):
        value = copy.deepcopy(self.state.routing)
        if "generation" in query and int(query["generation"]) != value["generation"]["id"]:
            return self.past(request, query)
        tables = value["tables"]
        if "cluster" in query:
            known = sorted({t["cluster"] for t in tables})
            if query["cluster"] not in known:
                wrong = {"error": f"there is no cluster `{query['cluster']}`; there are: {', '.join(known)}", "known": known}
                return self.json(request, wrong, 404)
            tables = [t for t in tables if t["cluster"] == query["cluster"] and t["workload"] == query.get("workload", t["workload"])]
        if "brief" in query:
            for table in tables:
                candidates = table.pop("candidates")
                table["candidate_count"], table["eligible_count"] = len(candidates), sum(c["eligible"] for c in candidates)
        value["tables"] = tables
        if "history" in query:
            value["history"] = self.state.history[-int(query["history"]):]
        return self.json(request, value)

    def past(self, request, query):
        """The tables of a generation that is over, of those that are kept."""
        number = int(query["generation"])
        tables = [t for t in self.state.past.get(number, []) if t["cluster"] == query["cluster"] and t["workload"] == query["workload"]]
        if not tables:
            return self.json(request, {"error": f"the tables of generation {number} are not kept", "known": []}, 404)
        self.json(request, {"past": True, "generation": {"id": number}, "generations_since": self.state.routing["generation"]["id"] - number, "tables": tables})

    def graph(self, request, query):
        value = self.state.graph
        if "around" in query:
            own = {n["key"] for n in value["nodes"] if query["around"] in (n["key"], n["service"])}
            links = [l for l in value["links"] if l["source"] in own or l["destination"] in own]
            keys = own | {l[end] for l in links for end in ("source", "destination")}
            value = value | {"links": links, "nodes": [n for n in value["nodes"] if n["key"] in keys]}
        self.json(request, value)

    def requests(self, request, query):
        lines = self.state.requests
        if "id" not in query:
            failed = [l for l in lines if l["reason"] or (l["status"] or 0) >= 500] if "failed" in query else lines
            note = "the access log is off (`telemetry.access_log.to`), so no request is remembered" if self.state.log == "off" else None
            return self.json(request, {"kept": len(lines), "note": note, "access_log": {"to": self.state.log, "format": "json"}, "requests": failed[:int(query.get("last", 100))]})
        those = [l for l in lines if l["request_id"].startswith(query["id"])]
        if len(those) != 1:
            several = f"{len(those)} requests have ids that begin with `{query['id']}`: give more of it"
            none = f"no request is known whose id is `{query['id']}` or begins so: it is older than what is kept, or went through another proxy"
            return self.json(request, {"error": several if those else none, "known": [l["request_id"] for l in those]}, 404)
        line = those[0]
        meaning = {"no_route": "No route matches the request.", "request_timeout": "The whole request took longer than it may."}.get(line["reason"])
        then = next((c for c in self.state.history if c["generation"] == line["generation"]), None)
        return self.json(request, {"request": line, "found_in": "memory", "chosen_by": "the model's weights and the local estimates, the lowest cost of those compared", "meaning": meaning,
                                   "help": meaning and f"proxy-config/TROUBLESHOOTING.md#{line['reason']}", "generation": self.state.routing["generation"]["id"], "then": then})

    def events(self, request):
        if self.full:
            self.send(request, 503, "text/plain", b"8 listen already")
            return
        request.close_connection = True
        self.listening += 1
        try:
            request.send_response(200)
            request.send_header("content-type", "text/event-stream")
            request.send_header("connection", "close")
            request.end_headers()
            request.wfile.write(b"retry: 1000\n\n")
            while not self.ends:
                said = self.state.tick()
                if said:
                    request.wfile.write(f"id: {said['generation']}\nevent: generation\ndata: {json.dumps(said)}\n\n".encode())
                request.wfile.flush()
                time.sleep(1)
        except OSError:
            pass
        finally:
            self.listening -= 1
