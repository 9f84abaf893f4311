"""Each value of the chart varied, and what that changes in the rendering: all of it, and nothing else. test_values.py renders both.

A change is written as the path to it in what is rendered (`facts`): objects by kind and name, lists of things with names by these
names, the configuration as `config`, and DAEMON, POD and PROXY for the places that are often meant.
"""

from dataclasses import dataclass, field

GONE = "(gone)"
DAEMON = "DaemonSet/pathloom"
POD = f"{DAEMON}.spec.template.spec"
PROXY = f"{POD}.containers.pathloom"
FOLDER = f"{POD}.initContainers.folder"
AGENT = f"{POD}.containers.capture"
POLICY = "NetworkPolicy/pathloom.spec"


@dataclass
class Varied:
    """A value, what else is said with and without it, and what it changes."""

    to: object
    changes: dict
    under: dict = field(default_factory=dict)
    # The pod's address, of which the configuration must be right.
    pod: str = "10.0.0.1"


class Holds(dict):
    """What something that comes holds among other things, by the paths in it; compares equal where it does."""

    def __eq__(self, whole):
        return all(at(whole, path) == value for path, value in self.items())

    def __ne__(self, whole):
        return not self == whole


def at(whole, path):
    for key in path.split("."):
        if not isinstance(whole, dict) or key not in whole:
            return GONE
        whole = whole[key]
    return whole


def tree(made):
    """Lists of things with names become trees by these names."""
    if isinstance(made, dict):
        return {key: tree(value) for key, value in made.items()}
    if isinstance(made, list) and made and all(isinstance(one, dict) for one in made):
        names = {one.get("name") for one in made}
        if None not in names and len(names) == len(made):
            return {one["name"]: tree({key: value for key, value in one.items() if key != "name"}) for one in made}
    return made


def facts(objects, config):
    """What is rendered, as a tree."""
    found = {f"{kind}/{name}": tree(made) for (kind, name), made in objects.items() if kind != "ConfigMap"}
    found["ConfigMap"] = sorted(name for kind, name in objects if kind == "ConfigMap")
    return {**found, "config": config}


def changes(before, after, path=""):
    """Where two trees differ, as near to the root as they do, and what is there after."""
    if before == after:
        return {}
    if isinstance(before, dict) and isinstance(after, dict):
        found = {}
        for key in [*before, *(key for key in after if key not in before)]:
            place = f"{path}.{key}" if path else key
            if key in before and key in after:
                found.update(changes(before[key], after[key], place))
            else:
                found[place] = after.get(key, GONE)
        return found
    return {path: after}


APART = {"hostNetwork": False}
METRICS = {"metrics": {"enabled": True}}
MONITOR = {**METRICS, "serviceMonitor": {"enabled": True}}
LIMITED = {**APART, "ports": [{"name": "in", "containerPort": 15001}], "networkPolicy": {"enabled": True}}
MESH = {"mesh": {"enabled": True}}
SPIRE = {"spire": {"enabled": True}}
GPU = {"gpu": {"enabled": True}}
TAKEN = {"capture": {"enabled": True}, "config": {"workloads": {"captured": {"listen": "[::]:15006", "capture": "tproxy"}}}}
FOLLOWED = {**TAKEN, "capture": {"enabled": True, "pods": "annotated"}}
SOME = [{"namespaceSelector": {"matchLabels": {"team": "shop"}}}]
AFFINITY = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}}
# What an update is like where the next pod does not take the sockets over.
NO_HANDOVER = {
    f"{DAEMON}.spec.updateStrategy.rollingUpdate.maxSurge": 0,
    f"{DAEMON}.spec.updateStrategy.rollingUpdate.maxUnavailable": 1,
    f"{POD}.initContainers": GONE,
    f"{POD}.volumes.handover": GONE,
    f"{PROXY}.args": ["run", "--config=/etc/pathloom/pathloom.yaml"],
    f"{PROXY}.volumeMounts.handover": GONE,
    "config.process.handover": GONE,
}


def renamed(name):
    """What changes where everything is called otherwise."""
    return {
        **{f"{kind}/pathloom": GONE for kind in ["ClusterRole", "ClusterRoleBinding", "DaemonSet", "ServiceAccount"]},
        "ConfigMap": [name],
        f"ClusterRole/{name}": Holds({"metadata.name": name}),
        f"ClusterRoleBinding/{name}": Holds({"roleRef.name": name, f"subjects.{name}.namespace": "pathloom"}),
        f"DaemonSet/{name}": Holds({"spec.template.spec.serviceAccountName": name, "spec.template.spec.volumes.config.configMap.name": name}),
        f"ServiceAccount/{name}": Holds({"metadata.name": name}),
    }


def images(image, *containers):
    return {f"{container}.image": image for container in containers}


VARIED = {
    "config": Varied({"routes": [{"cluster": "catalog"}]}, {"config.routes": [{"cluster": "catalog"}]}),
    "image.repository": Varied("registry.example/loom", images("registry.example/loom:0.1.0", PROXY, FOLDER, AGENT), FOLLOWED),
    "image.tag": Varied("7", images("pathloom:7", PROXY, FOLDER, AGENT), FOLLOWED),
    "image.pullPolicy": Varied("Always", {f"{container}.imagePullPolicy": "Always" for container in [PROXY, FOLDER, AGENT]}, FOLLOWED),
    "imagePullSecrets": Varied([{"name": "registry"}], {f"{POD}.imagePullSecrets": {"registry": {}}}),
    "nameOverride": Varied("weaver", renamed("pathloom-weaver")),
    "fullnameOverride": Varied("weaver", renamed("weaver")),
    "hostNetwork": Varied(False, {**NO_HANDOVER, f"{POD}.hostNetwork": GONE, f"{POD}.dnsPolicy": GONE}),
    "ports": Varied(
        [{"name": "in", "containerPort": 15001, "hostPort": 15001}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}],
        {f"{PROXY}.ports": {"in": {"containerPort": 15001, "hostPort": 15001}, "dns": {"containerPort": 53, "protocol": "UDP"}}},
        APART,
    ),
    "handover.enabled": Varied(False, NO_HANDOVER),
    "handover.folder": Varied(
        "/run/other",
        {
            f"{PROXY}.volumeMounts.handover.mountPath": "/run/other",
            f"{FOLDER}.volumeMounts.handover.mountPath": "/run/other",
            f"{FOLDER}.command": ["sh", "-c", 'chown 10001:10001 "$0" && chmod 0700 "$0"', "/run/other"],
            f"{POD}.volumes.handover.hostPath.path": "/run/other",
            "config.process.handover": "/run/other/handover.sock",
        },
    ),
    "metrics.enabled": Varied(
        True,
        {
            "Service/pathloom-metrics": Holds({"spec.clusterIP": "None", "spec.ports.metrics": {"port": 9902, "targetPort": 9902}}),
            "config.admin": {"metrics": "0.0.0.0:9902"},
        },
    ),
    "metrics.address": Varied("10.0.0.1", {"config.admin.metrics": "10.0.0.1:9902"}, METRICS),
    "metrics.port": Varied(
        9999,
        {
            "Service/pathloom-metrics.spec.ports.metrics.port": 9999,
            "Service/pathloom-metrics.spec.ports.metrics.targetPort": 9999,
            f"{PROXY}.ports.metrics.containerPort": 9999,
            "config.admin.metrics": "0.0.0.0:9999",
        },
        {**METRICS, **APART},
    ),
    "serviceMonitor.enabled": Varied(
        True,
        {
            "ServiceMonitor/pathloom": Holds(
                {
                    "metadata.namespace": "pathloom",
                    "spec.selector.matchLabels": {"app.kubernetes.io/name": "pathloom", "app.kubernetes.io/instance": "pathloom"},
                }
            )
        },
        METRICS,
    ),
    "serviceMonitor.interval": Varied(
        "5s",
        {
            "ServiceMonitor/pathloom.spec.endpoints": [
                {
                    "port": "metrics",
                    "path": "/metrics",
                    "interval": "5s",
                    "relabelings": [{"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}],
                }
            ]
        },
        MONITOR,
    ),
    "serviceMonitor.labels": Varied({"release": "prometheus"}, {"ServiceMonitor/pathloom.metadata.labels.release": "prometheus"}, MONITOR),
    "networkPolicy.enabled": Varied(
        True,
        {"NetworkPolicy/pathloom": Holds({"spec.policyTypes": ["Ingress"], "spec.ingress": [{"from": [{"namespaceSelector": {}}]}]})},
        APART,
    ),
    "networkPolicy.from": Varied(SOME, {f"{POLICY}.ingress": [{"from": SOME, "ports": [{"protocol": "TCP", "port": 15001}]}]}, LIMITED),
    "networkPolicy.metricsFrom": Varied(
        SOME,
        {
            f"{POLICY}.ingress": [
                {"from": [{"namespaceSelector": {}}], "ports": [{"protocol": "TCP", "port": 15001}]},
                {"from": SOME, "ports": [{"protocol": "TCP", "port": 9902}]},
            ]
        },
        {**LIMITED, **METRICS},
    ),
    "networkPolicy.egress": Varied(
        [{"to": SOME}],
        {
            f"{POLICY}.policyTypes": ["Ingress", "Egress"],
            f"{POLICY}.egress": [{"to": SOME}, {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}],
        },
        LIMITED,
    ),
    "mesh.enabled": Varied(
        True,
        {
            "Service/pathloom-mesh": Holds({"spec.publishNotReadyAddresses": True, "spec.ports.gossip.protocol": "UDP"}),
            f"{PROXY}.volumeMounts.mesh": {"mountPath": "/etc/pathloom-mesh", "readOnly": True},
            f"{POD}.volumes.mesh": {"secret": {"secretName": "pathloom-mesh", "items": [{"key": "key", "path": "key"}]}},
            "config.mesh": {
                "listen": "0.0.0.0:7946",
                "advertise": "${POD_IP}:7946",
                "seeds": ["pathloom-mesh:7946"],
                "key": "/etc/pathloom-mesh/key",
            },
        },
    ),
    "mesh.address": Varied("[::]", {"config.mesh.listen": "[::]:7946", "config.mesh.advertise": "[${POD_IP}]:7946"}, MESH, pod="fd00::1"),
    "mesh.port": Varied(
        7000,
        {
            "Service/pathloom-mesh.spec.ports.gossip.port": 7000,
            "Service/pathloom-mesh.spec.ports.gossip.targetPort": 7000,
            "config.mesh.listen": "0.0.0.0:7000",
            "config.mesh.advertise": "${POD_IP}:7000",
            "config.mesh.seeds": ["pathloom-mesh:7000"],
        },
        MESH,
    ),
    "mesh.secret.name": Varied("shared", {f"{POD}.volumes.mesh.secret.secretName": "shared"}, MESH),
    "mesh.secret.key": Varied("gossip", {f"{POD}.volumes.mesh.secret.items": [{"key": "gossip", "path": "key"}]}, MESH),
    "capture.enabled": Varied(
        True,
        {
            f"{PROXY}.securityContext.capabilities.add": ["NET_ADMIN", "NET_BIND_SERVICE"],
            f"{PROXY}.securityContext.runAsUser": 0,
            f"{PROXY}.securityContext.runAsGroup": GONE,
            f"{PROXY}.securityContext.runAsNonRoot": GONE,
            f"{FOLDER}.command": ["sh", "-c", 'chown 0:0 "$0" && chmod 0700 "$0"', "/run/pathloom"],
            f"{POD}.initContainers.capture": Holds({"args": ["capture", "install", "--config", "/etc/pathloom/pathloom.yaml"]}),
        },
    ),
    "capture.pods": Varied(
        "annotated",
        {
            f"{POD}.initContainers.capture": GONE,
            AGENT: Holds({"args": ["capture", "follow", "--config=/etc/pathloom/pathloom.yaml", "--node=$(NODE_NAME)"]}),
            f"{PROXY}.lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}},
            "ClusterRole/pathloom-capture": Holds({"rules": [{"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]}]}),
            "ClusterRoleBinding/pathloom-capture": Holds({"roleRef.name": "pathloom-capture"}),
            "config.capture": {"pods": "annotated"},
        },
        TAKEN,
    ),
    "capture.resources": Varied({"limits": {"memory": "1Gi"}}, {f"{AGENT}.resources.limits.memory": "1Gi"}, FOLLOWED),
    "spire.enabled": Varied(
        True,
        {
            f"{PROXY}.volumeMounts.spire": {"mountPath": "/spiffe-workload-api", "readOnly": True},
            f"{POD}.volumes.spire": {"csi": {"driver": "csi.spiffe.io", "readOnly": True}},
            "config.identity": {"workload_api": "unix:///spiffe-workload-api/spire-agent.sock"},
        },
    ),
    "spire.csiDriver": Varied("csi.example", {f"{POD}.volumes.spire.csi.driver": "csi.example"}, SPIRE),
    "spire.hostPath": Varied(
        "/run/agents", {f"{POD}.volumes.spire.csi": GONE, f"{POD}.volumes.spire.hostPath": {"path": "/run/agents", "type": "DirectoryOrCreate"}}, SPIRE
    ),
    "spire.socket": Varied("a.sock", {"config.identity.workload_api": "unix:///spiffe-workload-api/a.sock"}, SPIRE),
    "gpu.enabled": Varied(
        True,
        {**images("pathloom:0.1.0-cuda", PROXY, FOLDER), f"{PROXY}.resources.limits.nvidia.com/gpu": 1, "config.model": {"device": "cuda"}},
    ),
    "gpu.resource": Varied(
        "example.com/gpu", {f"{PROXY}.resources.limits.nvidia.com/gpu": GONE, f"{PROXY}.resources.limits.example.com/gpu": 1}, GPU
    ),
    "gpu.count": Varied(2, {f"{PROXY}.resources.limits.nvidia.com/gpu": 2}, GPU),
    "gpu.imageSuffix": Varied("-gpu", images("pathloom:0.1.0-gpu", PROXY, FOLDER), GPU),
    "priorityClassName": Varied("mesh", {f"{POD}.priorityClassName": "mesh"}),
    "resources": Varied(
        {"requests": {"cpu": "2"}, "limits": {"memory": "4Gi"}}, {f"{PROXY}.resources.requests.cpu": "2", f"{PROXY}.resources.limits.memory": "4Gi"}
    ),
    "terminationGracePeriodSeconds": Varied(60, {f"{POD}.terminationGracePeriodSeconds": 60, "config.process.drain": "55s"}),
    "tolerations": Varied([{"key": "a", "operator": "Exists"}], {f"{POD}.tolerations": [{"key": "a", "operator": "Exists"}]}),
    "nodeSelector": Varied({"kubernetes.io/os": "linux"}, {f"{POD}.nodeSelector": {"kubernetes.io/os": "linux"}}),
    "affinity": Varied(AFFINITY, {f"{POD}.affinity": AFFINITY}),
    "serviceAccount.create": Varied(
        False,
        {
            "ServiceAccount/pathloom": GONE,
            f"{POD}.serviceAccountName": "default",
            "ClusterRoleBinding/pathloom.subjects.pathloom": GONE,
            "ClusterRoleBinding/pathloom.subjects.default": {"kind": "ServiceAccount", "namespace": "pathloom"},
        },
    ),
    "serviceAccount.name": Varied(
        "mine",
        {
            "ServiceAccount/pathloom": GONE,
            "ServiceAccount/mine": Holds({"metadata.namespace": "pathloom"}),
            f"{POD}.serviceAccountName": "mine",
            "ClusterRoleBinding/pathloom.subjects.pathloom": GONE,
            "ClusterRoleBinding/pathloom.subjects.mine": {"kind": "ServiceAccount", "namespace": "pathloom"},
        },
    ),
    "serviceAccount.annotations": Varied({"a": "b"}, {"ServiceAccount/pathloom.metadata.annotations": {"a": "b"}}),
    "rbac.create": Varied(
        False, {"ClusterRole/pathloom": GONE, "ClusterRoleBinding/pathloom": GONE, f"{POD}.automountServiceAccountToken": False}
    ),
    "rbac.namespaces": Varied(
        ["shop"],
        {
            "ClusterRole/pathloom": GONE,
            "ClusterRoleBinding/pathloom": GONE,
            "Role/pathloom": Holds({"metadata.namespace": "shop"}),
            "RoleBinding/pathloom": Holds({"metadata.namespace": "shop", "roleRef.kind": "Role", "subjects.pathloom.namespace": "pathloom"}),
        },
    ),
    "podAnnotations": Varied({"a": "b"}, {f"{DAEMON}.spec.template.metadata.annotations": {"a": "b"}}),
    "podLabels": Varied({"team": "mesh"}, {f"{DAEMON}.spec.template.metadata.labels.team": "mesh"}),
    "env": Varied([{"name": "API_KEY", "value": "x"}], {f"{container}.env.API_KEY": {"value": "x"} for container in [PROXY, AGENT]}, FOLLOWED),
    "volumes": Varied([{"name": "a", "emptyDir": {}}], {f"{POD}.volumes.a": {"emptyDir": {}}}),
    "volumeMounts": Varied(
        [{"name": "a", "mountPath": "/a"}],
        {f"{container}.volumeMounts.a": {"mountPath": "/a"} for container in [PROXY, AGENT]},
        {**FOLLOWED, "volumes": [{"name": "a", "emptyDir": {}}]},
    ),
    # Sections of the configuration by which the chart goes, too.
    "config.gateway_api.enabled": Varied(
        True,
        {
            "ClusterRole/pathloom.rules": [
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
                {"apiGroups": ["gateway.networking.k8s.io"], "resources": ["httproutes", "grpcroutes", "referencegrants"], "verbs": ["list", "watch"]},
                {"apiGroups": [""], "resources": ["services"], "verbs": ["list", "watch"]},
            ],
            "config.gateway_api": {"enabled": True},
        },
    ),
    "config.gateway_api.status": Varied(
        True,
        {
            "ClusterRole/pathloom.rules": [
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
                {"apiGroups": ["gateway.networking.k8s.io"], "resources": ["httproutes", "grpcroutes", "referencegrants"], "verbs": ["list", "watch"]},
                {"apiGroups": [""], "resources": ["services"], "verbs": ["list", "watch"]},
                {"apiGroups": ["gateway.networking.k8s.io"], "resources": ["httproutes/status", "grpcroutes/status"], "verbs": ["patch"]},
            ],
            "config.gateway_api.status": True,
        },
        {"config": {"gateway_api": {"enabled": True}}},
    ),
    "config.mesh.nats": Varied(
        {"servers": ["nats://nats.mesh.svc:4222"]},
        {
            "Service/pathloom-mesh": GONE,
            "config.mesh.listen": GONE,
            "config.mesh.advertise": GONE,
            "config.mesh.seeds": GONE,
            "config.mesh.nats": {"servers": ["nats://nats.mesh.svc:4222"]},
        },
        MESH,
    ),
}
