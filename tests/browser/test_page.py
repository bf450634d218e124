"""The web page in headless Chromium: a conversation, stop, regenerate, several conversations, settings,
the view of the machine, themes, a phone, the keyboard, and what a model may not do to the page.

OFFERING_SCREENSHOTS=DIR keeps the screenshots."""
import os
import shutil
import sys
import tempfile

from support import browser, server_process, supervisor_process as process

server_process.require()
if not browser.program():
    process.skip("chromium is not installed (scripts/setup_env.sh --tests)")

SHOTS = os.environ.get("OFFERING_SCREENSHOTS")
CONTRAST = """(() => {
    const parse = (text) => text.match(/[\\d.]+/g).map(Number);
    const luminance = (c) => c.slice(0, 3).map((v) => v / 255)
        .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (e) => {
        for (; e; e = e.parentElement) {
            const c = parse(getComputedStyle(e).backgroundColor);
            if (c.length === 3 || c[3] > 0) return c;
        }
        return [255, 255, 255];
    };
    const low = [];
    for (const e of document.querySelectorAll("body *")) {
        const text = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!text || !e.checkVisibility() || e.closest(".hidden-text, .skip")) continue;
        const a = luminance(parse(getComputedStyle(e).color)), b = luminance(behind(e));
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) low.push(e.tagName + " " + e.textContent.slice(0, 30) + " " + ratio.toFixed(2));
    }
    return low;
})()"""
UNLABELLED = """[...document.querySelectorAll("button, input, textarea, select")].filter((e) =>
    !(e.getAttribute("aria-label") || e.textContent.trim() || (e.labels && e.labels.length)))
    .map((e) => e.outerHTML.slice(0, 80))"""
HOSTILE = ("# Title\\n\\nText with **bold**, *slant*, `code` and [a link](https://example.org).\\n\\n"
           "- one\\n- two\\n  - deeper\\n\\n1. first\\n2. second\\n\\n```python\\nprint('<b>')\\n```\\n\\n"
           "| a | b |\\n|---|---|\\n| 1 | 2 |\\n\\n> quoted\\n\\n"
           "<img src=x onerror=\\\"window.hacked=1\\\"><script>window.hacked=1</script>\\n\\n"
           "[bad](javascript:window.hacked=1)")


class Page:
    def __init__(self, b, server, directory):
        self.b, self.server, self.directory = b, server, directory

    def shot(self, name):
        path = os.path.join(self.directory, name + ".png")
        self.b.screenshot(path)
        size = os.path.getsize(path)
        assert size > 5000, f"{path}: {size} bytes are no picture of the page"

    def click(self, element):
        self.b.evaluate(f"document.querySelector('{element}').click()")

    def say(self, text):
        self.b.evaluate("document.getElementById('input').focus()")
        self.b.type(text)
        self.b.key("Enter", 13)

    def text(self, element):
        return self.b.evaluate(f"document.querySelector('{element}').textContent")

    def settled(self):
        self.b.wait("!document.getElementById('send').hidden && "
                    "document.querySelectorAll('.message.assistant').length > 0")

    def settings(self, **values):
        self.click("#open-settings")
        self.b.wait("document.getElementById('settings').open")
        for name, value in values.items():
            self.b.evaluate(f"document.getElementById('s-{name}').value = {value!r}")
        self.click("#save-settings")
        self.b.wait("!document.getElementById('settings').open")


def converse(page):
    b = page.b
    b.size(1280, 800)
    b.scheme("light")
    b.open(page.server.url)
    b.wait("document.getElementById('model').textContent !== ''")
    page.shot("empty")
    page.click(".empty li button")
    assert b.evaluate("document.getElementById('input').value").startswith("Explain"), "an idea is written for you"
    b.evaluate("document.getElementById('input').value = ''")
    page.settings(temperature="0", max_tokens="60", seed="1")
    page.say("What is the capital of France?")
    page.settled()
    assert "Paris" in page.text(".message.assistant .body"), page.text(".message.assistant .body")
    assert "tok/s" in page.text(".message.assistant .foot")
    process.equal(page.text("#title"), "What is the capital of France?", "title")
    page.say("And of Italy?")
    b.wait("document.querySelectorAll('.message').length === 4")
    page.settled()
    first = page.text(".message:last-child .body")
    page.settings(temperature="1", seed="7")
    page.click(".message:last-child .foot button:last-child")
    b.wait("document.querySelectorAll('.message').length === 4 && "
           "document.getElementById('send').hidden")
    page.settled()
    process.equal(b.evaluate("document.querySelectorAll('.message').length"), 4, "regenerated")
    assert page.text(".message:last-child .body") and first
    process.equal(b.evaluate(UNLABELLED), [], "controls without a name")


def stop_and_switch(page):
    b = page.b
    page.settings(max_tokens="", temperature="0.6")
    page.click("#new-chat")
    page.say("Write a very long story about a dragon and a lighthouse.")
    b.wait("document.querySelector('.message.assistant .body')?.textContent.length > 40")
    assert b.evaluate("document.getElementById('send').hidden"), "no stop button"
    page.click("#stop")
    page.settled()
    assert "stopped" in page.text(".message:last-child .foot")
    page.server.until_idle()
    process.equal(b.evaluate("document.querySelectorAll('#conversations li').length"), 2, "list")
    page.click("#conversations li:last-child .pick")
    process.equal(b.evaluate("document.querySelectorAll('.message').length"), 4, "the other one")
    b.open(page.server.url + "/?again")
    b.wait("document.querySelectorAll('#conversations li').length === 2")
    page.click("#conversations li:first-child button.icon")
    b.wait("document.querySelectorAll('#conversations li').length === 1")


def hostile_markdown(page):
    b = page.b
    b.evaluate("(() => { const c = current; c.messages.push({role: 'user', content: 'Show me'}, "
               f"{{role: 'assistant', content: \"{HOSTILE}\"}}); drawAll(); }})()")
    for element in ("h2", "strong", "em", "code", 'a[href="https://example.org"]', "ul ul", "ol",
                    "pre code", "table td", "blockquote"):
        found = f"document.querySelector('.message:last-child .body').querySelector('{element}')"
        assert b.evaluate(f"{found} !== null"), f"no {element}"
    process.equal(b.evaluate("document.querySelectorAll('.message img, .message script').length"), 0)
    process.equal(b.evaluate("[...document.querySelectorAll('.message a')].filter((a) => "
                             "!a.href.startsWith('https:')).length"), 0, "links")
    process.equal(b.evaluate("window.hacked"), None, "script ran")
    page.shot("markdown")


def machine_and_themes(page):
    b = page.b
    page.click("#toggle-machine")
    b.wait("document.querySelectorAll('#machine-body dl').length >= 3")
    for text in ("tok/s", "KV cache", "Slots", "cpu", "temperature"):
        assert text in page.text("#machine-body"), text
    page.say("Write a long poem about rivers.")
    b.wait("document.querySelector('.slots .decode, .slots .prefill') !== null")
    b.wait("/decode\\s*[1-9]/.test(document.getElementById('machine-body').innerText)")
    page.shot("light")
    page.click("#stop")
    page.settled()
    process.equal(b.evaluate(CONTRAST), [], "contrast, light")
    b.scheme("dark")
    page.shot("dark")
    process.equal(b.evaluate(CONTRAST), [], "contrast, dark")
    page.settings(theme="light")
    b.wait("getComputedStyle(document.body).backgroundColor === 'rgb(251, 251, 249)'", timeout=10)
    page.settings(theme="auto")
    b.size(390, 780, phone=True, scale=2)
    page.click("#close-machine")
    b.wait("document.getElementById('machine').hidden")
    assert b.evaluate("document.documentElement.scrollWidth <= 390"), "wider than a phone"
    b.wait("(() => { const m = document.getElementById('messages'); "
           "return m.scrollHeight - m.scrollTop - m.clientHeight < 2; })()")  # the newest stays in view
    page.shot("phone")
    page.click("#open-sidebar")
    b.wait("document.getElementById('sidebar').checkVisibility()")
    page.shot("phone_list")
    page.click("#close-sidebar")


def a_failure_is_no_dead_end(page):
    b = page.b
    page.click("#new-chat")
    b.wait("document.querySelector('.empty') !== null")
    b.evaluate("document.getElementById('input').value = 'word '.repeat(3000)")
    page.say("!")
    b.wait("!document.getElementById('error').hidden")
    assert "context" in page.text("#error"), page.text("#error")
    process.equal(page.text(".message:last-child .foot button"), "Try again")
    b.evaluate("(current.messages[0].content = 'Say yes.', 1)")
    page.click(".message:last-child .foot button")
    b.wait("document.querySelectorAll('.message').length === 2")
    page.settled()
    process.equal(b.evaluate("document.getElementById('error').hidden"), True, "the error is gone")
    b.problems[:] = [p for p in b.problems if "400 (Bad Request)" not in p]  # the one that was wanted
    plan = "prefill=openvino:NPU,decode=openvino:NPU@0-4,cpu@4-"
    for name, phases in (("openvino:NPU", "prefill and decode (layers 0\u20134)"), ("cpu", "decode (layers 4\u2013)"),
                         ("opencl", "idle")):
        process.equal(b.evaluate(f"phaseOf({name!r}, {plan!r})"), phases, "what a device does")


def keyboard(page):
    b = page.b
    b.size(1280, 800)
    b.evaluate("document.getElementById('input').focus()")
    b.type("one")
    b.key("Enter", 13, shift=True)
    process.equal(b.evaluate("document.getElementById('send').hidden"), False, "shift+enter sends")
    b.evaluate("document.getElementById('input').value = ''")
    b.evaluate("document.body.tabIndex = -1, document.body.focus(), document.body.removeAttribute("
               "'tabindex')")
    b.key("Tab", 9)
    process.equal(b.evaluate("document.activeElement.className"), "skip", "the first stop")
    seen = set()
    for _ in range(40):
        b.key("Tab", 9)
        seen.add(b.evaluate("document.activeElement.id"))
    for name in ("new-chat", "open-settings", "toggle-machine", "messages", "input", "send"):
        assert name in seen, f"{name} is not reached with the keyboard"


def main():
    directory = SHOTS or tempfile.mkdtemp(prefix="offering_shots_")
    os.makedirs(directory, exist_ok=True)
    failed = 0
    with process.Session() as session, server_process.Server(session, "--context", "2048") as server, \
            browser.Browser() as b:
        page = Page(b, server, directory)
        for test in (converse, stop_and_switch, hostile_markdown, machine_and_themes, a_failure_is_no_dead_end,
                     keyboard):
            try:
                test(page)
                print("ok  ", test.__name__, flush=True)
            except AssertionError as error:
                failed += 1
                print("FAIL", test.__name__, error, flush=True)
                page.shot("failed_" + test.__name__)
        if b.problems:
            failed += 1
            print("FAIL the page has errors:", b.problems)
    if not SHOTS:
        shutil.rmtree(directory)
    sys.exit(1 if failed else 0)


main()
