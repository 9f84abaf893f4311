"""What the Helm chart renders: right by Kubernetes' schemas, and as each switch says; test_values.py has each value.

Run by `make test-kubernetes`.
"""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

import helm_python
import yaml

from chart import EXAMPLE, HOME, NAMED, PATHLOOM, VERSIONS, checked, config, config_text, pods, proxy, refused, rendered, texts, valid

EVERYTHING = {
    "metrics": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "gpu": {"enabled": True},
    "mesh": {"enabled": True, "secret": {"name": "shared"}},
    "capture": {"enabled": True},
    "spire": {"enabled": True, "hostPath": "/run/spire/agent-sockets"},
    "config": {"workloads": {"captured": {"listen": "0.0.0.0:15006", "capture": "outbound"}}},
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "mesh"},
    "imagePullSecrets": [{"name": "registry"}],
    "env": [{"name": "API_KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "api"}}}],
    "volumes": [{"name": "certificates", "secret": {"secretName": "mesh"}}],
    "volumeMounts": [{"name": "certificates", "mountPath": "/etc/mesh", "readOnly": True}],
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}},
    "serviceAccount": {"annotations": {"a": "b"}},
}
ANNOTATED = {
    "capture": {"enabled": True, "pods": "annotated"},
    "config": {"workloads": {"captured": {"listen": "[::]:15006", "capture": "tproxy"}}},
}
APART = {
    "hostNetwork": False,
    "ports": [{"name": "in", "containerPort": 15001, "hostPort": 15001}, {"name": "dns", "containerPort": 5353, "protocol": "UDP"}],
    "metrics": {"enabled": True},
    "mesh": {"enabled": True},
    "spire": {"enabled": True},
    "networkPolicy": {
        "enabled": True,
        "from": [{"podSelector": {}}],
        "metricsFrom": [{"namespaceSelector": {}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
    },
}


class Chart(unittest.TestCase):
    def test_every_rendering_is_right_by_kubernetes_schemas_and_its_configuration_by_pathloom(self):
        for values in [{}, EVERYTHING, ANNOTATED, APART]:
            objects = rendered(values)
            for (kind, name), made in objects.items():
                with self.subTest(kind=kind, name=name):
                    valid(made)
            self.assertEqual(checked(objects)[0], 0, checked(objects)[1])
            # The binary that ships can ask Kubernetes, so nothing is said of it.
            self.assertNotIn("warning", checked(objects)[1])

    def test_lint_finds_nothing(self):
        found = helm_python.lint(str(HOME / "chart"), EXAMPLE, strict=True)
        messages = [m for m in found.get("messages", []) if "icon is recommended" not in str(m)]
        self.assertEqual([m for m in messages if m], [])

    def test_an_update_drops_nothing(self):
        objects = rendered()
        update = objects["DaemonSet", "pathloom"]["spec"]["updateStrategy"]["rollingUpdate"]
        self.assertEqual(update, {"maxSurge": 1, "maxUnavailable": 0})
        self.assertIn("--linger", proxy(objects)["args"])
        self.assertEqual(config(objects)["process"]["handover"], "/run/pathloom/handover.sock")
        # Ports that are named would keep the next pod from the node while the last is there.
        self.assertNotIn("ports", proxy(objects))
        # Both see the same folder.
        volumes = {v["name"]: v for v in pods(objects)["volumes"]}
        self.assertEqual(volumes["handover"]["hostPath"]["path"], "/run/pathloom")
        # The proxy leaves before it is killed.
        self.assertEqual(config(objects)["process"]["drain"], "25s")
        self.assertEqual(pods(rendered({"terminationGracePeriodSeconds": 60}))["terminationGracePeriodSeconds"], 60)
        self.assertEqual(config(rendered({"terminationGracePeriodSeconds": 60}))["process"]["drain"], "55s")

    def test_without_hand_over_there_is_never_a_second_pod_on_a_node(self):
        for values in [{"handover": {"enabled": False}}, APART]:
            objects = rendered(values)
            update = objects["DaemonSet", "pathloom"]["spec"]["updateStrategy"]["rollingUpdate"]
            self.assertEqual(update, {"maxSurge": 0, "maxUnavailable": 1})
            self.assertNotIn("--linger", proxy(objects)["args"])
            self.assertNotIn("handover", config(objects)["process"])
            self.assertFalse(any("hostPath" in v for v in pods(objects)["volumes"]))

    def test_the_network_is_the_node_s_unless_said_otherwise(self):
        objects = rendered()
        self.assertTrue(pods(objects)["hostNetwork"])
        self.assertEqual(pods(objects)["dnsPolicy"], "ClusterFirstWithHostNet")
        objects = rendered(APART)
        self.assertNotIn("hostNetwork", pods(objects))
        ports = {p["name"]: p for p in proxy(objects)["ports"]}
        self.assertEqual((ports["in"]["hostPort"], ports["metrics"]["containerPort"]), (15001, 9902))

    def test_it_has_few_rights(self):
        for values in [{}, APART]:
            objects = rendered(values)
            rights = proxy(objects)["securityContext"]
            self.assertTrue(rights["runAsNonRoot"] and rights["readOnlyRootFilesystem"])
            self.assertFalse(rights["allowPrivilegeEscalation"])
            self.assertEqual(rights["capabilities"], {"drop": ["ALL"]})
            rules = objects["ClusterRole", "pathloom"]["rules"]
            self.assertEqual(rules, [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}])
            self.assertTrue(pods(objects)["automountServiceAccountToken"])
        without = rendered({"rbac": {"create": False, "namespaces": ["shop"]}})
        self.assertFalse(any("Role" in kind for kind, _ in without))
        self.assertFalse(pods(without)["automountServiceAccountToken"])

    def test_it_reads_in_the_namespaces_that_are_named_and_nowhere_else(self):
        files = texts({"rbac": {"namespaces": ["shop", "depot"]}})
        made = [o for text in files.values() for o in filter(None, yaml.safe_load_all(text)) if "Role" in o["kind"]]
        self.assertEqual(
            [(o["kind"], o["metadata"]["namespace"]) for o in made],
            [("Role", "shop"), ("RoleBinding", "shop"), ("Role", "depot"), ("RoleBinding", "depot")],
        )
        for one in made:
            valid(one, VERSIONS[:1])
            if one["kind"] == "RoleBinding":
                self.assertEqual((one["roleRef"]["kind"], one["roleRef"]["name"]), ("Role", "pathloom"))
                self.assertEqual(one["subjects"][0], {"kind": "ServiceAccount", "name": "pathloom", "namespace": "pathloom"})
            else:
                self.assertEqual(one["rules"], rendered()["ClusterRole", "pathloom"]["rules"])

    def test_it_reads_routes_where_they_are_followed_and_writes_only_what_it_should(self):
        def rules(section, **values):
            made = rendered({"config": {"gateway_api": section}, **values})
            return [(r["apiGroups"], r["resources"], r["verbs"]) for r in made["ClusterRole", "pathloom"]["rules"]]

        slices = (["discovery.k8s.io"], ["endpointslices"], ["list", "watch"])
        routes = (["gateway.networking.k8s.io"], ["httproutes", "grpcroutes", "referencegrants"], ["list", "watch"])
        services = ([""], ["services"], ["list", "watch"])
        status = (["gateway.networking.k8s.io"], ["httproutes/status", "grpcroutes/status"], ["patch"])
        self.assertEqual(rules({"enabled": False, "status": True}), [slices])
        self.assertEqual(rules({"enabled": True}), [slices, routes, services])
        self.assertEqual(rules({"enabled": True, "status": True}), [slices, routes, services, status])
        # Where it may look in some namespaces alone, it looks there alone.
        files = texts({"config": {"gateway_api": {"enabled": True}}, "rbac": {"namespaces": ["shop"]}})
        made = [o for text in files.values() for o in filter(None, yaml.safe_load_all(text))]
        self.assertEqual([len(o["rules"]) for o in made if o["kind"] == "Role"], [3])
        configured = next(yaml.safe_load(o["data"]["pathloom.yaml"]) for o in made if o["kind"] == "ConfigMap")
        self.assertEqual(configured["gateway_api"], {"enabled": True, "namespaces": ["shop"]})
        # Clusters are made for it, so there need be none.
        self.assertIn("gateway_api", config(rendered({"config": {"gateway_api": {"enabled": True}, "clusters": None, "routes": None}})))

    def test_capture_installs_its_rules_first(self):
        objects = rendered({"capture": {"enabled": True}})
        steps = {c["name"]: c for c in pods(objects)["initContainers"]}
        self.assertEqual(steps["capture"]["args"][:2], ["capture", "install"])
        self.assertEqual(steps["capture"]["securityContext"]["capabilities"]["add"], ["NET_ADMIN"])
        self.assertEqual(proxy(objects)["securityContext"]["capabilities"]["drop"], ["ALL"])
        self.assertNotIn("capture", {c["name"] for c in pods(rendered())["initContainers"]})

    def test_metrics_are_closed_unless_opened(self):
        objects = rendered()
        self.assertNotIn("admin", config(objects))
        self.assertFalse(any(kind in ("Service", "ServiceMonitor") for kind, _ in objects))
        objects = rendered({"metrics": {"enabled": True, "port": 9999}, "serviceMonitor": {"enabled": True, "interval": "5s", "labels": {"release": "p"}}})
        self.assertEqual(config(objects)["admin"], {"metrics": "0.0.0.0:9999"})
        self.assertEqual(objects["Service", "pathloom-metrics"]["spec"]["ports"][0]["port"], 9999)
        monitor = objects["ServiceMonitor", "pathloom"]
        self.assertEqual((monitor["spec"]["endpoints"][0]["interval"], monitor["metadata"]["labels"]["release"]), ("5s", "p"))
        # The address of the operators' port stays the operator's to choose, and probes follow it.
        for admin in ["unix:/run/a.sock", {"listen": "unix:/run/a.sock"}]:
            objects = rendered({"metrics": {"enabled": True}, "config": {"admin": admin}})
            self.assertEqual(config(objects)["admin"], {"listen": "unix:/run/a.sock", "metrics": "0.0.0.0:9902"})
            self.assertIn({"name": "PATHLOOM_ADMIN", "value": "unix:/run/a.sock"}, proxy(objects)["env"])

    def test_a_gpu_brings_its_image_its_device_and_its_configuration(self):
        objects = rendered({"gpu": {"enabled": True, "count": 2, "resource": "example.com/gpu"}, "image": {"tag": "7"}})
        self.assertEqual(proxy(objects)["image"], "pathloom:7-cuda")
        self.assertEqual(proxy(objects)["resources"]["limits"], {"memory": "512Mi", "example.com/gpu": 2})
        self.assertEqual(config(objects)["model"]["device"], "cuda")
        self.assertNotIn("model", config(rendered()))

    def test_spire_s_socket_is_where_the_configuration_looks_for_it(self):
        self.assertNotIn("identity", config(rendered()))
        by_csi = {"csi": {"driver": "csi.spiffe.io", "readOnly": True}}
        by_folder = {"hostPath": {"path": "/run/agents", "type": "DirectoryOrCreate"}}
        for values, source, socket in [({}, by_csi, "spire-agent.sock"), ({"hostPath": "/run/agents", "socket": "a.sock"}, by_folder, "a.sock")]:
            objects = rendered({"spire": {"enabled": True, **values}, "config": {"identity": {"hint": "shop"}}})
            mount = next(m for m in proxy(objects)["volumeMounts"] if m["name"] == "spire")
            self.assertTrue(mount["readOnly"])
            self.assertEqual(config(objects)["identity"], {"workload_api": f"unix://{mount['mountPath']}/{socket}", "hint": "shop"})
            volume = next(v for v in pods(objects)["volumes"] if v["name"] == "spire")
            self.assertEqual(volume, {"name": "spire", **source})
            self.assertEqual(checked(objects)[0], 0, checked(objects)[1])

    def test_the_other_values_are_where_they_belong(self):
        objects = rendered({**EVERYTHING, "fullnameOverride": "pathloom"}, name="other")
        pod = pods(objects)
        labels = objects["DaemonSet", "pathloom"]["spec"]["template"]["metadata"]
        self.assertEqual((labels["labels"]["team"], labels["annotations"]), ("mesh", {"a": "b"}))
        self.assertEqual(pod["imagePullSecrets"], [{"name": "registry"}])
        self.assertEqual(pod["nodeSelector"], {"kubernetes.io/os": "linux"})
        self.assertIn("nodeAffinity", pod["affinity"])
        self.assertEqual(pod["tolerations"], [{"operator": "Exists"}])
        self.assertEqual(pod["priorityClassName"], "system-node-critical")
        self.assertIn(EVERYTHING["env"][0], proxy(objects)["env"])
        self.assertIn(EVERYTHING["volumes"][0], pod["volumes"])
        self.assertIn(EVERYTHING["volumeMounts"][0], proxy(objects)["volumeMounts"])
        self.assertEqual(objects["ServiceAccount", "pathloom"]["metadata"]["annotations"], {"a": "b"})
        objects = rendered({"serviceAccount": {"create": False, "name": "mine"}})
        self.assertEqual(pods(objects)["serviceAccountName"], "mine")
        self.assertNotIn("ServiceAccount", {kind for kind, _ in objects})
        self.assertIn(("DaemonSet", "loom"), rendered({"nameOverride": "loom"}, name="loom"))

    def test_what_the_operator_writes_goes_before_what_the_chart_knows(self):
        objects = rendered({"config": {"node": {"zone": "eu-1b"}, "process": {"drain": "7s"}}})
        self.assertEqual(config(objects)["node"], {"name": "${NODE_NAME}", "zone": "eu-1b"})
        self.assertEqual(config(objects)["process"]["drain"], "7s")

    def test_wrong_values_are_refused_with_a_remedy(self):
        for values, words in [
            ({"config": {"clusters": None}}, "`config.clusters` is empty"),
            ({"networkPolicy": {"enabled": True}}, "needs `hostNetwork: false`"),
            ({"serviceMonitor": {"enabled": True}}, "needs `metrics.enabled`"),
            ({"metrics": {"port": 70000}}, "port"),
            ({"spire": {"enabled": True}, "config": {"identity": {"certificate": "/a.pem"}}}, "`config.identity.certificate` both say"),
            ({"spire": {"hostPath": "run"}}, "hostPath"),
            ({**ANNOTATED, "hostNetwork": False}, "needs `hostNetwork: true`"),
            ({**ANNOTATED, "rbac": {"create": False}}, "needs `rbac.create: true`"),
            ({"capture": ANNOTATED["capture"]}, "write `capture: tproxy`"),
            ({"config": {"capture": {"pods": "annotated"}}}, "`config.capture.pods` is what"),
            ({"capture": {"pods": "some"}}, "pods"),
            ({"ports": [{"name": "in", "containerPort": 15001, "protocol": "udp"}]}, "protocol"),
            ({"mesh": {"port": 0}}, "port"),
            ({"imaeg": {}}, "imaeg"),
        ]:
            with self.subTest(values=values):
                self.assertIn(words, refused(values))

    def test_annotated_pods_are_followed_by_a_container_that_may_see_them_and_write_rules(self):
        objects = rendered({**ANNOTATED, "volumeMounts": EVERYTHING["volumeMounts"], "volumes": EVERYTHING["volumes"]})
        self.assertEqual(config(objects)["capture"], {"pods": "annotated"})
        containers = pods(objects)["containers"]
        self.assertEqual([c["name"] for c in containers], ["pathloom", "capture"])
        agent = containers[1]
        self.assertEqual(agent["args"], ["capture", "follow", "--config=/etc/pathloom/pathloom.yaml", "--node=$(NODE_NAME)"])
        self.assertIn("NODE_NAME", [e["name"] for e in agent["env"]])
        self.assertEqual(agent["image"], proxy(objects)["image"])
        self.assertEqual(agent["securityContext"]["capabilities"], {"drop": ["ALL"], "add": ["NET_ADMIN"]})
        self.assertTrue(agent["securityContext"]["readOnlyRootFilesystem"])
        self.assertFalse(agent["securityContext"]["allowPrivilegeEscalation"])
        self.assertEqual(agent["resources"], {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}})
        # What the proxy's configuration may name lies there as well: the operators' socket, the files.
        mounts = [m["mountPath"] for m in agent["volumeMounts"]]
        self.assertEqual(mounts, ["/etc/pathloom", "/run/pathloom", "/etc/mesh"])
        # It installs the rules itself: before the proxy is ready nobody is captured.
        self.assertNotIn("capture", {c["name"] for c in pods(objects)["initContainers"]})
        # Nobody is captured any more when the proxy stops listening.
        self.assertEqual(proxy(objects)["lifecycle"], {"preStop": {"exec": {"command": ["sleep", "1"]}}})
        # The same command on the same file: it is the one that the binary has.
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pathloom.yaml"
            file.write_text(config_text(objects))
            args = [part.replace("/etc/pathloom/pathloom.yaml", str(file)) for part in agent["args"]]
            done = subprocess.run([PATHLOOM, *args, "--help"], env={**os.environ, **NAMED}, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            done = subprocess.run(
                [PATHLOOM, "capture", "install", "--dry-run", "--config", str(file)], env={**os.environ, **NAMED}, capture_output=True, text=True, check=False
            )
            self.assertIn("ip saddr @pods4", done.stdout, done.stderr)
        # Everywhere, whatever namespaces discovery reads; and what it may is no more than that.
        for values in [{}, {"rbac": {"namespaces": ["shop"]}}]:
            objects = rendered({**ANNOTATED, **values})
            self.assertEqual(
                objects["ClusterRole", "pathloom-capture"]["rules"],
                [{"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]}],
            )
            binding = objects["ClusterRoleBinding", "pathloom-capture"]
            self.assertEqual(binding["roleRef"]["name"], "pathloom-capture")
            self.assertEqual(binding["subjects"][0], {"kind": "ServiceAccount", "name": "pathloom", "namespace": "pathloom"})

    def test_without_annotated_pods_nobody_follows_any(self):
        for values in [{}, {"capture": {"pods": "annotated"}}, {"capture": {"enabled": True}}]:
            objects = rendered(values)
            self.assertEqual([c["name"] for c in pods(objects)["containers"]], ["pathloom"])
            self.assertNotIn("lifecycle", proxy(objects))
            self.assertNotIn("capture", config(objects))
            self.assertFalse(any(name.endswith("-capture") for _, name in objects))

    def test_every_value_is_in_the_schema_with_its_default(self):
        values = yaml.safe_load((HOME / "chart" / "values.yaml").read_text())
        with helm_python.Chart.load(str(HOME / "chart")) as chart:
            known = chart.schema if isinstance(chart.schema, dict) else yaml.safe_load(chart.schema)
        self.assertEqual(set(values), set(known["properties"]) - {"global"})


if __name__ == "__main__":
    unittest.main()
