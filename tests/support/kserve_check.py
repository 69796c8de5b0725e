"""Read KServe manifests with the classes of KServe's Python SDK: `python kserve_check.py FILE...`.

What goes into a class must come out of it again, so that a field that KServe does not know is an error. Only the
models are imported: the packages themselves would import a model server and a cluster's client with all they need.
"""

import importlib.util
import sys
import types
from pathlib import Path

import yaml

for name in ("kserve", "kubernetes"):
    package = types.ModuleType(name)
    package.__path__ = importlib.util.find_spec(name).submodule_search_locations
    sys.modules[name] = package

import kserve.models  # noqa: E402
import kubernetes.client.models  # noqa: E402

CLASSES = {
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): kserve.models.V1alpha1ServingRuntime,
    ("serving.kserve.io/v1beta1", "InferenceService"): kserve.models.V1beta1InferenceService,
}


def lost(given: object, known: object, path: str) -> list[str]:
    """The paths of what is in `given` but not in `known`, which may have defaults besides."""
    if isinstance(given, dict) and isinstance(known, dict):
        return [p for key, value in given.items() for p in lost(value, known.get(key), f"{path}.{key}")]
    if isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        return [p for i, (g, k) in enumerate(zip(given, known, strict=True)) for p in lost(g, k, f"{path}[{i}]")]
    return [] if given == known else [path]


def check(resource: dict) -> None:
    """Exit with a sentence when the class of this resource's kind does not take it whole."""
    model = CLASSES[resource["apiVersion"], resource["kind"]]
    api = kubernetes.client.ApiClient()
    known = api.sanitize_for_serialization(api._ApiClient__deserialize(resource, model))
    if unknown := lost(resource, known, resource["kind"]):
        sys.exit(f"error: KServe's {model.__name__} does not know {', '.join(unknown)}")


# Pod fields are Kubernetes' own classes; the client looks all classes up in one place.
for name, value in vars(kserve.models).items():
    if name.startswith("V1"):
        setattr(kubernetes.client.models, name, value)
# A class that the SDK names and does not have: a quantity, which is written as a string.
kubernetes.client.models.V1beta1MetricQuantity = str
for file in sys.argv[1:]:
    for document in yaml.safe_load_all(Path(file).read_text()):
        check(document)
