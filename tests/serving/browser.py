"""A headless Chromium that a test drives through the DevTools protocol, over two pipes."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"),
]
KEYS = {"Enter": 13, "Tab": 9, "ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35}


class Browser:
    """One process; `open` shows an address in a new page."""

    def __init__(self, folder: Path) -> None:
        (reads, self._to), (self._from, writes) = os.pipe(), os.pipe()
        # The browser reads from descriptor 3 and writes to 4.
        command = [BROWSER, *FLAGS, f"--user-data-dir={folder}"]
        line = f'exec 3<&{reads} 4>&{writes}; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", line, "browser", *command], pass_fds=(reads, writes), stderr=subprocess.DEVNULL
        )
        os.close(reads)
        os.close(writes)
        self._answers = os.fdopen(self._from, "rb")
        self._rest, self._number = b"", 0
        self.troubles: list[str] = []

    def close(self) -> None:
        self._send("Browser.close", None, {})
        self._process.wait(30)
        self._answers.close()
        os.close(self._to)

    def open(self, address: str, width: int = 1280, height: int = 900) -> "Page":
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Runtime", "Log", "Page"):
            page.call(f"{domain}.enable")
        sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        page.call("Emulation.setDeviceMetricsOverride", **sizes)
        page.call("Page.navigate", url=address)
        page.until("location.href != 'about:blank' && document.readyState == 'complete'")
        return page

    def call(self, method: str, session: str | None = None, **options) -> dict:
        number = self._send(method, session, options)
        while True:
            message = self._next()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") == "Runtime.exceptionThrown":
                self.troubles.append(json.dumps(message["params"]["exceptionDetails"]))
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.troubles.append(message["params"]["entry"]["text"])

    def _send(self, method: str, session: str | None, options: dict) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": options}
        message |= {} if session is None else {"sessionId": session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        return self._number

    def _next(self) -> dict:
        while b"\0" not in self._rest:
            part = self._answers.read1(2**16)
            assert part, "the browser has ended"
            self._rest += part
        first, _, self._rest = self._rest.partition(b"\0")
        return json.loads(first)


class Page:
    """One page of a `Browser`."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **options) -> dict:
        return self._browser.call(method, self._session, **options)

    def run(self, script: str):
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 10) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"{script} stays false: {self.run('document.body.innerText')}"
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        for key in keys:
            text = {"text": "\r"} if key == "Enter" else {}
            common = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
            self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def write(self, selector: str, text: str) -> None:
        """Replaces what is in a field, whose details are opened."""
        self.run(
            f"(e => {{ if (e.closest('details')) e.closest('details').open = true; e.focus(); e.select(); }})"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))
