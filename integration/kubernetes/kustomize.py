"""The kustomizations, written from what the chart renders: `make bless-kubernetes`.

A base is all that the chart renders from example.yaml. A component is the difference that some values make: objects that come are its
resources, what changes in others its patches (JSON 6902, which keep the order of lists), and a section of the configuration that
comes is put before the rest of it by a replacement. test_kustomize.py compares, so neither can drift from the chart.
"""

from dataclasses import dataclass, field

import yaml

from chart import HOME, config, merged, rendered

TOP = HOME / "kustomize"
HEAD = "# Written by `make bless-kubernetes` from the chart and example.yaml.\n"
NAMESPACE = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {"name": "pathloom", "labels": {"pod-security.kubernetes.io/enforce": "privileged"}},
}
# With this annotation a ConfigMap says everything itself, and no component puts a section before it.
WHOLE = "pathloom.dev/configuration"

BASES = {
    "base": {},
    "own-network": {"hostNetwork": False, "ports": [{"name": "in", "containerPort": 15001, "hostPort": 15001}]},
}


@dataclass
class Component:
    """What some values change."""

    says: str
    values: dict
    # The components that must come before it.
    after: list = field(default_factory=list)
    # What the operator's own configuration must hold for it.
    asks: dict = field(default_factory=dict)
    # What it can be put on: a base, with components. What it changes in objects that only some have is patched where they are there.
    on: list = field(default_factory=lambda: [("base", [])])


COMPONENTS = {
    "metrics": Component("/metrics, /live and /ready at port 9902, and a Service to find the pods by.", {"metrics": {"enabled": True}}),
    "service-monitor": Component(
        "For the Prometheus operator; after `metrics`.", {"serviceMonitor": {"enabled": True}}, after=["metrics"], on=[("base", ["metrics"])]
    ),
    "network-policy": Component(
        "Who may connect: every pod of the cluster, unless an overlay says less. On `own-network` alone.",
        {"networkPolicy": {"enabled": True}},
        on=[("own-network", [])],
    ),
    "mesh": Component(
        "Gossip among the pods: a headless Service, and the key from the Secret `pathloom-mesh`, which must be made first. After `network-policy`.",
        {"mesh": {"enabled": True}},
        on=[("base", []), ("own-network", ["network-policy"])],
    ),
    "capture": Component(
        "Captures the pods that want it; the configuration needs a workload with `capture: tproxy`. On `base` alone.",
        {"capture": {"enabled": True, "pods": "annotated"}},
        asks={"workloads": {"captured": {"listen": "[::]:15006", "capture": "tproxy"}}},
    ),
    "capture-all": Component(
        "Installs the rules that the configuration asks for: it needs a workload with `capture`. On `base` alone, in place of `capture`.",
        {"capture": {"enabled": True}},
        asks={"workloads": {"captured": {"listen": "0.0.0.0:15006", "capture": "outbound"}}},
    ),
    "gateway-api": Component("Follows HTTPRoutes and GRPCRoutes, and may read them.", {"config": {"gateway_api": {"enabled": True}}}),
    "gateway-api-status": Component(
        "As `gateway-api`, in its place, and writes into each route's status what became of it.",
        {"config": {"gateway_api": {"enabled": True, "status": True}}},
    ),
    "spire": Component("Identity from SPIRE, whose socket the SPIFFE CSI driver brings.", {"spire": {"enabled": True}}),
    "spire-host-path": Component(
        "Identity from SPIRE, whose socket lies in a folder of the node; in place of `spire`.",
        {"spire": {"enabled": True, "hostPath": "/run/spire/agent-sockets"}},
    ),
    "gpu": Component("The model on a GPU: the image with CUDA, one device a node. The last of all components.", {"gpu": {"enabled": True}}),
}


def values_of(base, components):
    """The values by which the chart renders what a base with components is."""
    values = merged({}, BASES[base])
    for name in components:
        values = merged(values, COMPONENTS[name].values)
        values = merged(values, {"config": COMPONENTS[name].asks})
    return values


def plain(objects):
    """Without what only Helm needs."""
    for made in objects.values():
        for helm in ["app.kubernetes.io/managed-by", "helm.sh/chart"]:
            made["metadata"].get("labels", {}).pop(helm, None)
    return objects


def operations(before, after, path=""):
    """The JSON patch that leads from one to the other."""
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(k for k in after if k not in before)]:
            at = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
            if key not in after:
                yield {"op": "remove", "path": at}
            elif key not in before:
                yield {"op": "add", "path": at, "value": after[key]}
            else:
                yield from operations(before[key], after[key], at)
    elif isinstance(before, list) and isinstance(after, list) and len(before) <= len(after) and all(isinstance(x, dict) for x in before):
        for place, (old, new) in enumerate(zip(before, after)):
            yield from operations(old, new, f"{path}/{place}")
        for new in after[len(before) :]:
            yield {"op": "add", "path": f"{path}/-", "value": new}
    else:
        yield {"op": "replace", "path": path, "value": after}


@dataclass
class Difference:
    """What a component changes: objects that come, patches by kind and name, sections of the configuration, and the images' tag."""

    objects: dict
    patches: dict
    sections: dict
    tags: dict


def difference(name, base, below):
    component = COMPONENTS[name]
    # What the operator's configuration holds is there before the component is.
    asked = merged(values_of(base, below), {"config": component.asks})
    before, after = plain(rendered(asked)), plain(rendered(merged(values_of(base, below), values_of(base, [*below, name]))))
    assert set(before) <= set(after), f"{name} takes objects away, which no component can"
    old, new = config(before), config(after)
    assert all(old[key] == new[key] for key in old), f"{name} changes sections of the configuration, which no component can"
    found = Difference({key: after[key] for key in after if key not in before}, {}, {key: new[key] for key in new if key not in old}, {})
    for key in before:
        if key[0] == "ConfigMap":
            continue
        for step in operations(before[key], after[key]):
            if step["path"].endswith("/image"):
                image, tag = step["value"].rsplit(":", 1)
                found.tags[image] = tag
            else:
                found.patches.setdefault(key, []).append(step)
    return found


class Literal(str):
    """Text of several lines, as it is."""


class Dumper(yaml.SafeDumper):
    pass


Dumper.add_representer(Literal, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"))
Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None))
Dumper.ignore_aliases = lambda *_: True


def dumped(made):
    return yaml.dump(made, Dumper=Dumper, sort_keys=False, width=1000)


def base_files(name):
    folder, texts = TOP / name, {}
    for (kind, _), made in {("Namespace", "pathloom"): NAMESPACE, **plain(rendered(BASES[name]))}.items():
        texts[folder / f"{kind.lower()}.yaml"] = HEAD + dumped(made)
    top = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": [file.name for file in texts]}
    texts[folder / "kustomization.yaml"] = HEAD + dumped(top)
    return texts


def component_files(name):
    component, folder, texts = COMPONENTS[name], TOP / "components" / name, {}
    first, *others = [difference(name, base, below) for base, below in component.on]
    for other in others:
        assert (first.objects, first.sections, first.tags) == (other.objects, other.sections, other.tags), name
        assert all(other.patches[key] == steps for key, steps in first.patches.items()), name
        first.patches.update(other.patches)
    for (kind, own), made in first.objects.items():
        # Two of a kind are told apart by what comes after the release's name.
        texts[folder / f"{kind.lower()}{own.removeprefix('pathloom')}.yaml"] = HEAD + dumped(made)
    top = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component"}
    if first.sections:
        section = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": f"pathloom-section-{name}",
                "namespace": "pathloom",
                "annotations": {"config.kubernetes.io/local-config": "true"},
            },
            "data": {"section": Literal(yaml.safe_dump(first.sections, sort_keys=False, width=1000).rstrip("\n"))},
        }
        texts[folder / "section.yaml"] = HEAD + "# It is no object of the cluster: the kustomization puts it before the rest of the configuration.\n" + dumped(section)
    if texts:
        top["resources"] = [file.name for file in texts]
    if first.sections:
        top["replacements"] = [
            {
                "source": {"kind": "ConfigMap", "name": f"pathloom-section-{name}", "fieldPath": "data.section"},
                "targets": [
                    {
                        "select": {"kind": "ConfigMap", "name": "pathloom", "annotationSelector": f"{WHOLE}!=whole"},
                        "fieldPaths": ["data.[pathloom.yaml]"],
                        "options": {"delimiter": "\n", "index": -1},
                    }
                ],
            }
        ]
    if first.patches:
        top["patches"] = [
            {"target": {"kind": kind, "name": own}, "patch": Literal(dumped(steps).rstrip("\n"))} for (kind, own), steps in first.patches.items()
        ]
    if first.tags:
        top["images"] = [{"name": image, "newTag": tag} for image, tag in first.tags.items()]
    text = dumped(top).replace('delimiter: |2+\n\n', 'delimiter: "\\n"\n')
    texts[folder / "kustomization.yaml"] = HEAD + f"# {component.says}\n" + text
    return texts


def files():
    """Every file that is written, and its text."""
    texts = {}
    for name in BASES:
        texts.update(base_files(name))
    for name in COMPONENTS:
        texts.update(component_files(name))
    return texts


if __name__ == "__main__":
    written = files()
    # What is not written any more goes.
    for folder in {file.parent for file in written} | set((TOP / "components").glob("*")):
        for file in folder.glob("*.yaml"):
            if file not in written:
                file.unlink()
    for file, text in written.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
