"""The chat page in a real browser: headless Chromium with Gradio, and real or scripted answers behind it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from filelock import FileLock
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from ovms_local.testing import RunningServer, free_port, serve
from tests.scripted_chat.scripted_answers import HTML
from tests.support import watch
from tests.support.ov_config import ov_config

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "chat_page"
CHROMIUM = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        None in CHROMIUM.values(), reason="no browser is installed: apt-get install chromium chromium-driver"
    ),
]
TABS = 16
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1100,900"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
EVIL = (
    "x <script>document.title = 'run'</script> <img src=x onerror=\"document.title = 'run'\"> <b>bold</b> vector<T> "
    "<iframe srcdoc=\"<script>parent.document.title = 'run'</script>\"></iframe> [a](javascript:document.title='run') "
    "![i](http://example.com/i.png) end"
)


@pytest.fixture(scope="module")
def python(model_cache: Path) -> Path:
    """A Python environment with the page's own requirements, kept per machine."""
    key = sha256((EXAMPLE / "requirements.txt").read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = model_cache.parent / f"chat-page-{key}"
    with FileLock(f"{folder}.lock"):
        if not (folder / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            pip = [folder / "bin" / "pip", "install", "--quiet", "-r", EXAMPLE / "requirements.txt"]
            subprocess.run(list(map(str, pip)), check=True)
            (folder / "complete").touch()
    os.utime(folder)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def asked_elsewhere() -> Iterator[dict[str, str]]:
    """The environment of pages, in which any request to the internet would go to a proxy and fail the test."""
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def count() -> None:
            while True:
                try:
                    calls.append(proxy.accept())
                except OSError:
                    return

        threading.Thread(target=count, daemon=True).start()
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        yield {**os.environ, **dict.fromkeys(names, url), "no_proxy": "", "NO_PROXY": ""}
        proxy.shutdown(socket.SHUT_RDWR)
    assert not calls


@contextmanager
def running_page(python: Path, environment: dict[str, str], server: str) -> Iterator[str]:
    """Run the page for this server, and yield its address."""
    port = free_port()
    command = [python, EXAMPLE / "app.py", "--url", server, "--port", port]
    process = subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if "Uvicorn running" in line:
                break
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(30)


class Browser:
    """Chromium with the tabs that a test opens; its requests are recorded."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM["chromium"]
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(CHROMIUM["chromedriver"]))
        self.driver.implicitly_wait(30)
        self.hosts: dict[str, str] = {}

    def open(self, url: str) -> None:
        self.driver.get(url)
        watch.until(lambda: self.box.is_displayed())

    def tab(self, url: str) -> str:
        self.driver.switch_to.new_window("tab")
        self.open(url)
        return self.driver.current_window_handle

    @property
    def box(self) -> WebElement:
        """The input field for questions."""
        return self.driver.find_element(By.CSS_SELECTOR, "textarea[data-testid=textbox]")

    def ask(self, question: str) -> None:
        watch.until(lambda: self.box.is_enabled())
        self.box.send_keys(question, Keys.ENTER)

    def texts(self, role: str) -> list[str]:
        """The texts of the messages by `user` or `bot`, including the page's notes."""
        script = "return [...document.querySelectorAll('[data-testid=' + arguments[0] + ']')].map(e => e.innerText)"
        return self.driver.execute_script(script, role)

    def notes(self) -> list[str]:
        script = "return [...document.querySelectorAll('[data-testid=bot] em:only-child')].map(e => e.innerText)"
        return self.driver.execute_script(script)

    def answer(self, question: str) -> tuple[str, str]:
        """Ask, wait for the end, and return the answer and the note below it."""
        before = len(self.notes())
        self.ask(question)
        watch.until(lambda: len(self.notes()) > before)
        return self.texts("bot")[-2], self.notes()[-1]

    def click(self, css: str) -> None:
        watch.until(lambda: self.driver.find_element(By.CSS_SELECTOR, css).is_displayed())
        self.driver.find_element(By.CSS_SELECTOR, css).click()

    def asked(self) -> set[str]:
        """The hosts of all requests so far that were not blocked; the browser's own pages have other schemes."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            match message["method"], message["params"]:
                case "Network.requestWillBeSent", {"requestId": request, "request": {"url": str(url)}}:
                    parts = urllib.parse.urlsplit(url)
                    if parts.scheme in ("http", "https", "ws", "wss"):
                        self.hosts[request] = parts.hostname
                case "Network.loadingFailed", {"requestId": request, "blockedReason": "csp"}:
                    self.hosts.pop(request, None)
        return set(self.hosts.values())

    def close_tabs(self) -> None:
        first, *others = self.driver.window_handles
        for handle in others:
            self.driver.switch_to.window(handle)
            self.driver.close()
        self.driver.switch_to.window(first)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    try:
        yield browser
    finally:
        browser.driver.quit()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    yield chromium
    chromium.close_tabs()
    chromium.driver.get("about:blank")
    assert chromium.asked() <= {"127.0.0.1"}


@pytest.fixture(scope="module")
def model(int8_model: Path) -> Iterator[RunningServer]:
    """The demo's model, as deterministic as possible."""
    env = {
        **{"MODEL_PATH": str(int8_model), "ENGINE": "genai", "KV_CACHE_GB": "1", "MAX_NEW_TOKENS": "1500"},
        **{"TEMPERATURE": "0", "REPETITION_PENALTY": "1"},
        "OV_CONFIG": ov_config(DYNAMIC_QUANTIZATION_GROUP_SIZE="0"),
    }
    with serve(ROOT / "servable_chat", env=env) as server:
        yield server


@pytest.fixture(scope="module")
def page(python: Path, asked_elsewhere: dict[str, str], model: RunningServer) -> Iterator[str]:
    with running_page(python, asked_elsewhere, model.grpc_url) as url:
        yield url


@pytest.fixture(scope="module")
def script() -> Iterator[RunningServer]:
    with serve(ROOT / "tests" / "scripted_chat") as server:
        yield server


@pytest.fixture(scope="module")
def scripted(python: Path, asked_elsewhere: dict[str, str], script: RunningServer) -> Iterator[str]:
    with running_page(python, asked_elsewhere, script.grpc_url) as url:
        yield url


def lines(server: RunningServer, what: str) -> Callable[[], int]:
    return lambda: sum(what in line for line in server.log.splitlines())


class TestModel:
    def test_the_second_question_needs_the_first(self, browser, page):
        browser.open(page)
        answer, note = browser.answer("What is the capital of France?")
        assert "Paris" in answer
        assert re.fullmatch(r"\d+ tokens, \d+\.\d tokens/s, first after \d+\.\d\d s", note)
        answer, _ = browser.answer("What country did I ask about? Answer with its name.")
        assert "France" in answer

    def test_text_grows_stop_ends_it_and_the_conversation_goes_on(self, browser, page, model):
        browser.open(page)
        cancelled = lines(model, "; cancelled; ")
        before = cancelled()
        browser.ask("Write a very long story about the sea.")
        seen = set()
        watch.until(lambda: seen.update(map(len, browser.texts("bot"))) or len(seen) > 5)
        browser.click("button.stop-button")
        watch.until(lambda: cancelled() == before + 1)
        assert not browser.notes()
        story = browser.texts("bot")[-1]
        answer, _ = browser.answer("What is the capital of France?")
        assert browser.texts("bot")[0] == story
        assert answer

    @pytest.mark.parametrize("how", ["reload", "close"])
    def test_who_leaves_leaves_nothing_running(self, browser, page, model, how):
        browser.driver.get("about:blank")
        cancelled = lines(model, "; cancelled; ")
        before = cancelled()
        browser.tab(page)
        browser.ask("Write a very long story about the sea.")
        watch.until(lambda: browser.texts("bot"))
        if how == "reload":
            browser.driver.refresh()
        else:
            browser.close_tabs()
        watch.until(lambda: cancelled() == before + 1)
        if how == "reload":
            watch.until(lambda: browser.box.is_displayed())
            assert not browser.texts("user")


class TestWhatIsShown:
    def test_what_a_user_types_is_text(self, browser, scripted):
        browser.open(scripted)
        typed = "messages <script>document.title = 'run'</script> vector<T> <|im_end|> a < b"
        answer, _ = browser.answer(typed)
        assert browser.texts("user") == [typed]
        assert json.loads(answer)[-1]["content"] == typed
        assert browser.driver.title == "Chat"

    def test_html_of_an_answer_is_not_run(self, browser, scripted):
        browser.open(scripted)
        browser.answer(f"echo {EVIL}")
        shown = browser.texts("bot")[-2]
        for part in ("<script>document.title = 'run'</script>", "<b>bold</b>", "vector<T>", "<iframe srcdoc", "end"):
            assert part in shown
        for link in browser.driver.find_elements(By.LINK_TEXT, "a"):
            link.click()
        assert browser.driver.title == "Chat"

    def test_html_is_text_also_where_only_a_part_of_markdown_sees_code(self, browser, scripted):
        browser.open(scripted)
        typed = "echo Use ``` inline <h1 id=evil>BIG</h1> <form id=evil action='http://evil.example'><input></form>"
        answer, _ = browser.answer(typed)
        assert "<h1 id=evil>BIG</h1> <form id=evil" in answer
        browser.answer("code")
        script = "return [...document.querySelectorAll('[data-testid=bot] code')].map(e => e.textContent.trimEnd())"
        codes = [*[HTML] * 8, "graph TD; A[&lt;h1 id=evil&gt;h&lt;/h1&gt;]", HTML]
        watch.until(lambda: browser.driver.execute_script(script) == codes)
        evil = "return document.querySelectorAll('[id=evil], [data-testid=bot] form, .mermaid').length"
        assert browser.driver.execute_script(evil) == 0

    def test_what_is_copied_and_edited_is_as_typed(self, browser, scripted):
        browser.open(scripted)
        typed = "echo a <b>c</b> `<d>` ```mermaid"
        browser.answer(typed)
        allowed = ["clipboardReadWrite", "clipboardSanitizedWrite"]
        browser.driver.execute_cdp_cmd("Browser.grantPermissions", {"permissions": allowed})
        browser.click("button[aria-label='Copy message'], button[title='Copy message']")
        copied = "navigator.clipboard.readText().then(arguments[0])"
        watch.until(lambda: browser.driver.execute_async_script(copied) == typed)
        browser.click("button[aria-label=Edit]")
        question = browser.driver.find_element(By.CSS_SELECTOR, "textarea.edit-textarea")
        assert question.get_property("value") == typed

    def test_markdown_and_code(self, browser, scripted):
        browser.open(scripted)
        browser.answer("echo **bold** and `a<b>c`")
        answer = browser.driver.find_elements(By.CSS_SELECTOR, "[data-testid=bot]")[-2]
        assert answer.find_element(By.TAG_NAME, "strong").text == "bold"
        assert answer.find_element(By.TAG_NAME, "code").text == "a<b>c"


class TestConversation:
    def test_an_edited_question_is_answered_anew_and_what_came_after_it_is_gone(self, browser, scripted):
        browser.open(scripted)
        browser.answer("say one")
        browser.answer("say three")
        browser.click("button[aria-label=Edit]")
        question = browser.driver.find_element(By.CSS_SELECTOR, "textarea.edit-textarea")
        question.clear()
        question.send_keys("say two")
        browser.click("button[aria-label=Submit]")
        watch.until(lambda: [text.strip() for text in browser.texts("bot")[:1]] == ["two"] and browser.notes())
        answer, _ = browser.answer("messages")
        assert [message["content"] for message in json.loads(answer)] == ["say two", "two", "messages"]


class TestSettings:
    def field(self, browser: Browser, label: str) -> WebElement:
        path = f"//label[.//span[normalize-space()='{label}']]//*[self::textarea or self::input]"
        watch.until(lambda: browser.driver.find_element(By.XPATH, path).is_displayed())
        return browser.driver.find_element(By.XPATH, path)

    def test_they_go_with_the_question(self, browser, scripted):
        browser.open(scripted)
        nothing = {"temperature": None, "top_p": None, "max_tokens": None, "stop": []}
        assert json.loads(browser.answer("sampling")[0]) == nothing
        browser.open(scripted)
        browser.click("button.label-wrap")
        for label, text in {
            "System prompt": "Be brief.",
            "Temperature": "0.5",
            "Top-p": "0.9",
            "Longest answer, in tokens": "7",
            "Stop before": f"one{Keys.ENTER * 2}two{Keys.ENTER}",
        }.items():
            self.field(browser, label).send_keys(text)
        assert json.loads(browser.answer("messages")[0])[0] == {"role": "system", "content": "Be brief."}
        sent = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "stop": ["one", "two"]}
        assert json.loads(browser.answer("sampling")[0]) == sent

    @pytest.mark.parametrize("typed", ["hot", "nan", "1e999"])
    def test_what_is_no_number_is_told(self, browser, scripted, typed):
        browser.open(scripted)
        browser.click("button.label-wrap")
        self.field(browser, "Temperature").send_keys(typed)
        browser.ask("Hello")
        watch.until(browser.notes)
        assert browser.notes()[0].startswith(f"Under Settings, {typed} is not a valid number.")

    def test_the_server_s_ceilings_are_told(self, browser, page):
        browser.open(page)
        browser.click("button.label-wrap")
        longest = self.field(browser, "Longest answer, in tokens")
        watch.until(lambda: "up to 1500" in longest.get_attribute("placeholder"))
        longest.send_keys("2000")
        browser.ask("Hello")
        watch.until(browser.notes)
        assert browser.notes()[0].startswith("This server's answers have at most 1500 tokens")
        self.field(browser, "Temperature").send_keys("9")
        browser.ask("Hello again")
        watch.until(lambda: len(browser.notes()) == 2)


class TestWhatGoesWrong:
    def test_busy_and_broken_and_too_long(self, browser, scripted, script):
        browser.open(scripted)
        browser.ask("busy")
        watch.until(browser.notes)
        assert browser.notes()[0].startswith("The server is busy")
        assert browser.answer("broken half an answer")[1].startswith(
            "The server could not answer: the model broke The partial"
        )
        assert browser.answer("say one")[1].startswith("1 token, ")
        answer, note = browser.answer("unfinished half an answer")
        assert answer == "half an answer"
        assert note == "The server ended in the middle of the answer. The partial answer is kept. ↻ asks again."
        browser.answer("one more")
        sent = json.loads(browser.answer("messages")[0])  # at most five
        assert [message["content"] for message in sent] == [
            *("unfinished half an answer", "half an answer", "one more", "more", "messages"),
        ]
        assert "without the oldest questions" in browser.notes()[-1]
        assert browser.texts("bot")[-1].strip() == browser.notes()[-1]
        browser.answer("one more")
        left = lines(script, "left")
        before = left()
        browser.answer("one more")
        assert left() == before + 2  # once with the turn that no longer fits, once without all that do not
        browser.ask("x" * 1001)
        watch.until(lambda: browser.notes()[-1].startswith("This is too long for the model"))
        assert browser.texts("user")[0] == "busy"
        assert browser.texts("user")[-1] == "x" * 1001

    def test_no_server_then_one_that_is_not_ready_and_one_that_ends(self, browser, python, asked_elsewhere, tmp_path):
        port = free_port()
        with running_page(python, asked_elsewhere, f"127.0.0.1:{port}") as url:
            browser.open(url)
            browser.ask("one two three")
            watch.until(browser.notes)
            assert browser.notes() == [
                f"No server answers at 127.0.0.1:{port}. It may not be running yet. ↻ asks again."
            ]
            assert browser.texts("user") == ["one two three"]
            args = ["--port", str(port)]
            with serve(ROOT / "servable_chat", env={"MODEL_PATH": str(tmp_path)}, args=args):
                browser.click("button[aria-label=Retry], button[title=Retry]")
                watch.until(lambda: "not ready" in "".join(browser.notes()))
            with serve(ROOT / "tests" / "scripted_chat", args=args) as server:
                browser.click("button[aria-label=Retry], button[title=Retry]")
                watch.until(lambda: "tokens/s" in "".join(browser.notes()))
                assert browser.texts("bot")[0] == "two three"
                browser.ask("endless")
                watch.until(lambda: len(browser.texts("bot")) == 3)
                server.process.kill()
                watch.until(lambda: len(browser.notes()) == 2)
                assert browser.notes()[1].startswith("The server ended in the middle of the answer. The partial")
                assert "word0 word1" in browser.texts("bot")[2]


def test_sixteen_tabs_have_conversations_of_their_own(browser, scripted, script):
    left = lines(script, "left")
    tabs = [browser.tab(scripted) for _ in range(TABS)]
    before = left()
    for number, tab in enumerate(tabs):
        browser.driver.switch_to.window(tab)
        browser.ask(f"echo this is tab {number}")
    for tab in tabs:
        browser.driver.switch_to.window(tab)
        watch.until(browser.notes)
    for number, tab in enumerate(tabs):
        browser.driver.switch_to.window(tab)
        question = f"echo this is tab {number}"
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": f"this is tab {number}"}]
        assert json.loads(browser.answer("messages")[0]) == [*said, {"role": "user", "content": "messages"}]
    watch.until(lambda: left() == before + 2 * TABS)
    browser.ask("endless")
    watch.until(lambda: len(browser.texts("bot")) == 5)
    browser.driver.close()
    watch.until(lambda: left() == before + 2 * TABS + 1)
    browser.driver.switch_to.window(tabs[0])
