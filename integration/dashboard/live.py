"""A sidecar that runs, with a frontend, three catalogs of which one is slow, two storages, and somebody who asks."""

import contextlib
import http.client
import http.server
import pathlib
import socket
import subprocess
import tempfile
import threading
import time

CALLS_PER_SECOND = 40


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Service:
    """Answers after so many seconds, and asks another one first."""

    def __init__(self, port, takes, then=None):
        outer = self
        self.takes, self.then = takes, then

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                time.sleep(outer.takes)
                if outer.then:
                    ask(*outer.then)
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def ask(port, host):
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/", headers={"host": host})
        connection.getresponse().read()
        connection.close()


class Mesh:
    def __init__(self, binary):
        self.binary = binary

    def __enter__(self):
        admin, frontend, *ports = free_ports(10)
        listens, catalogs, storages = ports[:3], ports[3:6], ports[6:8]
        self.admin, self.ends = f"127.0.0.1:{admin}", False
        self.services = [Service(p, t) for p, t in zip(storages, (0.002, 0.004))]
        self.services += [Service(p, t, (l, "storage.shop")) for p, t, l in zip(catalogs, (0.005, 0.006, 0.060), listens)]
        workloads = "".join(f"  catalog-{i}: {{ listen: 127.0.0.1:{l}, service: catalog, serves: 127.0.0.1:{c} }}\n" for i, (l, c) in enumerate(zip(listens, catalogs), 1))
        endpoints = lambda those: "".join(f"      - address: 127.0.0.1:{p}\n" for p in those)
        self.folder = tempfile.TemporaryDirectory()
        self.file = pathlib.Path(self.folder.name) / "proxy.yaml"
        self.file.write_text(
            f"node: {{ name: node-1, zone: eu-1a }}\nadmin: {{ listen: {self.admin} }}\nprocess: {{ threads: 1, drain: 1s }}\n"
            # On a machine that is very busy nothing takes as long as a model would think.
            f"model: {{ guards: {{ max_error: 100 }} }}\n"
            f"workloads:\n  frontend: {{ listen: 127.0.0.1:{frontend} }}\n{workloads}"
            f"routes:\n  - match: {{ host: storage.shop }}\n    cluster: storage\n  - cluster: catalog\n"
            f"clusters:\n  catalog:\n    endpoints:\n{endpoints(catalogs)}  storage:\n    endpoints:\n{endpoints(storages)}")
        self.log = open(pathlib.Path(self.folder.name) / "log", "w")
        self.process = subprocess.Popen([self.binary, "run", "--config", str(self.file)], stdout=self.log, stderr=self.log)
        end = time.monotonic() + 120
        while not self.ready():
            said = pathlib.Path(self.log.name).read_text()
            assert self.process.poll() is None and time.monotonic() < end, f"the sidecar does not serve:\n{said}"
            time.sleep(0.1)
        threading.Thread(target=self.load, args=(frontend,), daemon=True).start()
        return self

    def ready(self):
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection(self.admin, timeout=5)
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        return False

    def load(self, port):
        while not self.ends:
            threading.Thread(target=ask, args=(port, "catalog.shop"), daemon=True).start()
            time.sleep(1 / CALLS_PER_SECOND)

    def spoil_the_configuration(self):
        self.file.write_text(self.file.read_text().replace("endpoints:", "endpoint:", 1))

    def __exit__(self, *_):
        self.ends = True
        self.process.terminate()
        self.process.wait(30)
        for service in self.services:
            service.server.shutdown()
        self.log.close()
        self.folder.cleanup()
