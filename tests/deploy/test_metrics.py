"""The dashboard, the autoscalers and the page refer only to existing metrics."""

import json
import re
import urllib.request
from collections.abc import Iterator

import pytest
import yaml

from ovms_local.testing import free_port
from tests.support import ROOT
from text_generation.serve.metrics import Metrics

DEPLOY = ROOT / "deploy"
NAME = r"\bllm_[a-z0-9_]+"
# The metrics in vLLM's own Grafana dashboard (examples/observability/prometheus_grafana in its repository).
VLLM_DASHBOARD = {
    "e2e_request_latency_seconds", "generation_tokens_total", "inter_token_latency_seconds", "kv_cache_usage_perc",
    "num_requests_running", "num_requests_waiting", "prompt_tokens_total", "request_decode_time_seconds",
    "request_generation_tokens", "request_max_num_generation_tokens", "request_prefill_time_seconds",
    "request_prompt_tokens", "request_queue_time_seconds", "request_success_total", "time_to_first_token_seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def exposed() -> Iterator[dict[str, set[str]]]:
    """Return each metric's labels; counters have their `_total`, histograms no `_bucket`, `_sum` or `_count`."""
    port = free_port()
    metrics = Metrics("a model", "127.0.0.1", port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        text = response.read().decode()
    metrics.close()
    samples = re.findall(r"(?m)^(\w+)\{(.*)\}", text)
    return {
        re.sub("_(bucket|sum|count)$", "", name): set(re.findall(r"(\w+)=", labels)) - {"le"}
        for name, labels in samples
    }


def asked_for(text: str) -> set[str]:
    return {re.sub("_(bucket|sum|count)$", "", name) for name in re.findall(NAME, text)}


def test_the_dashboard_shows_all_metrics_and_no_others(exposed):
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert asked_for(" ".join(expressions)) == set(exposed)
    for expression in expressions:
        for label in re.findall(r"by \((\w+)\)", expression):
            assert label == "le" or any(label in exposed[name] for name in asked_for(expression)), expression
        assert expression.count('{model_name=~"$model_name"}') == len(re.findall(NAME, expression))
    variables = {variable["name"]: variable["query"] for variable in dashboard["templating"]["list"]}
    assert asked_for(str(variables["model_name"])) <= set(exposed)
    assert {f"${{{name}}}" for name in variables} >= {panel["datasource"]["uid"] for panel in dashboard["panels"]}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_vllms_dashboard_fits_with_one_prefix_changed(exposed):
    assert {f"llm_{name}" for name in VLLM_DASHBOARD} <= set(exposed)
    assert all("model_name" in labels for labels in exposed.values())
    assert "finished_reason" in exposed["llm_request_success_total"]


def test_the_page_says_what_each_is(exposed):
    rows = re.findall(rf"(?m)^\| `({NAME})` \|", (DEPLOY / "README.md").read_text())
    assert sorted(rows) == sorted(exposed)


def test_the_image_opens_them_to_what_publishes_their_port():
    assert re.search(r"(?m)^ENV (.*\\\n)* *LLM_METRICS_ADDRESS=0\.0\.0\.0$", (ROOT / "Dockerfile").read_text())


def test_the_autoscalers_go_by_the_queue(exposed):
    scaler = yaml.safe_load((DEPLOY / "kubernetes/base/autoscaler.yaml").read_text())
    targets = {
        metric["pods"]["metric"]["name"]: metric["pods"]["target"]["averageValue"]
        for metric in scaler["spec"]["metrics"]
    }
    assert "llm_num_requests_waiting" in targets
    assert set(targets) <= set(exposed)
    adapter = yaml.safe_load((DEPLOY / "kubernetes/prometheus-adapter.yaml").read_text())
    [rule] = adapter["rules"]["custom"]
    handed_on = re.search(r'__name__=~"([^"]+)"', rule["seriesQuery"])[1]
    assert all(re.fullmatch(handed_on, name) for name in targets)

    service = yaml.safe_load((DEPLOY / "kserve/inference-service.yaml").read_text())
    external = [metric["external"] for metric in service["spec"]["predictor"]["autoScaling"]["metrics"]]
    assert {
        name: metric["target"]["value"] for metric in external for name in asked_for(metric["metric"]["query"])
    } == targets
