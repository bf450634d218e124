"""Renders the same template with our interpreter and with jinja2, set up as transformers sets it up.

The oracle's settings: ImmutableSandboxedEnvironment, trim_blocks, lstrip_blocks, loop controls, the
tojson filter, raise_exception, strftime_now and generation blocks of transformers'
utils/chat_template_utils.py."""
import datetime
import functools
import json
import os
import subprocess
import sys

try:
    import jinja2
    import jinja2.ext
    import jinja2.sandbox
except ImportError:
    print("skipped: this Python has no jinja2")
    sys.exit(77)

NOW = 1753500000


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_write")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _write(self, caller):
        return caller()


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def strftime_now(format):
    return datetime.datetime.fromtimestamp(NOW).strftime(format)


ENVIRONMENT = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
)
ENVIRONMENT.filters["tojson"] = tojson
ENVIRONMENT.globals["raise_exception"] = raise_exception
ENVIRONMENT.globals["strftime_now"] = strftime_now


compiled = functools.lru_cache(maxsize=64)(ENVIRONMENT.from_string)


def oracle(template, context):
    """(text, None) or (None, what it raised)."""
    try:
        text = compiled(template).render(**context)
        text.encode("utf-8")
        return text, None
    except Exception as error:  # whatever a template can raise
        return None, f"{type(error).__name__}: {error}"


class Ours:
    """The template_tool of the build, kept running."""

    def __init__(self):
        tool = os.path.join(os.environ["OFFERING_BUILD_DIR"], "tests", "tools", "template_tool")
        self.process = subprocess.Popen(
            [tool], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def ask(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"template_tool died on {request!r}")
        return json.loads(line)

    def render(self, template, context):
        return self.ask({"template": template, "context": context, "now": NOW})


class Comparison:
    """Counts cases and prints those that differ."""

    def __init__(self):
        self.ours = Ours()
        self.cases = self.raised = self.failures = 0

    def check(self, template, context, reply=None, expected=None):
        self.cases += 1
        text, error = expected if expected else oracle(template, context)
        reply = reply if reply is not None else self.ours.render(template, context)
        self.raised += error is not None
        if error is not None and "error" in reply:
            return True
        if error is None and reply.get("text") == text:
            return True
        self.failures += 1
        if self.failures <= 30:
            print(f"DIFFERS {template!r}\n  jinja2: {error or repr(text)}\n  ours:   {reply!r}")
        return False

    def finish(self, at_least):
        print(f"{self.cases} cases, {self.raised} of them errors, {self.failures} differ")
        if self.cases < at_least:
            print(f"too few cases: at least {at_least} were meant")
            return 1
        return 1 if self.failures else 0
