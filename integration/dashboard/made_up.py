"""States of a proxy that nobody has to bring about: what `/routing` and `/graph` would answer, for the page alone."""

import math
import random
import time


def at(seconds_ago=0.0):
    now = time.time() - seconds_ago
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"


def statistics(mean, calls, errors=0.0):
    if calls <= 0:
        return dict.fromkeys(["latency_ewma_ms", "latency_mean_ms", "latency_p50_ms", "latency_p90_ms", "latency_p99_ms", "jitter_ms", "error_rate", "age_s"]) | {
            "calls_per_second": 0.0, "in_flight": 0.0, "samples": 0.0}
    return {"latency_ewma_ms": round(mean * 1.05, 3), "latency_mean_ms": round(mean, 3), "latency_p50_ms": round(mean * 0.9, 3), "latency_p90_ms": round(mean * 1.7, 3),
            "latency_p99_ms": round(mean * 2.8, 3), "jitter_ms": round(mean * 0.2, 3), "calls_per_second": round(calls, 3), "error_rate": errors,
            "in_flight": round(calls * mean / 1000, 2), "samples": calls * 10, "age_s": 0.0}


def node(key, service, zone, calls, mean, errors=0.0, health=None):
    used = calls > 0
    return {"key": key, "service": service, "zone": zone, "replicas": 4, "node_load": round(calls * 1.1, 3), "cpu_utilization": min(0.95, calls / 80) if used else None,
            "memory_utilization": 0.4 if used else None, "application_utilization": None, "reported_requests_per_second": None, "reported_errors_per_second": None,
            "report_age_s": None, "in_flight": round(calls * mean / 1000, 1) if used else 0.0, "calls_per_second": round(calls, 3), "response_mean_ms": mean if used else None,
            "response_p99_ms": mean * 2.8 if used else None, "error_rate": errors if used else None, "health": health}


def link(source, destination, mean, calls, share=None, cluster="", attention=None, errors=0.0):
    return {"source": source, "destination": destination, "attention": attention, "statistics": statistics(mean, calls, errors),
            "shares": {cluster: share} if share is not None else None}


def candidate(endpoint, share, mean, predicted, calls, health="healthy", guard=None, reason=None, zone=None, errors=0.0, in_flight=1):
    scored = predicted is not None
    return {"endpoint": endpoint, "address": endpoint, "zone": zone, "metadata": {}, "configured_weight": 1, "eligible": health == "healthy", "weight": share, "share": share,
            "score": round(-math.log(predicted / 1000), 3) if scored else None,
            "predicted": {"intrinsic_ms": round(predicted * 0.9, 3), "mean_ms": predicted, "p99_ms": predicted * 3, "jitter_ms": predicted * 0.2} if scored else None,
            "observed": statistics(mean, calls, errors) | {"share": share}, "estimate": {"now_ms": mean, "last_ms": mean * 1.1, "age_s": 0.1} if calls else None, "prior_ms": mean,
            "in_flight": in_flight, "endpoint_in_flight": in_flight, "failures_in_a_row": 0, "health": health, "expected_success": 1 - errors, "last_sample_age_s": 0.1 if calls else None,
            "guard": guard, "reason": reason or (f"predicted {predicted * 0.9:.1f} ms at its fair share" + (f"; {guard}" if guard else "") if scored else "by its configured weight"),
            "affinity_share": None}


def table(workload, cluster, candidates, source=None, calls=100.0, policy="model", canary=None, service=None):
    return {"cluster": cluster, "service": service or cluster, "source": source or f"{workload}@node-1", "protocol": "http1", "workload": workload, "policy": policy, "compare": "auto",
            "affinity": None, "panic": False, "calls_per_second": calls, "candidates": candidates, "own_zone": None, "canary": canary}


def change(generation, ago, cause="interval", rung="model", reason="the model's scores", early=False, **more):
    model = {"name": "loom", "digest": "c1c443dfce08d27a", "engine": "onnxruntime 1.31.1 (cpu)"} if rung in ("model", "last_good") else None
    return {"generation": generation, "made_at": at(ago), "took_ms": 0.31 if early else 4.2, "cause": cause, "early": early, "rung": rung, "rung_reason": reason, "model": model,
            "triggers": [], "appeared": [], "disappeared": [], "health": [], "moved": []} | more


def moved(endpoint, a, b, workload="frontend", cluster="catalog", reason="predicted 93.1 ms at its fair share; on its way: moved by the largest step"):
    return {"workload": workload, "cluster": cluster, "endpoint": endpoint, "from": a, "to": b, "reason": reason}


def routing(**more):
    return {
        "node": "node-1", "version": "0.1.0", "mode": "active",
        "generation": {"id": 500, "made_at": at(), "age_s": 0.1, "expires_in_s": 29.9, "expired": False, "cause": "interval", "rung": "model", "rung_reason": "the model's scores",
                       "model": {"name": "loom", "digest": "c1c443dfce08d27a", "engine": "onnxruntime 1.31.1 (cpu)"}},
        "identity": None, "discovery": [], "model_error": 0.083, "reload_refused": None, "canary": None, "admission": [], "rate_limits": [], "tables": [],
        "scorer": {"state": "ready", "file": "builtin", "engine": {"engine": "onnxruntime", "version": "1.31.1", "device": "cpu", "reason": "found beside the binary", "remedy": None, "degraded": False},
                   "model": {"name": "loom", "version": "0.3.0", "contract": 2, "trained_on": "simulated", "digest": "c1c443dfce08d27a" * 4}, "not_ready": None, "last_error": None, "model_error": None,
                   "inferences": 498, "late": 0, "errors": {}, "restarts": 0, "reloads": 0, "reloads_refused": 0, "hung_threads": 0, "last_duration_s": 0.0021, "mean_duration_s": 0.0023, "max_duration_s": 0.0061},
    } | more


def request(i, endpoint, took, expected, generation, ago, path="/things", reason="", status=200, **more):
    """A line of the access log."""
    return {"time": at(ago), "request_id": f"4c1f2e{i:010x}", "trace_id": f"0af7651916cd43dd8448eb21{i:08x}", "workload": "frontend", "route": "catalog", "cluster": "catalog",
            "client": "10.0.0.9:40312", "endpoint": endpoint, "method": "GET", "host": "catalog.shop", "path": path, "protocol": "HTTP/1.1", "status": status, "grpc_status": None,
            "reason": reason, "injected": "", "attempts": 1, "request_bytes": 0, "response_bytes": 512, "duration_ms": took + 0.4, "upstream_ms": took, "expected_ms": expected,
            "generation": generation, "policy": "model", "class": ""} | more


class State:
    """`routing`, `graph`, `history` and `requests` as the proxy would give them; `tick` makes the next generation. `past` has tables
    by generation."""

    def __init__(self, routing, graph, history, requests=()):
        self.routing, self.graph, self.history, self.requests, self.log = routing, graph, history, list(requests), "stdout"
        self.past = {}

    def tick(self):
        if self.routing["generation"] is None:
            return None
        self.routing["generation"]["id"] += 1
        self.routing["generation"]["made_at"] = at()
        rung, reason = self.routing["generation"]["rung"], self.routing["generation"]["rung_reason"]
        said = change(self.routing["generation"]["id"], 0, rung=rung, reason=reason)
        self.history.append(said)
        return said


def shop(**more):
    """A frontend, four catalogs of which one is slow and one is gone, three storages of which one is slow; on trial."""
    catalog, storage = [f"10.0.1.{i}:8080" for i in range(1, 5)], [f"10.0.2.{i}:6379" for i in range(1, 4)]
    shares, means, calls = [0.44, 0.46, 0.10, 0.0], [12.1, 11.7, 94.0, 0], [52.0, 55.0, 12.0, 0.0]
    storages = [2.1, 2.3, 38.0]
    nodes = [node("frontend@node-1", "frontend", "eu-1a", 0, 0)]
    nodes += [node(c, "catalog", "eu-1a" if i < 2 else "eu-1b", calls[i], means[i], 0.031 if i == 2 else 0.0, "ejected" if i == 3 else "healthy") for i, c in enumerate(catalog)]
    nodes += [node(s, "storage", "eu-1b", [70.0, 45.0, 9.0][i], storages[i], health="healthy") for i, s in enumerate(storage)]
    links = [link("frontend@node-1", c, means[i], calls[i], shares[i], "catalog", [0.4, 0.38, 0.2, 0.02][i], 0.031 if i == 2 else 0.0) for i, c in enumerate(catalog)]
    for i, c in enumerate(catalog):
        for j, s in enumerate(storage):
            links.append(link(c, s, storages[j], [calls[i] * 0.56, calls[i] * 0.36, calls[i] * 0.08][j], [0.56, 0.36, 0.08][j], "storage", [0.3, 0.28, 0.42][j]))
    intervals = {"mean": -0.11, "low": -0.19, "high": -0.03}, {"mean": 0.001, "low": -0.004, "high": 0.006}
    arms = {"steering": True,
            "model": {"policy": "model", "requests": 1204, "share": 0.101, "failures": 2, "failure_rate": 0.0017, "mean_ms": 13.4, "p50_ms": 11.9, "p99_ms": 41.0},
            "against": {"policy": "peak_ewma", "requests": 10717, "share": 0.899, "failures": 25, "failure_rate": 0.0023, "mean_ms": 17.2, "p50_ms": 12.4, "p99_ms": 118.0}}
    guards = ["on its way: moved by the largest step", None, "raised to the floor, so that it stays measured", None]
    tables = [table("frontend", "catalog", [candidate(c, shares[i], means[i], [12.4, 11.9, 88.0, None][i], calls[i], "ejected" if i == 3 else "healthy", guards[i],
                                                      "left alone for 14.2 s after 5 failures in a row" if i == 3 else None, "eu-1a" if i < 2 else "eu-1b", 0.031 if i == 2 else 0.0, [1, 2, 1, 0][i])
                                            for i, c in enumerate(catalog)], calls=119.0, canary=arms)]
    tables += [table(f"catalog-{i + 1}", "storage", [candidate(s, [0.56, 0.36, 0.08][j], storages[j], storages[j] * 1.1, calls[i] / 3) for j, s in enumerate(storage)], source=c, calls=calls[i])
               for i, c in enumerate(catalog)]
    tables += [table("frontend", "empty", [], calls=0.0), table("batch", "catalog", [candidate(c, 0.25, 1, None, 0) for c in catalog], calls=0.0)]
    history = [change(1, 500, "start", "least_request", "no scores yet", True), change(2, 499.9, "start", moved=[])]
    history += [change(i, 500 - i) for i in range(400, 440)]
    history += [
        change(440, 60, "latency", triggers=[{"source": "frontend@node-1", "destination": catalog[2], "what": "latency", "observed_ms": 94.0, "predicted_ms": 12.2}], moved=[moved(catalog[2], 0.25, 0.15), moved(catalog[0], 0.25, 0.29, reason="predicted 11.0 ms at its fair share")]),
        change(441, 59, moved=[moved(catalog[2], 0.15, 0.10, reason="predicted 88.0 ms at its fair share; raised to the floor, so that it stays measured")]),
        change(470, 30, "health", early=True, health=[{"cluster": "catalog", "endpoint": catalog[3], "from": "healthy", "to": "ejected"}], moved=[moved(catalog[3], 0.25, 0.0, reason="left alone for 15.0 s after 5 failures in a row"), moved(catalog[1], 0.36, 0.46)]),
        change(471, 29.9, "health"),
        change(480, 20, "interval", "last_good", "the inference took longer than its deadline of 50 ms"),
        change(481, 19),
        change(490, 10, "endpoints", early=True, appeared=[{"cluster": "catalog", "endpoint": catalog[3]}]),
        change(491, 9, "reload"),
    ]
    history += [change(i, 500 - i) for i in range(492, 501)]
    trial = {"share": 0.1, "against": "peak_ewma", "tolerance": 0.05, "retreat": None, "comparisons": [{"cluster": "catalog", "batches": 119, "longer": intervals[0], "more_failures": intervals[1]}]}
    graph = {"generation": 500, "total": {"nodes": len(nodes), "links": len(links), "implausible": 0}, "nodes": nodes, "links": links}
    requests = [request(i, catalog[i % 2], 11.2 + i % 7 * 0.9, 11.9, 500 - i // 12, i * 0.085) for i in range(140)]
    requests[3] |= {"request_id": "9b70c1d2aa0000000000000000000001", "endpoint": catalog[2], "upstream_ms": 96.3, "duration_ms": 97.0, "expected_ms": 12.2, "generation": 440, "path": "/things/42?depth=3"}
    requests[8] |= {"request_id": "77aa000000000000000000000000000f", "status": 504, "reason": "request_timeout", "attempts": 2, "endpoint": catalog[3], "upstream_ms": None, "duration_ms": 1000.2, "generation": 470}
    requests[21] |= {"request_id": "77ab000000000000000000000000000e", "cluster": "", "route": "", "host": "nobody.shop", "endpoint": None, "status": 404, "reason": "no_route", "attempts": 0, "policy": "",
                     "upstream_ms": None, "expected_ms": None, "duration_ms": 0.1}
    state = State(routing(**({"mode": "canary", "canary": trial, "tables": tables} | more)), graph, history, requests)
    # When the third one was chosen it was as fast as the others, and the fourth was another one.
    then = [candidate(c, 0.25, 12.0, 12.2, 30.0, guard=guards[2] if i == 1 else None) | {"attention": 0.25, "estimate": None, "in_flight": None} for i, c in enumerate(catalog[:3] + ["10.0.1.9:8080"])]
    state.past[440] = [table("frontend", "catalog", then, calls=120.0)]
    return state


def empty():
    """A proxy that has just started, with nothing configured."""
    start = routing(generation=None, model_error=None, scorer={"state": "loading", "file": "builtin", "engine": None, "model": None, "not_ready": "the model is being loaded"})
    return State(start, {"generation": None, "total": {"nodes": 0, "links": 0, "implausible": 0}, "nodes": [], "links": []}, [])


def trouble():
    """No model, a configuration that was refused, a trial that was lost."""
    state = shop(mode="active", canary=None)
    wrong = "error: proxy.yaml:14:7: unknown key `endpoint`; did you mean `endpoints`?\nerror: proxy.yaml:20:13: `5 parsecs` is not a time: write `500ms`, `2s` or `5m`\n"
    reason = "no model file /etc/pathloom/shop.onnx: give `model.file` the path of an .onnx file, or `builtin`"
    state.routing |= {"reload_refused": {"at": at(42), "text": wrong}, "model_error": None}
    state.routing["generation"] |= {"rung": "peak_ewma", "rung_reason": reason, "model": None}
    state.routing["scorer"] |= {"state": "restarting", "file": "/etc/pathloom/shop.onnx", "engine": None, "model": None, "not_ready": reason, "model_error": {"code": "missing", "message": reason, "age_s": 42.0}}
    source = {"cluster": "catalog", "source": "dns catalog.shop:8080", "state": "failing", "reason": "timeout: nobody answers", "failing_for_s": 60.0, "age_s": 61.0,
              "endpoints": {"ready": 4, "terminating": 0, "not_ready": 1}, "ignored": {"bad_address": 1}}
    state.routing["discovery"] = [source, source | {"source": "file /etc/catalog.yaml", "state": "working", "reason": None, "failing_for_s": None, "ignored": {}}]
    for each in state.routing["tables"]:
        each["policy"], each["canary"], each["panic"] = "peak_ewma", None, each["cluster"] == "storage" and each["workload"] == "catalog-1"
        for c in each["candidates"]:
            c |= {"score": None, "predicted": None, "guard": None, "reason": "by its configured weight"}
    for each in state.graph["links"]:
        each["attention"] = None
    state.history = [change(i, 500 - i, rung="peak_ewma", reason=reason) for i in range(480, 501)]
    return state


def large(services=250, replicas=4, links=5000):
    """A thousand nodes and five thousand links, as a mesh of services in layers has them."""
    some = random.Random(7)
    names = [f"service-{i:03d}" for i in range(services)]
    layer = [min(6, int(i / services * 7)) for i in range(services)]
    keys = {name: [f"10.{i // 60}.{i % 60}.{r + 1}:8080" for r in range(replicas)] for i, name in enumerate(names)}
    mean = {name: 4 * 10 ** some.uniform(0, 1.4) for name in names}
    nodes = [node(key, name, ["eu-1a", "eu-1b", "eu-1c"][i % 3], some.uniform(0.5, 60), mean[name] * some.uniform(0.8, 1.3), health="healthy") for name in names for i, key in enumerate(keys[name])]
    nodes[17]["health"], nodes[404]["error_rate"] = "ejected", 0.2
    made, out = set(), []
    while len(out) < links:
        a = some.randrange(services)
        below = [b for b in range(services) if layer[b] == layer[a] + 1]
        if not below:
            continue
        b = some.choice(below)
        for source in keys[names[a]]:
            for i, destination in enumerate(keys[names[b]]):
                if (source, destination) not in made and len(out) < links:
                    made.add((source, destination))
                    out.append(link(source, destination, mean[names[b]] * some.uniform(0.8, 1.3), 20 ** some.uniform(-1, 1.5), [0.4, 0.3, 0.2, 0.1][i % 4], names[b], 0.25))
    tables = [table(name, names[(i + 40) % services], [candidate(e, 0.25, 10, 11, 5) for e in keys[names[(i + 40) % services]]], source=keys[name][0], calls=some.uniform(0, 50)) for i, name in enumerate(names)]
    graph = {"generation": 500, "total": {"nodes": len(nodes), "links": len(out), "implausible": 0}, "nodes": nodes, "links": out}
    return State(routing(tables=tables), graph, [change(i, 500 - i) for i in range(480, 501)])
