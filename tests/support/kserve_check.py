"""Reads KServe manifests with the classes of KServe's Python SDK: `python kserve_check.py FILE...`.

Each field must survive the round trip through a class, so a field unknown to KServe is an error. Only the
models are imported; the packages themselves would import a model server and a cluster client.
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
    """Return the paths that are in `given` but not in `known`, which may also have defaults."""
    if isinstance(given, dict) and isinstance(known, dict):
        return [p for key, value in given.items() for p in lost(value, known.get(key), f"{path}.{key}")]
    if isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        return [p for i, (g, k) in enumerate(zip(given, known, strict=True)) for p in lost(g, k, f"{path}[{i}]")]
    return [] if given == known else [path]


def check(resource: dict) -> None:
    """Exit with an error if the class of this resource's kind does not preserve all its fields."""
    model = CLASSES[resource["apiVersion"], resource["kind"]]
    api = kubernetes.client.ApiClient()
    known = api.sanitize_for_serialization(api._ApiClient__deserialize(resource, model))
    if unknown := lost(resource, known, resource["kind"]):
        sys.exit(f"error: KServe's {model.__name__} does not know {', '.join(unknown)}")


# Pod fields use Kubernetes' own classes; the client looks up all classes in one place.
for name, value in vars(kserve.models).items():
    if name.startswith("V1"):
        setattr(kubernetes.client.models, name, value)
# A class that the SDK mentions but lacks: a quantity, which is written as a string.
kubernetes.client.models.V1beta1MetricQuantity = str
for file in sys.argv[1:]:
    for document in yaml.safe_load_all(Path(file).read_text()):
        check(document)
