"""The chart's rendering, for all who test it: Helm's own code renders (helm-python-sdk holds its library), Kubernetes' schemas
(`kubernetes-validate`) judge what it renders, and `pathloom check` the configuration in it.
"""

import copy
import functools
import json
import os
import subprocess
import tempfile
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "proxy-config" / "kubernetes"
PATHLOOM = os.environ["PATHLOOM_BINARY"]
EXAMPLE = yaml.safe_load((HOME / "example.yaml").read_text())
# The oldest that the chart says it runs on, and one that is new.
VERSIONS = ["1.25", "1.36"]
NAMED = {"NODE_NAME": "node-1", "NODE_IP": "10.0.0.1", "POD_IP": "10.0.0.1", "NODE_ZONE": "eu-1a"}


def merged(below, values):
    """The values over those below, as Helm puts them; neither changes."""
    both = copy.deepcopy(below)
    for key, value in values.items():
        known = both.get(key)
        both[key] = merged(known, value) if isinstance(value, dict) and isinstance(known, dict) else copy.deepcopy(value)
    return both


def texts(values=None, name="pathloom", namespace="pathloom", ends=".yaml"):
    """What the chart renders, by its file, of those with this ending; with example.yaml's values below those given."""
    values = merged(EXAMPLE, values or {})
    with helm_python.Chart.load(str(HOME / "chart")) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name=name, namespace=namespace)
    return {path: text for path, text in sorted(files.items()) if path.endswith(ends)}


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


def checked(objects, **variables):
    """The exit code and the words of `pathloom check` on the rendered configuration, filled in as a pod's would be."""
    return checked_text(config_text(objects), **variables)


def checked_text(text, **variables):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        env = {**os.environ, **NAMED, **variables}
        done = subprocess.run([PATHLOOM, "check", file.name], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def valid(made, versions=VERSIONS):
    """Judges an object by Kubernetes' schemas."""
    if made["kind"] == "ServiceMonitor":
        return  # The operator's own, which Kubernetes has no schema of.
    for version in versions:
        judged(json.dumps(made), version)


@functools.cache
def judged(text, version):
    """Most objects are rendered many times over, and judged once."""
    kubernetes_validate.validate(json.loads(text), version, strict=True)
