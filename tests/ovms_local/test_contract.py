"""ovms_local/CONTRACT.md names the tests of its rules: each rule has a test, and each test exists."""

import ast
import re
from pathlib import Path

import ovms_local

CONTRACT = Path(ovms_local.__file__).with_name("CONTRACT.md").read_text()
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def functions_of(file: str) -> set[str]:
    tree = ast.parse((Path(__file__).parent / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_each_test_that_the_contract_names_exists():
    named = NAMED.findall(CONTRACT)
    assert len(named) == CONTRACT.count("::"), "a name is not written as `file::test`"
    tests = {file: functions_of(file) for file, _ in named}
    assert [f"{file}::{test}" for file, test in named if test not in tests[file]] == []


def test_each_rule_of_the_contract_names_a_test():
    rules = re.split(r"\n(?=- |## |\n)", CONTRACT)
    assert [rule for rule in rules if rule.startswith("- ") and not NAMED.search(rule)] == []
