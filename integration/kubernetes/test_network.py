"""Who may connect to whom: the chart's NetworkPolicy, rule by rule, and gossip among the pods (`mesh`).

Run by `make test-kubernetes`.
"""

import functools
import unittest

import yaml

from chart import HOME, checked, config, merged, pods, proxy, refused, rendered, texts, valid

APART = {
    "hostNetwork": False,
    "ports": [
        {"name": "in", "containerPort": 15001, "hostPort": 15001},
        {"name": "plain", "containerPort": 15002, "protocol": "TCP"},
        {"name": "gossip", "containerPort": 7946, "hostPort": 7946, "protocol": "UDP"},
        {"name": "signals", "containerPort": 2905, "protocol": "SCTP"},
    ],
    "networkPolicy": {"enabled": True},
}
OWN = {"app.kubernetes.io/name": "pathloom", "app.kubernetes.io/instance": "pathloom"}
EACH_OTHER = [{"podSelector": {"matchLabels": OWN}}]
GOSSIP = [{"protocol": "UDP", "port": 7946}]
SHOP = [{"namespaceSelector": {"matchLabels": {"team": "shop"}}}]


def policy(*values):
    objects = rendered(functools.reduce(merged, values, APART))
    made = objects["NetworkPolicy", "pathloom"]
    valid(made)
    assert checked(objects)[0] == 0, checked(objects)[1]
    return made["spec"]


class Policy(unittest.TestCase):
    def test_each_declared_port_is_open_by_its_own_protocol(self):
        spec = policy({"networkPolicy": {"from": SHOP}})
        self.assertEqual(spec["podSelector"], {"matchLabels": OWN})
        self.assertEqual(spec["policyTypes"], ["Ingress"])
        ports = [
            {"protocol": "TCP", "port": 15001},
            {"protocol": "TCP", "port": 15002},
            {"protocol": "UDP", "port": 7946},
            {"protocol": "SCTP", "port": 2905},
        ]
        self.assertEqual(spec["ingress"], [{"from": SHOP, "ports": ports}])
        # The container says the same of them.
        declared = proxy(rendered(APART))["ports"]
        self.assertEqual([{"protocol": p.get("protocol", "TCP"), "port": p["containerPort"]} for p in declared], ports)

    def test_everybody_in_the_cluster_may_connect_unless_somebody_is_named(self):
        self.assertEqual([rule["from"] for rule in policy()["ingress"]], [[{"namespaceSelector": {}}]])
        # Where no port is named all are meant.
        self.assertEqual(policy({"ports": []})["ingress"], [{"from": [{"namespaceSelector": {}}]}])

    def test_metrics_are_read_by_whom_metrics_from_names_and_by_nobody_else(self):
        monitoring = [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}, "podSelector": {"matchLabels": {"app": "prometheus"}}}]
        opened = {"metrics": {"enabled": True, "port": 9999}, "networkPolicy": {"metricsFrom": monitoring}}
        self.assertEqual(policy(opened)["ingress"][1:], [{"from": monitoring, "ports": [{"protocol": "TCP", "port": 9999}]}])
        for closed in [{"networkPolicy": {"metricsFrom": monitoring}}, {"metrics": {"enabled": True, "port": 9999}}]:
            self.assertNotIn(9999, [port["port"] for rule in policy(closed)["ingress"] for port in rule["ports"]])
            self.assertEqual(len(policy(closed)["ingress"]), 1)

    def test_the_proxies_hear_each_other_whoever_else_may_connect(self):
        heard = {"from": EACH_OTHER, "ports": GOSSIP}
        by_chart = {"mesh": {"enabled": True}, "ports": APART["ports"][:1]}
        by_hand = {"config": {"mesh": {"listen": "0.0.0.0:7946", "key": "/k", "seeds": ["10.0.0.1:7946"]}}}
        for values in [by_chart, by_hand]:
            # The declared ports are the shop's alone; gossip comes from the other proxies all the same.
            spec = policy(values, {"networkPolicy": {"from": SHOP}})
            self.assertEqual(spec["policyTypes"], ["Ingress"])
            self.assertEqual(spec["ingress"][1:], [heard])
        # The port follows the value; and where nothing is heard, nothing is opened.
        self.assertEqual(policy({"mesh": {"enabled": True, "port": 7000}})["ingress"][1]["ports"], [{"protocol": "UDP", "port": 7000}])
        self.assertEqual(len(policy()["ingress"]), 1)
        nats = {"mesh": {"enabled": True}, "config": {"mesh": {"nats": {"servers": ["nats://nats.mesh.svc:4222"]}}}}
        self.assertEqual(len(policy(nats)["ingress"]), 1)

    def test_where_what_they_call_is_limited_they_still_reach_each_other_and_dns(self):
        calls = [{"to": SHOP, "ports": [{"protocol": "TCP", "port": 8080}]}]
        dns = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
        limited = {"networkPolicy": {"from": SHOP, "egress": calls}}
        spec = policy({"mesh": {"enabled": True}}, limited)
        self.assertEqual(spec["policyTypes"], ["Ingress", "Egress"])
        self.assertEqual(spec["egress"], [*calls, dns, {"to": EACH_OTHER, "ports": GOSSIP}])
        self.assertEqual(spec["ingress"][1:], [{"from": EACH_OTHER, "ports": GOSSIP}])
        # Without gossip there is nothing to say to each other.
        self.assertEqual(policy(limited)["egress"], [*calls, dns])


class Gossip(unittest.TestCase):
    def test_without_the_value_nothing_is_shared(self):
        objects = rendered()
        self.assertNotIn(("Service", "pathloom-mesh"), objects)
        self.assertNotIn("mesh", config(objects))
        self.assertFalse(any(volume["name"] == "mesh" for volume in pods(objects)["volumes"]))

    def test_a_name_leads_to_all_pods_and_the_configuration_begins_there(self):
        for apart in [{}, {"hostNetwork": False}]:
            objects = rendered({"mesh": {"enabled": True}, **apart})
            spec = objects["Service", "pathloom-mesh"]["spec"]
            self.assertEqual((spec["clusterIP"], spec["publishNotReadyAddresses"], spec["selector"]), ("None", True, OWN))
            self.assertEqual(spec["ports"], [{"name": "gossip", "port": 7946, "targetPort": 7946, "protocol": "UDP"}])
            self.assertEqual(
                config(objects)["mesh"],
                {
                    "listen": "0.0.0.0:7946",
                    "advertise": "${POD_IP}:7946",
                    "seeds": ["pathloom-mesh:7946"],
                    "key": "/etc/pathloom-mesh/key",
                },
            )
            # Nodes are told apart by their names, and what the configuration is filled in with is there.
            self.assertEqual(config(objects)["node"]["name"], "${NODE_NAME}")
            self.assertLessEqual({"NODE_NAME", "POD_IP"}, {variable["name"] for variable in proxy(objects)["env"]})
        # The seeds are the Service's name, whatever the release is called; it is in the pods' namespace, which needs no naming.
        objects = rendered({"mesh": {"enabled": True}}, name="loom", namespace="mesh")
        seed = yaml.safe_load(objects["ConfigMap", "loom-pathloom"]["data"]["pathloom.yaml"])["mesh"]["seeds"][0]
        (service,) = [o["metadata"] for (kind, _), o in objects.items() if kind == "Service"]
        self.assertEqual((seed, service["namespace"]), (f"{service['name']}:7946", "mesh"))
        self.assertEqual(objects["DaemonSet", "loom-pathloom"]["metadata"]["namespace"], "mesh")

    def test_the_key_comes_from_a_secret(self):
        for secret, name, key in [({}, "pathloom-mesh", "key"), ({"name": "shared", "key": "gossip.key"}, "shared", "gossip.key")]:
            objects = rendered({"mesh": {"enabled": True, "secret": secret}})
            volume = next(v for v in pods(objects)["volumes"] if v["name"] == "mesh")
            self.assertEqual(volume["secret"], {"secretName": name, "items": [{"key": key, "path": "key"}]})
            mount = next(m for m in proxy(objects)["volumeMounts"] if m["name"] == "mesh")
            self.assertTrue(mount["readOnly"])
            # A file that is mounted by itself would never change.
            self.assertNotIn("subPath", mount)
            self.assertEqual(config(objects)["mesh"]["key"], f"{mount['mountPath']}/key")
            # Nothing of the key itself is rendered, and nobody else in the pod has it.
            self.assertFalse(any(kind == "Secret" for kind, _ in objects))
            others = [*pods(objects)["initContainers"], *pods(objects)["containers"][1:]]
            self.assertNotIn("mesh", [m["name"] for c in others for m in c["volumeMounts"]])

    def test_who_installs_it_is_told_how_to_make_the_secret(self):
        def notes(**values):
            (text,) = texts(values, ends="NOTES.txt").values()
            return text

        made = 'kubectl -n pathloom create secret generic pathloom-mesh --from-literal=key="$(head -c 32 /dev/urandom | base64)"'
        self.assertIn(made, notes(mesh={"enabled": True}))
        self.assertIn("generic shared --from-literal=gossip=", notes(mesh={"enabled": True, "secret": {"name": "shared", "key": "gossip"}}))
        self.assertNotIn("secret", notes())

    def test_addresses_are_written_as_their_kind_is(self):
        objects = rendered({"mesh": {"enabled": True, "address": "[::]"}})
        self.assertEqual(config(objects)["mesh"]["advertise"], "[${POD_IP}]:7946")
        self.assertEqual(checked(objects, POD_IP="fd00::1")[0], 0)
        # A family that the pod has no address of is found before anything is shared.
        self.assertIn("is not an IP address and a port", checked(rendered({"mesh": {"enabled": True}}), POD_IP="fd00::1")[1])

    def test_through_nats_the_chart_brings_the_key_alone(self):
        objects = rendered({"mesh": {"enabled": True}, "config": {"mesh": {"nats": {"servers": ["nats://nats.mesh.svc:4222"]}}}})
        self.assertEqual(config(objects)["mesh"], {"key": "/etc/pathloom-mesh/key", "nats": {"servers": ["nats://nats.mesh.svc:4222"]}})
        self.assertEqual(checked(objects)[0], 0, checked(objects)[1])
        self.assertNotIn(("Service", "pathloom-mesh"), objects)

    def test_what_the_operator_says_of_the_mesh_goes_before_what_the_chart_knows(self):
        said = {"seeds": ["10.0.0.7:7946"], "advertise": "10.9.9.9:7946", "budget": "128KiB", "hops": 3}
        objects = rendered({"mesh": {"enabled": True}, "config": {"mesh": said}})
        self.assertEqual(config(objects)["mesh"], {"listen": "0.0.0.0:7946", "key": "/etc/pathloom-mesh/key", **said})
        for key, remedy in [("listen", "`mesh.address` and `mesh.port`"), ("key", "`mesh.secret`")]:
            words = refused({"mesh": {"enabled": True}, "config": {"mesh": {key: "x"}}})
            self.assertIn(f"`config.mesh.{key}` is what {remedy} say", words)

    def test_the_guide_s_example_is_right(self):
        guide = (HOME / "README.md").read_text()
        section = guide.split("## Sharing what is seen\n", 1)[1].split("\n## ", 1)[0]
        values = yaml.safe_load(section.split("```yaml\n", 1)[1].split("```", 1)[0])
        objects = rendered(values)
        for made in objects.values():
            valid(made)
        code, words = checked(objects)
        self.assertEqual((code, "warning" in words), (0, False), words)
        self.assertEqual(config(objects)["mesh"]["budget"], values["config"]["mesh"]["budget"])
        self.assertIn(("Service", "pathloom-mesh"), objects)
        # The command that makes the Secret makes the one that the pods wait for.
        secret = next(v for v in pods(objects)["volumes"] if v["name"] == "mesh")["secret"]
        self.assertIn(f"create secret generic {secret['secretName']} --from-literal={secret['items'][0]['key']}=", section)


if __name__ == "__main__":
    unittest.main()
