"""A headless Chromium for tests: pages are opened, clicked and looked at over its debugging pipe.

The protocol is JSON objects that end with a zero byte, commands on descriptor 3 and answers and
events on descriptor 4 of the browser.  That is all a test needs, so no driver is installed.
"""

import base64
import json
import os
import select
import subprocess
import time

from requires import require_program

SECONDS = 60  # until a test gives up; a busy machine takes some

FLAGS = (
    "--headless",
    "--no-sandbox",  # Chromium has none for root, and pages here are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--window-size=1200,800",
    "--remote-debugging-pipe",
)


class Chromium:
    """A running browser; a context manager."""

    def __init__(self, folder):
        program = require_program("chromium", "chromium")
        # The shell puts the pipes where the protocol wants them.
        shell = ["sh", "-c", 'exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>&2']
        self._process = subprocess.Popen(
            [*shell, program, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder)}, bufsize=0,
        )  # fmt: skip
        self._commands = 0
        self._unread = b""
        self._events = {}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._process.stdin.close()  # at which it ends by itself
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def open(self, path):
        """A page with the file at a path, when it has loaded."""
        return Page(self, path)

    def call(self, method, session=None, **parameters):
        """What the browser answers to a command."""
        self._commands += 1
        number = self._commands
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + SECONDS
        while True:
            answer = self._read(deadline)
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._keep(answer)

    def events(self, session):
        """All (method, parameters) that a page has told so far."""
        return self._events.setdefault(session, [])

    def wait_for(self, event, session):
        deadline = time.monotonic() + SECONDS
        while not any(method == event for method, _ in self.events(session)):
            self._keep(self._read(deadline))

    def _keep(self, message):
        if "method" in message:
            events = self.events(message.get("sessionId"))
            events.append((message["method"], message["params"]))

    def _read(self, deadline):
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._process.stdout], [], [], deadline - time.monotonic())
            received = os.read(self._process.stdout.fileno(), 1 << 20) if ready else b""
            assert received, "Chromium does not answer"
            self._unread += received
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)


class Page:
    """A page that is open in a browser."""

    def __init__(self, browser, path):
        self._browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=path.resolve().as_uri())
        browser.wait_for("Page.loadEventFired", self._session)

    def call(self, method, **parameters):
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, expression):
        """The value of a JavaScript expression; one of a promise when it is there."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, x, y):
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def move(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def wait_until(self, expression):
        """Until an expression is true: a picture moves for a while when it is clicked."""
        deadline = time.monotonic() + SECONDS
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"never became true: {expression}"
            time.sleep(0.05)

    def screenshot(self):
        """The page as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    @property
    def requests(self):
        """The addresses of all that was asked for, but for what the page has within itself."""
        return [
            parameters["request"]["url"]
            for method, parameters in self._browser.events(self._session)
            if method == "Network.requestWillBeSent"
            and not parameters["request"]["url"].startswith("data:")
        ]

    @property
    def complaints(self):
        """What a console shows in red or yellow, exceptions, and windows that scripts open."""
        return [
            (method, parameters)
            for method, parameters in self._browser.events(self._session)
            if method in ("Runtime.exceptionThrown", "Page.javascriptDialogOpening")
            or (method == "Runtime.consoleAPICalled" and parameters["type"] != "debug")
            or (method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"))
        ]
