"""Explains a failed download in one line that says what to do."""

import json
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from huggingface_hub import constants
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from text_generation.errors import first_line
from text_generation.prepare.checkpoint import CheckpointError
from text_generation.prepare.machine import is_failed_write


@contextmanager
def explained(repository: str, revision: str) -> Iterator[None]:
    """Turn the errors of a block that downloads into a CheckpointError, except that of a full disk."""
    try:
        yield
    except CheckpointError:
        raise
    except (httpx.HTTPError, ImportError, OSError, RuntimeError, ValueError) as error:
        if is_failed_write(error):
            raise
        # Offline, nothing was tried, so only the last error tells what is missing.
        causes = [error] if constants.HF_HUB_OFFLINE else _causes(error)
        reasons = (_explain(cause, repository, revision) for cause in causes)
        unknown = f"the download of {repository} failed ({first_line(error)}): run this again"
        raise CheckpointError(next(filter(None, reasons), unknown)) from error


def _causes(error: BaseException) -> list[BaseException]:
    """Return the error and its causes, starting with the first: huggingface_hub buries it under later attempts."""
    if isinstance(error, RuntimeError):
        # huggingface_hub 1.21 retries a failed connection on a closed client, which hides the original failure.
        try:
            httpx.head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except (httpx.HTTPError, ImportError) as reason:
            return [cause for cause in _causes(reason) if cause is not error]  # its context, since that is handled now
    causes = [error]
    while (earlier := causes[0].__cause__ or causes[0].__context__) is not None and earlier not in causes:
        causes.insert(0, earlier)
    return causes


def _explain(error: BaseException, repository: str, revision: str) -> str | None:
    """Return the message for one error; None to leave it to another error in the chain."""
    address = f"{constants.ENDPOINT}/{repository}"
    match error:
        case GatedRepoError():
            return f"{repository} is gated: accept its terms at {address}, then set HF_TOKEN to a token of that account"
        case RepositoryNotFoundError():
            return f"{repository} does not exist at {constants.ENDPOINT} or is private: check the name, or set HF_TOKEN"
        case RevisionNotFoundError():
            return f"{repository} has no revision {revision!r}: see {address}/commits for the existing ones"
        case OfflineModeIsEnabled():  # raised only while fetching hashes: the cache has the files
            return (
                f"the cache ({constants.HF_HUB_CACHE}) has no symlinks, and so no hashes to check {repository}: "
                "unset HF_HUB_OFFLINE, or give the checkpoint's folder with --source"
            )
        case LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            return f"{repository} is not in the cache ({constants.HF_HUB_CACHE}): unset HF_HUB_OFFLINE to download it"
        case RemoteEntryNotFoundError():
            return f"{repository} lacks a required file ({first_line(error)}): use another revision"
        case HfHubHTTPError():
            return _explain_status(error.response, address)
        case ssl.SSLCertVerificationError():
            return (
                f"the certificate of {constants.ENDPOINT} is not trusted ({error.verify_message}): if your network "
                "replaces certificates with its own, set SSL_CERT_FILE to a file that contains them"
            )
        case httpx.ProxyError() if "407" in str(error):
            return _proxy_password()
        case json.JSONDecodeError() | FileMetadataError():
            return _login_page()
        case ImportError() if "socks" in str(error).lower():
            return (
                f"{_proxy()} is a SOCKS proxy, which needs another package: run pip install 'httpx[socks]', or unset "
                "the variable"
            )
        case httpx.UnsupportedProtocol() if not constants.ENDPOINT.lower().startswith(("http://", "https://")):
            return f"HF_ENDPOINT={constants.ENDPOINT} does not begin with http:// or https://: correct it, or unset it"
        case LocalEntryNotFoundError() | httpx.TransportError() | RuntimeError():
            through = f" through the proxy of {proxy}" if (proxy := _proxy()) else ""
            return (
                f"{constants.ENDPOINT} cannot be reached{through}, or the connection broke: check the network, then "
                "run this again"
            )
        case _:
            return None


def _proxy_password() -> str:
    return (
        f"the proxy of {_proxy() or 'your network'} requires a user name and password (407): put them into its "
        "address, as in HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"
    )


def _login_page() -> str:
    return (
        f"{constants.ENDPOINT} answers with something other than the Hub's data, such as the login page of a network: "
        "log in with a browser, or check HF_ENDPOINT and the proxy"
    )


def _explain_status(response: httpx.Response, address: str) -> str:
    status = response.status_code
    if status == 407:
        return _proxy_password()
    if status == 429:
        wait = response.headers.get("Retry-After")
        when = f"in {wait} seconds" if wait and wait.isdecimal() else "in a few minutes"
        return f"{constants.ENDPOINT} got too many requests (429): run this again {when}; with HF_TOKEN it allows more"
    if status == 401:
        return f"{constants.ENDPOINT} refused the token (401): set HF_TOKEN to a valid one, or unset it"
    if status == 403:
        return (
            f"{constants.ENDPOINT}, or a filter on the way to it, forbids the download (403): check that HF_TOKEN may "
            "read this repository, and that your network allows access to the Hub"
        )
    if status == 511:  # "Network Authentication Required"
        return _login_page()
    if status >= 500:
        return f"{constants.ENDPOINT} has a server error ({status}): run this again later"
    hub = "that HF_ENDPOINT is the address of a Hugging Face Hub, and " if "HF_ENDPOINT" in os.environ else ""
    said = f"{status} {response.reason_phrase}".strip()
    return f"{constants.ENDPOINT} refuses the download ({said}): check {hub}that {address} opens in a browser"


def _proxy() -> str | None:
    """Return the variable that sets the proxy to the Hub, with only the host, since the value may hold a password."""
    scheme = httpx.URL(constants.ENDPOINT).scheme.upper()
    for variable in (f"{scheme}_PROXY", "ALL_PROXY"):
        for name in (variable, variable.lower()):
            if value := os.environ.get(name):
                return f"{name} ({value.rpartition('@')[2]})"
    return None
