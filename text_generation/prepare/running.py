"""Runs a model command so that the console shows only its own few lines, and one line for an error."""

import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from urllib.parse import urlsplit

from text_generation.imports import sleep_while_waiting
from text_generation.model_folder import ModelFolderError
from text_generation.prepare.checkpoint import CheckpointError
from text_generation.prepare.machine import MachineError, is_failed_write


def run(command: Callable[[], None]) -> None:
    """Run a command; on an error, end the process with exit code 1 and one line that says what to do.

    SIGTERM is handled like Ctrl-C, so that nothing is left behind when a container is stopped. If nobody reads the
    output any more, the exit code is the shell's for SIGPIPE.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _open_closed_outputs()
    _print_any_text()
    _quiet_libraries()
    _check_endpoint()
    sleep_while_waiting()
    try:
        command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        _fail("interrupted; unfinished files were removed")
    except (CheckpointError, MachineError, ModelFolderError) as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        _fail(f"{error}: pip install -r requirements.txt")
    except (BrokenPipeError, SystemExit):
        # rich, which draws nncf's progress bars, raises SystemExit for a broken pipe. The output is redirected because
        # Python's flush at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except MemoryError:
        _fail("out of memory: use a larger machine, or stop other programs")
    except Exception as error:
        if is_failed_write(error):
            _fail("the disk is full or a quota is exceeded: make room, then run this again")
        if isinstance(error, OSError):
            _fail(f"{error}: check the path and its permissions")
        raise


def _fail(message: str) -> None:
    sys.exit(f"error: {message}")


def _open_closed_outputs() -> None:
    """Open the outputs that a shell has closed (2>&-). Otherwise the next file opened would get their number, and what
    libraries write to standard error could end up in a model.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123


def _print_any_text() -> None:
    """Escape characters that the outputs' encoding lacks, as names of folders may have any."""
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")


def _check_endpoint() -> None:
    """Reject an HF_ENDPOINT with which importing huggingface_hub, as nearly all libraries here do, would fail."""
    endpoint = os.environ.get("HF_ENDPOINT", "")
    try:
        _ = urlsplit(endpoint).port
    except ValueError as error:
        _fail(f"HF_ENDPOINT={endpoint} is not a valid URL ({error}): correct it, or unset it")


def _quiet_libraries() -> None:
    """Keep the console free for the command; the libraries' warnings only concern developers."""
    warnings.simplefilter("ignore")
    for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(name, "error")
    for name in ("nncf", "openvino", "optimum", "torch"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR)
        # nncf resets its level when it is imported
        logger.addFilter(lambda record: record.levelno >= logging.ERROR)
    logging.getLogger().addHandler(logging.NullHandler())  # some log to the root, which would print it
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
