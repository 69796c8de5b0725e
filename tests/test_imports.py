"""The import rules, checked in the sources, and the cost of imports."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLIENTS = ["clients", *sorted(path.name for path in ROOT.glob("client_*.py"))]
FORBIDDEN = {
    "text_generation": ["ovms_local", "pyovms", "benchmarks", "tests"],
    "text_generation/prepare": ["text_generation.serve"],
    "text_generation/serve": ["text_generation.prepare"],
    "ovms_local": ["text_generation", "benchmarks", "tests"],
    **{client: ["text_generation", "ovms_local", "pyovms"] for client in CLIENTS},
    "servable_unary": ["ovms_local", "text_generation.prepare"],
    "servable_stream": ["ovms_local", "text_generation.prepare"],
    "servable_all": ["ovms_local", "text_generation"],
    "servable_chat": ["ovms_local", "text_generation.prepare"],
}


def imported(path: Path) -> set[str]:
    """Return the full names of the imported modules and of what is imported from them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("place", FORBIDDEN)
def test_rules_of_import(place):
    path = ROOT / place
    sources = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert sources
    for source in sources:
        for name in imported(source):
            broken = [rule for rule in FORBIDDEN[place] if name == rule or name.startswith(f"{rule}.")]
            assert not broken, f"{source.relative_to(ROOT)} imports {name}"


def test_tests_share_what_is_in_their_support_and_nothing_else():
    """They import neither each other nor the benchmarks, except for the benchmarks' own tests."""
    for source in (ROOT / "tests").rglob("*.py"):
        own = ("tests.support", "tests.scripted_chat")
        of_benchmarks = source.is_relative_to(ROOT / "tests" / "benchmarks")
        for name in imported(source):
            allowed = name.startswith(own) or not name.startswith((".", "tests.", "benchmarks."))
            assert allowed or (of_benchmarks and name.startswith("benchmarks.")), f"{source} imports {name}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("text_generation.serve.request", {"torch", "transformers.modeling_utils", "openvino", "openvino_genai"}),
        (
            "text_generation.serve.chat",
            {"torch", "transformers.modeling_utils", "openvino", "openvino_genai", "optimum", "prometheus_client"},
        ),
        ("text_generation.serve.engines.genai", {"torch", "transformers", "openvino_genai", "optimum"}),
        ("text_generation.serve.engines.genai_worker", {"torch", "transformers", "optimum"}),
    ],
)
def test_what_an_import_does_not_bring(module, never):
    """Each of these takes seconds to import, so processes that do not need it must not import it."""
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not never & set(done.stdout.split())


@pytest.mark.slow
def test_what_the_optimum_engine_does_not_bring():
    """Neither scikit-learn, which Transformers would import and other servables may still import afterwards, nor
    searches for garbage among all that is imported, which would hold up the server for a third of a second each."""
    program = "import gc, sys; from text_generation.serve.engines import engine_class; engine_class('optimum')"
    program += "; print(*sys.modules); import sklearn; assert gc.isenabled() and gc.get_freeze_count() > 100_000"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"openvino_genai", "text_generation.serve.engines.genai", "sklearn"} & set(done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("module", ["prepare.export", "prepare.compression", "serve.engines.optimum"])
def test_openvino_reports_its_use_to_nobody(module, tmp_path):
    """With its telemetry, an import would also leave an id in HOME."""
    program = f"import text_generation.{module}, nncf, openvino_genai, openvino_tokenizers"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=os.environ | {"HOME": str(tmp_path)}, check=True)
    assert not (tmp_path / "intel").exists()
