"""The page in a browser: it writes, streams, varies, interpolates, fills gaps, shows errors, and fits a phone."""

import json
import subprocess

import pytest

from ld4lg_fast.export.runtime.errors import RuntimeInputError
from ld4lg_fast.export.runtime.events import Partial
from tests.serving.browser import BROWSER, Browser
from tests.serving.scripted_backend import ScriptedBackend

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
TEXTS = "[...document.querySelectorAll('#results .text')].map(e => e.textContent)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def show(browser, serving):
    """Opens the page of a backend; nothing may be blocked or fail on it."""
    browser.troubles.clear()

    def open_page(backend, width=1280, key=None):
        address, _ = serving(backend, api_key=key)
        page = browser.open(address, width)
        if key is None:
            page.until("document.querySelector('#status').textContent == 'ready'")
        return page

    yield open_page
    browser.call("Browser.getVersion")  # what has happened until now is told before
    assert browser.troubles == []


def ask(page, form, **fields):
    for name, value in fields.items():
        page.write(f"#{form} [name={name}]", value)
    page.run(f"document.getElementById('{form}').requestSubmit()")


def test_it_writes_and_shows_texts_as_texts(show, backend):
    page = show(backend)
    assert page.run("document.title") == "toy"
    hidden = page.run(
        "[...document.querySelectorAll('[data-needs]')].filter(e => e.hidden).map(e => e.dataset.needs)"
    )
    assert hidden == ["source", "class_name", "length", "guidance_scale"]
    ask(page, "write", prompt="a", n="2", seed="7")
    page.until("document.querySelectorAll('#results .meta').length == 2")
    assert page.run(TEXTS) == [f"a7.{i} <b>one</b> two three" for i in (0, 1)]
    assert page.run("document.querySelectorAll('#results b').length") == 0
    request, _ = backend.held[0]
    assert request.stream and request.show_steps == list(range(1, 9)) and request.quality == "draft"
    assert request.steps is None and request.class_name is None and request.temperature is None


def test_words_settle_while_it_streams_and_stop_frees_the_rows(show):
    backend = ScriptedBackend(holds=True)
    page = show(backend)
    ask(page, "write", n="1")
    backend.wait_for(lambda backend: backend.held)
    _, on_event = backend.held[0]
    heat = "[...document.querySelectorAll('#results span')].map(e => +e.style.getPropertyValue('--heat'))"
    on_event(Partial(0, 1, "some first words"))
    page.until(f"{TEXTS}[0] == 'some first words'")
    first = page.run(heat)
    on_event(Partial(0, 4, "some other words"))
    page.until(f"{TEXTS}[0] == 'some other words'")
    then = page.run(heat)
    assert then[0] < then[1] < first[0], (
        "what stays is cooler than what has changed, which is cooler than before"
    )
    page.run("document.querySelector('#write .stop').click()")
    backend.wait_for(lambda backend: backend.cancelled)
    page.until("document.querySelector('#status').textContent == 'stopped'")
    assert page.run("document.querySelector('#error').hidden")


def test_it_shows_what_the_server_refuses_at_the_field(show, backend):
    def refuse(*arguments):
        raise RuntimeInputError("temperature is <b>hot</b>; it must be lower.")

    backend.submit = refuse
    page = show(backend)
    ask(page, "write", temperature="3")
    page.until("!document.querySelector('#error').hidden")
    assert (
        page.run("document.querySelector('#error').textContent")
        == "temperature is <b>hot</b>; it must be lower."
    )
    assert page.run("document.activeElement.name") == "temperature" and page.run(
        "document.activeElement.closest('details').open"
    )
    page._browser.troubles.clear()  # the console lists the answer 400


def test_by_keyboard_alone_one_writes_and_drags_between_two_texts(show, backend):
    page = show(backend)
    assert page.run("document.activeElement.textContent") == "Write"
    page.press("Enter")
    page.until("document.querySelectorAll('#results .meta').length == 3")
    page.run("document.querySelector('#tab-write').focus()")
    page.press("ArrowRight")
    assert page.run("document.activeElement.id") == "tab-between" and not page.run(
        "document.querySelector('#between').hidden"
    )
    page.press("Tab")
    page.call("Input.insertText", text="start")
    page.press("Tab")
    page.call("Input.insertText", text="end")
    page.press("Tab", "Enter")
    page.until("document.activeElement.type == 'range'")
    text = "document.querySelector('#between-view .text').textContent"
    assert page.run(text) == "start 4 end"
    page.press("ArrowRight")
    assert page.run(text) == "start 5 end"
    page.press("Home")
    assert page.run(text) == "start 0 end"


def test_a_text_is_sent_on_to_be_varied_and_interpolated(show, backend):
    page = show(backend)
    ask(page, "write", n="1", seed="2")
    page.until("document.querySelectorAll('#results .tools button').length == 4")
    page.run(
        "[...document.querySelectorAll('#results .tools button')].find(b => b.textContent == 'Vary it').click()"
    )
    assert page.run("document.activeElement.value") == "2.0 <b>one</b> two three"
    page.press("Tab", "ArrowRight")
    assert page.run("document.querySelector('#vary output').textContent") == "0.55"
    ask(page, "vary", n="2")
    page.until("document.querySelectorAll('#results .meta').length == 2")
    request, _ = backend.held[1]
    assert (request.start, request.strength) == ("2.0 <b>one</b> two three", 0.55)
    page.run("document.querySelector('#tab-between').click()")
    page.run("document.querySelector('#invent').click()")
    page.until("document.querySelector('#between [name=second]').value.includes('.1 <b>')")


def test_fillings_are_marked(show, backend):
    page = show(backend)
    page.run("document.querySelector('#tab-fill').click()")
    ask(page, "fill", text="___ is a ___ pub", n="2")
    page.until("document.querySelectorAll('#results mark').length == 4")
    assert page.run(TEXTS) == [f"word {i} is a word {i} pub" for i in (0, 1)]
    assert page.run("[...document.querySelectorAll('#results mark')].map(e => e.textContent)") == [
        *("word 0", "word 0", "word 1", "word 1")
    ]


@pytest.mark.parametrize(
    ("tab", "fields"), [("write", {"prompt": 'it\'s "a"\\ $HOME'}), ("fill", {"text": "it's ___"})]
)
def test_the_request_as_curl_and_python_gives_the_same_texts(show, backend, tab, fields):
    page = show(backend)
    page.run(f"document.querySelector('#tab-{tab}').click()")
    ask(page, tab, n="2", seed="4", **fields)
    page.until("document.querySelectorAll('#results .meta').length == 2")
    texts = page.run(TEXTS)
    if tab == "write":
        texts = [text.removeprefix(fields["prompt"]) for text in texts]
    code = page.run("document.querySelector('#python').textContent")
    printed = []
    exec(compile(code, "python", "exec"), {"print": printed.append})
    assert printed == texts
    line = page.run("document.querySelector('#curl').textContent")
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert [choice["text"] for choice in json.loads(done.stdout)["choices"]] == texts


def test_it_asks_for_the_key_that_the_server_wants(show, backend):
    page = show(backend, key="k1")
    page.until("!document.querySelector('#unlock').hidden")
    page.write("#unlock [name=key]", "k2")
    page.press("Enter")
    page.until("!document.querySelector('#error').hidden")
    page.write("#unlock [name=key]", "k1")
    page.press("Enter")
    page.until("document.querySelector('#status').textContent == 'ready'")
    ask(page, "write", n="1")
    page.until("document.querySelectorAll('#results .meta').length == 1")
    page._browser.troubles.clear()  # the console lists the answers 401


def test_it_fits_a_phone(show, backend):
    page = show(backend, width=390)
    beyond = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for tab in ("write", "between", "vary", "fill"):
        page.run(f"document.querySelector('#tab-{tab}').click()")
        assert page.run("innerWidth") == 390 and page.run(beyond) == 0, tab
    page.run("document.querySelector('#tab-write').click()")
    ask(page, "write", prompt="word" * 100, n="3")
    page.until("document.querySelectorAll('#results .meta').length == 3")
    page.run("document.querySelector('#code').open = true")
    assert page.run(beyond) == 0
