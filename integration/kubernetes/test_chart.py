"""What the Helm chart renders: right by Kubernetes' schemas, and as each value says.

Run by `make test-kubernetes`. The rendering is Helm's own code (helm-python-sdk holds its library), the schemas are those of
`kubernetes-validate`, and the configuration is judged by `pathloom check`. `--bless` writes what the chart renders from
example.yaml to kustomize/base.
"""

import copy
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "proxy-config" / "kubernetes"
BASE = HOME / "kustomize" / "base"
PATHLOOM = os.environ["PATHLOOM_BINARY"]
EXAMPLE = yaml.safe_load((HOME / "example.yaml").read_text())
# The oldest that the chart says it runs on, and one that is new.
VERSIONS = ["1.25", "1.36"]
NAMED = {"NODE_NAME": "node-1", "NODE_IP": "10.0.0.1", "POD_IP": "10.0.0.1", "NODE_ZONE": "eu-1a"}


def merged(into, values):
    for key, value in values.items():
        into[key] = merged(into.get(key, {}), value) if isinstance(value, dict) and isinstance(into.get(key), dict) else value
    return into


def texts(values=None, name="pathloom", namespace="pathloom"):
    """What the chart renders, by its file; with example.yaml's values below those given."""
    values = merged(copy.deepcopy(EXAMPLE), values or {})
    with helm_python.Chart.load(str(HOME / "chart")) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name=name, namespace=namespace)
    return {path: text for path, text in sorted(files.items()) if path.endswith(".yaml")}


def rendered(values=None, name="pathloom", namespace="pathloom"):
    """The rendered objects by kind and name."""
    objects = {}
    for text in texts(values, name, namespace).values():
        for made in filter(None, yaml.safe_load_all(text)):
            objects[made["kind"], made["metadata"]["name"]] = made
    return objects


def refused(values):
    try:
        rendered(values)
    except helm_python.HelmError as error:
        return str(error)
    raise AssertionError(f"{values} was taken")


def pods(objects):
    return objects["DaemonSet", "pathloom"]["spec"]["template"]["spec"]


def proxy(objects):
    return pods(objects)["containers"][0]


def config_text(objects):
    return objects["ConfigMap", "pathloom"]["data"]["pathloom.yaml"]


def config(objects):
    return yaml.safe_load(config_text(objects))


def checked(objects):
    """The exit code and the words of `pathloom check` on the rendered configuration."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(config_text(objects))
        file.flush()
        done = subprocess.run([PATHLOOM, "check", file.name], env={**os.environ, **NAMED}, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


EVERYTHING = {
    "metrics": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "gpu": {"enabled": True},
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
    "ports": [{"name": "in", "containerPort": 15001, "hostPort": 15001}],
    "metrics": {"enabled": True},
    "spire": {"enabled": True},
    "networkPolicy": {"enabled": True, "from": [{"podSelector": {}}], "metricsFrom": [{"namespaceSelector": {}}]},
}


class Chart(unittest.TestCase):
    def test_every_rendering_is_right_by_kubernetes_schemas_and_its_configuration_by_pathloom(self):
        for values in [{}, EVERYTHING, ANNOTATED, APART]:
            objects = rendered(values)
            for (kind, name), made in objects.items():
                if kind == "ServiceMonitor":
                    continue  # The operator's own, which Kubernetes has no schema of.
                for version in VERSIONS:
                    with self.subTest(kind=kind, name=name, version=version):
                        kubernetes_validate.validate(made, version, strict=True)
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
            kubernetes_validate.validate(one, VERSIONS[0], strict=True)
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

    def test_the_readme_s_values_are_the_chart_s(self):
        section = (ROOT / "README.md").read_text().split("### In Kubernetes\n", 1)[1].split("\n### ", 1)[0]
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        named = [row.split("`")[1] for row in rows]
        values = yaml.safe_load((HOME / "chart" / "values.yaml").read_text())
        self.assertGreaterEqual(len(named), 8)
        for name in named:
            at = values
            for part in name.split("."):
                self.assertIn(part, at, name)
                at = at[part]

    def test_kustomize_s_base_is_what_the_chart_renders(self):
        for path, text in kustomize().items():
            self.assertEqual(path.read_text(), text, f"{path}: `make bless-kubernetes` writes it anew")

    def test_kubectl_builds_both_kustomizations(self):
        built = {}
        for name in ["base", "gpu"]:
            done = subprocess.run(["kubectl", "kustomize", str(HOME / "kustomize" / name)], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            built[name] = {(o["kind"], o["metadata"]["name"]): o for o in filter(None, yaml.safe_load_all(done.stdout))}
            for made in built[name].values():
                kubernetes_validate.validate(made, VERSIONS[-1], strict=True)
        self.assertEqual(set(built["base"]), set(built["gpu"]))
        self.assertEqual(proxy(built["gpu"])["resources"]["limits"], {"memory": "512Mi", "nvidia.com/gpu": 1})
        self.assertEqual(proxy(built["gpu"])["image"], proxy(built["base"])["image"] + "-cuda")
        self.assertEqual(pods(built["gpu"])["nodeSelector"], {"nvidia.com/gpu.present": "true"})


def kustomize():
    """The files of kustomize/base, as the chart renders them."""
    head = "# Written by `make bless-kubernetes` from the chart and example.yaml.\n"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "pathloom", "labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}
    objects = {("Namespace", "pathloom"): namespace, **rendered()}
    texts, names = {}, []
    for (kind, _), made in objects.items():
        labels = made["metadata"].get("labels", {})
        for helm in ["app.kubernetes.io/managed-by", "helm.sh/chart"]:
            labels.pop(helm, None)
        names.append(f"{kind.lower()}.yaml")
        texts[BASE / names[-1]] = head + yaml.safe_dump(made, sort_keys=False, width=1000)
    top = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": names}
    texts[BASE / "kustomization.yaml"] = head + yaml.safe_dump(top, sort_keys=False)
    return texts


if __name__ == "__main__":
    if "--bless" in sys.argv:
        BASE.mkdir(exist_ok=True)
        for file, text in kustomize().items():
            file.write_text(text)
    else:
        unittest.main()
