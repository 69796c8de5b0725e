import itertools
import sys

import pytest

from ovms_local.graph_config import NodeConfig, Stream
from ovms_local.python_node import NodeLoadError, PythonNode

NAMES = itertools.count()
FINE = "class OvmsPythonModel:\n    def execute(self, inputs): return []\n"


def config_of(handler_path):
    return NodeConfig(
        "my_node",
        handler_path,
        inputs=(Stream("A", "in"), Stream("LOOPBACK", "loop")),
        outputs=(Stream("OUT", "out"),),
        input_names=("loop", "in"),
        output_names=("out",),
        sync_sets=((0, 1),),
        immediate=False,
    )


@pytest.fixture
def make(tmp_path):
    def make_node(code, name=None, folder=tmp_path):
        folder.mkdir(exist_ok=True)
        handler = folder / (name or f"handler_of_test_python_node_{next(NAMES)}.py")
        handler.write_text(code)
        return PythonNode(config_of(handler.name), folder)

    return make_node


def test_initialize_gets_its_arguments(make, tmp_path, capsys):
    make(FINE + "    def initialize(self, kwargs): print(sorted(kwargs.items()))")
    assert capsys.readouterr().out.strip() == str(
        [
            ("base_path", f"{tmp_path}/"),
            ("input_names", ["loop", "in"]),
            ("node_name", "my_node"),
            ("output_names", ["out"]),
        ]
    )


def test_base_path_is_the_handlers_folder(tmp_path, capsys):
    code = FINE + "    def initialize(self, kwargs): print(kwargs['base_path'])"
    for handler_path in (
        "deep/handler_of_test_base_path.py",
        str(tmp_path / "deep/other_handler_of_test_base_path.py"),
    ):
        (tmp_path / "deep").mkdir(exist_ok=True)
        (tmp_path / handler_path).write_text(code)
        PythonNode(config_of(handler_path), tmp_path)
        assert capsys.readouterr().out.strip() == str(tmp_path / "deep")


def test_an_object_whose_initialize_raises_is_finalized(make, capsys):
    code = FINE + "    def initialize(self, kwargs): 1 / 0\n    def finalize(self): print('finalized')\n"
    with pytest.raises(NodeLoadError, match="ZeroDivisionError"):
        make(code)
    assert capsys.readouterr().out == "finalized\n"


def test_what_initialize_returns_is_ignored(make):
    assert make(FINE + "    def initialize(self, kwargs): return False").open().process(0, []) == []


def test_initialize_and_finalize_are_optional(make):
    make(FINE).finalize()


# An exception whose str() ends the process.
SPEECHLESS = "type('Speechless', (Exception,), {'__str__': lambda self: exit()})"


def test_an_exception_without_a_text_is_no_end_of_the_server(make, caplog):
    with pytest.raises(NodeLoadError, match="Speechless"):
        make(FINE + f"    def initialize(self, kwargs): raise {SPEECHLESS}")
    make(FINE + f"    def finalize(self): raise {SPEECHLESS}").finalize()
    assert "finalize failed: Speechless" in caplog.text


@pytest.mark.parametrize("error", ["OSError", "SystemExit", "KeyboardInterrupt"])
def test_an_exception_in_finalize_is_logged_and_ignored(make, caplog, error):
    make(FINE + f"    def finalize(self): raise {error}('gone')").finalize()
    assert f"finalize failed: {error}: gone" in caplog.text


def test_the_handler_has_a_folder_of_its_own(make, tmp_path):
    node = make(FINE, folder=tmp_path / "deep")
    assert node.open().process(0, []) == []
    assert sys.path[-1] == str(tmp_path / "deep")  # appended, so that it does not hide another module


def test_two_nodes_of_one_handler_have_an_object_each(make):
    code = "class OvmsPythonModel:\n    calls = 0\n    def execute(self, inputs):\n        self.calls += 1\n"
    code += "        return [] if self.calls == 1 else None\n"
    first, second = make(code, "shared_handler_of_test.py"), make(code, "shared_handler_of_test.py")
    assert first.open().process(0, []) == second.open().process(0, []) == []


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("", "no class OvmsPythonModel"),
        ("class OvmsPythonModel: pass", "no method execute"),
        ("class OvmsPythonModel: execute = None", "no method execute"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError"),
        (FINE + "    def __init__(self): raise KeyError('x')", "KeyError"),
        ("class OvmsPythonModel:\n    def __init__(self): self.execute = print", "no method execute"),
        (FINE + "    def initialize(self, kwargs): raise ValueError('bad model')", "ValueError: bad model"),
        (FINE + "    def initialize(self): pass", "TypeError"),
        (FINE + "    def initialize(self, kwargs): raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_what_cannot_be_loaded(make, code, text):
    with pytest.raises(NodeLoadError, match=text):
        make(code)


def test_a_handler_that_is_not_there(tmp_path):
    with pytest.raises(NodeLoadError, match=r"nowhere.py does not exist"):
        PythonNode(config_of("nowhere.py"), tmp_path)


def test_a_name_that_is_taken_is_refused(make, tmp_path):
    make(FINE, "taken_handler_of_test.py", tmp_path / "one")
    with pytest.raises(NodeLoadError, match="the name 'taken_handler_of_test' is taken by"):
        make(FINE, "taken_handler_of_test.py", tmp_path / "two")
    with pytest.raises(NodeLoadError, match="ZeroDivisionError"):
        make("1 / 0", "broken_handler_of_test.py", tmp_path / "one")
    with pytest.raises(NodeLoadError, match="the name 'broken_handler_of_test' is taken by"):
        make(FINE, "broken_handler_of_test.py", tmp_path / "two")
    with pytest.raises(NodeLoadError, match="the name 'json' is taken by"):
        make(FINE, "json.py")
    with pytest.raises(NodeLoadError, match=r"its name must end in \.py"):
        make(FINE, "handler_of_test.text")
