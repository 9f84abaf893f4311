"""The kustomizations are what the chart renders: as files, and as `kubectl kustomize` builds them.

Run by `make test-kubernetes`.
"""

import functools
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml

import kustomize
from chart import HOME, checked, config, merged, pods, rendered, valid
from kustomize import BASES, COMPONENTS, TOP, WHOLE, plain, values_of



@functools.cache
def knows_components():
    """Whether this kubectl is 1.22 or newer. Debian 12's is not."""
    help = subprocess.run(["kubectl", "kustomize", "--help"], capture_output=True, text=True, check=True).stdout
    return "--enable-helm" in help


def built(folder):
    """What `kubectl kustomize` makes of a folder, by kind and name."""
    if "components" in yaml.safe_load((Path(folder) / "kustomization.yaml").read_text()) and not knows_components():
        raise unittest.SkipTest("this kubectl knows no components of kustomize: install 1.22 or newer to test them")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    objects = list(filter(None, yaml.safe_load_all(done.stdout)))
    found = {(made["kind"], made["metadata"]["name"]): made for made in objects}
    assert len(found) == len(objects), "an object comes twice"
    return found


def overlay(base, components, own=None, whole=False, **more):
    """What kubectl makes of a base with components, and with a configuration of one's own."""
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "kustomize"
        shutil.copytree(TOP, copied)
        mine = copied / "mine"
        mine.mkdir()
        first = []
        if own is not None:
            shutil.copytree(TOP / "example" / "configuration", mine / "configuration")
            (mine / "configuration" / "pathloom.yaml").write_text(yaml.safe_dump(own))
            file = mine / "configuration" / "kustomization.yaml"
            made = yaml.safe_load(file.read_text())
            if whole:
                made["configMapGenerator"][0]["options"]["annotations"] = {WHOLE: "whole"}
            file.write_text(yaml.safe_dump(made))
            first = ["configuration"]
        top = {"resources": [f"../{base}"], "components": [*first, *(f"../components/{name}" for name in components)], **more}
        (mine / "kustomization.yaml").write_text(yaml.safe_dump(top))
        return built(mine)


def comparable(objects):
    """Without the namespace, which Helm makes by itself, and without the order of what has none."""
    found = {}
    for key, made in objects.items():
        if key[0] == "Namespace":
            continue
        if key == ("ConfigMap", "pathloom"):
            made = {**made, "data": config(objects)}
        if key[0] == "DaemonSet":
            pod = pods(objects)
            pod["volumes"].sort(key=lambda volume: volume["name"])
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                container["volumeMounts"].sort(key=lambda mount: mount["name"])
                # A note on the container, which changes nothing: the chart has one for the metrics, a component cannot.
                container["ports"] = [port for port in container.get("ports", []) if port["name"] != "metrics"]
        found[key] = made
    return found


class Kustomizations(unittest.TestCase):
    maxDiff = None

    def same(self, objects, values):
        """That the objects are right, and what the chart renders from the values."""
        self.assertEqual(comparable(objects), comparable(plain(rendered(values))))
        for made in objects.values():
            valid(made)
        code, words = checked(objects)
        self.assertEqual((code, "warning" in words), (0, False), words)

    def with_components(self, base, components):
        values = values_of(base, components)
        # What a component asks of the operator's configuration is there, as a component of theirs before all others.
        asks = [name for name in components if COMPONENTS[name].asks]
        own = None
        if asks:
            own = config(rendered(BASES[base]))
            for name in asks:
                own = merged(own, COMPONENTS[name].asks)
        self.same(overlay(base, components, own), values)

    def test_what_is_written_is_what_the_chart_renders(self):
        written = kustomize.files()
        for path, text in written.items():
            self.assertTrue(path.exists(), f"{path} is missing: `make bless-kubernetes` writes it")
            self.assertEqual(path.read_text(), text, f"{path}: `make bless-kubernetes` writes it anew")
        there = {file for folder in [*BASES, "components"] for file in (TOP / folder).rglob("*") if file.is_file()}
        self.assertEqual(there - set(written), set(), "`make bless-kubernetes` takes away what is not written any more")

    def test_kubectl_builds_each_base_as_the_chart_renders_it(self):
        for base, values in BASES.items():
            with self.subTest(base=base):
                objects = built(TOP / base)
                self.same(objects, values)
                self.assertEqual(objects["Namespace", "pathloom"], kustomize.NAMESPACE)

    def test_each_component_makes_of_a_base_what_its_values_make_of_the_chart(self):
        for name, component in COMPONENTS.items():
            for base, below in component.on:
                with self.subTest(component=name, base=base):
                    self.with_components(base, [*below, name])

    def test_components_go_together(self):
        self.with_components("base", ["metrics", "service-monitor", "mesh", "capture", "gateway-api", "spire", "gpu"])
        self.with_components("base", ["capture-all", "gateway-api-status", "spire-host-path", "metrics", "mesh"])
        self.with_components("own-network", ["network-policy", "metrics", "mesh", "gateway-api", "spire", "gpu"])

    def test_every_switch_of_the_chart_is_a_component_or_a_base(self):
        values = yaml.safe_load((HOME / "chart" / "values.yaml").read_text())
        switches = {name for name, value in values.items() if isinstance(value, dict) and value.get("enabled") is False}
        used = {key for component in COMPONENTS.values() for key, value in component.values.items() if isinstance(value, dict) and value.get("enabled")}
        self.assertEqual(switches - used, set())
        self.assertIn("hostNetwork", {key for values in BASES.values() for key in values})

    def test_a_configuration_that_says_it_is_whole_is_left_as_it_is(self):
        own = config(rendered(values_of("base", ["mesh"])))
        own["mesh"]["budget"] = "128KiB"
        objects = overlay("base", ["mesh"], own, whole=True)
        self.assertEqual(config(objects), own)
        self.assertEqual(checked(objects)[0], 0, checked(objects)[1])
        # What else the component brings is there.
        self.assertIn(("Service", "pathloom-mesh"), objects)
        # Without the annotation a section that is there already is refused, and nothing is lost in silence.
        self.assertIn("`mesh` is written twice", checked(overlay("base", ["mesh"], own))[1])

    def test_another_namespace_is_as_good(self):
        objects = overlay("base", ["metrics", "service-monitor", "mesh"], namespace="loom")
        self.assertIn(("Namespace", "loom"), objects)
        self.assertEqual({made["metadata"].get("namespace", "loom") for made in objects.values()}, {"loom"})
        self.assertEqual(objects["ClusterRoleBinding", "pathloom"]["subjects"][0]["namespace"], "loom")
        # Nothing in the configuration names the one that it was written for.
        self.assertNotIn("pathloom.svc", objects["ConfigMap", "pathloom"]["data"]["pathloom.yaml"])
        self.assertEqual(config(objects)["mesh"]["seeds"], ["pathloom-mesh:7946"])

    def test_sections_are_no_objects_of_the_cluster(self):
        for name in COMPONENTS:
            objects = overlay(*[(base, [*below, name]) for base, below in COMPONENTS[name].on][0])
            self.assertEqual([made for kind, made in objects if kind == "ConfigMap"], ["pathloom"])

    def test_the_gpu_s_nodes_are_those_that_have_one(self):
        self.same(built(TOP / "gpu"), {"gpu": {"enabled": True}, "nodeSelector": {"nvidia.com/gpu.present": "true"}})

    def test_the_example_is_right(self):
        objects = built(TOP / "example")
        values = values_of("base", ["metrics", "service-monitor", "mesh", "capture"])
        self.same(objects, {**values, "image": {"repository": "registry.example/pathloom"}})
        self.assertEqual(len(pods(objects)["containers"]), 2)

    def test_the_guide_names_each(self):
        guide = (HOME / "README.md").read_text().split("## Without Helm\n", 1)[1].split("\n## ", 1)[0]
        named = {line.split("`")[1] for line in guide.splitlines() if line.startswith("| `")}
        self.assertEqual(named, set(COMPONENTS))
        for folder in TOP.iterdir():
            self.assertIn(f"`{folder.name}`" if folder.name != "components" else "components/", guide)


if __name__ == "__main__":
    unittest.main()
