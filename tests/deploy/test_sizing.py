"""The sizing tables of deploy/README.md agree with its formulas, and the overlays with the tables."""

import re

import pytest
import yaml

from deploy import models
from tests.support import ROOT
from text_generation.prepare.models import MODELS

README = (ROOT / "deploy" / "README.md").read_text()
BANDWIDTH_PER_CORE = 8.8  # GB/s, as in deploy/README.md
GIB = 2**30 / 1e9


def table(first_column: str, second_column: str) -> list[dict[str, str]]:
    """Return the rows of the table whose header starts with these columns."""
    lines = README[README.index(f"| {first_column} | {second_column} |") :].split("\n\n")[0].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def number(cell: str) -> float:
    return float(re.match(r"[\d.]+", cell)[0])


SHAPES = {row["model"]: {key: number(row[key]) for key in row if key != "model"} for row in table("model", "weights")}
SIZES = table("model", "precision")
OVERLAYS = {row["model"]: row for row in table("model", "server memory")}


def test_every_model_is_there() -> None:
    assert set(SHAPES) == set(OVERLAYS) == set(MODELS)
    assert {(row["model"], row["precision"]) for row in SIZES} == {
        (m, p) for m in MODELS for p in ("FP16", "INT8", "INT4")
    }


def test_nothing_generated_is_stale() -> None:
    """`make models` has been run since the table of models was changed."""
    expected = models.generated()
    assert {path: path.read_text() for path in expected if path.exists()} == expected
    assert {folder.name for folder in models.OVERLAYS.iterdir()} == set(MODELS)


@pytest.mark.parametrize("row", SIZES, ids=lambda row: f"{row['model']}-{row['precision']}")
def test_formulas(row: dict[str, str]) -> None:
    shape = SHAPES[row["model"]]
    int4 = shape["ratio"] * (0.5 + (2 + shape["zero point"]) / shape["group"]) + 1 - shape["ratio"]
    inner, outer = {"FP16": (2, 2), "INT8": (1, 1), "INT4": (int4, 1)}[row["precision"]]
    between = shape["weights"] - shape["input embedding"] - shape["output matrix"]
    read = (between * inner + shape["output matrix"] * outer) / 1000
    assert number(row["read per token"]) == pytest.approx(read, abs=0.006)
    assert number(row["weights"]) == pytest.approx(read + shape["input embedding"] * outer / 1000, abs=0.006)
    cache = 2 * shape["layers"] * shape["kv_heads"] * shape["head_dim"]
    assert number(row["KV cache per token"]) == pytest.approx(cache / 1024, abs=0.06)
    assert number(row["KV cache per user"]) == pytest.approx(cache * shape["context"] / 1e6, abs=0.6)
    assert number(row["tokens/s per core, at most"]) == pytest.approx(BANDWIDTH_PER_CORE / read, abs=0.06)


@pytest.mark.parametrize("name", MODELS)
def test_overlays_follow(name: str) -> None:
    shape, row = SHAPES[name], OVERLAYS[name]
    folder = ROOT / "deploy" / "kubernetes" / "overlays" / name
    deployment, job, claim = yaml.safe_load_all((folder / "resources.yaml").read_text())
    server, prepare = (r["spec"]["template"]["spec"]["containers"][0]["resources"] for r in (deployment, job))
    literals = yaml.safe_load((folder / "kustomization.yaml").read_text())["configMapGenerator"][0]["literals"]
    settings = dict(literal.split("=", 1) for literal in literals)

    assert settings["KV_CACHE_GB"] == row["KV_CACHE_GB"]
    assert server["requests"]["cpu"] == row["server cores"]
    assert settings["OV_CONFIG"] == f'{{"INFERENCE_NUM_THREADS": {row["server cores"]}}}'
    needed = 2 * shape["weights"] / 1000 + int(row["KV_CACHE_GB"]) + 1.5
    assert row["server memory"].endswith(f"= {needed:.1f} GB: {server['limits']['memory']}")
    assert needed <= number(server["limits"]["memory"]) * GIB
    cache_of_a_user = 2 * shape["layers"] * shape["kv_heads"] * shape["head_dim"] * shape["context"] / 1e9
    assert int(row["users of a full context"]) == int(int(row["KV_CACHE_GB"]) / cache_of_a_user)
    export = 1.3 * 4 * shape["weights"] / 1000 + 1
    assert row["job memory"] == f"{export:.1f} GB: {prepare['limits']['memory']}"
    assert export <= number(prepare["limits"]["memory"]) * GIB
    disk = claim["spec"]["resources"]["requests"]["storage"]
    assert row["disk"] == disk
    checkpoint_and_all_precisions = (4 + 4 + 2 + 1 + 0.75) * shape["weights"] / 1000
    assert checkpoint_and_all_precisions <= number(disk) * GIB
