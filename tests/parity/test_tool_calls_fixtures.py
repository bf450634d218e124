"""Tool calls of the families in the fixtures: what a real template prints for a call that was made is
in the grammar of its dialect, and the parser reads the same call out of it."""
import glob
import json
import os
import subprocess
import sys

from support.jinja_oracle import oracle

FOLDER = os.path.join(os.environ["OFFERING_SOURCE_DIR"], "..", "shared", "fixtures", "chat_templates")
TOOL = os.path.join(os.environ["OFFERING_BUILD_DIR"], "tests", "tools", "tool_calls_tool")
DIALECTS = {
    "HuggingFaceTB-SmolLM3-3B": "described",
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "deepseek",
    "google-gemma-2-2b-it": "described",
    "ibm-granite-granite-3.3-2B-Instruct": "granite",
    "meta-llama-Llama-3.1-8B-Instruct": "llama3",
    "microsoft-Phi-3.5-mini-instruct": "described",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral",
}
TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Weather of a \"place\"", "parameters": {
            "type": "object", "properties": {"place": {"type": "string"}, "days": {
                "type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["place"], "additionalProperties": False}}},
    {"type": "function", "function": {"name": "clock", "parameters": {
        "$ref": "#/$defs/nothing", "$defs": {"nothing": {"type": "object",
                                                         "additionalProperties": False}}}}},
]
ARGUMENTS = {"place": "Zürich \"Nord\"\n</tool_call>", "days": 3}
USER = {"role": "user", "content": "How is the weather?"}


def call(name, arguments):
    return {"id": "abcdef123", "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)}}


def tool(template, **more):
    done = subprocess.run([TOOL], input=json.dumps(dict(more, template=template, tools=TOOLS)),
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return json.loads(done.stdout)


def render(template, messages, tools=TOOLS, prompt=False):
    context = {"messages": messages, "tools": tools, "bos_token": "", "eos_token": "<EOS>",
               "add_generation_prompt": prompt}
    text, error = oracle(template, context)
    assert error is None, error
    return text


def written_answer(template, calls):
    """What the template prints for an assistant's turn with calls, without what ends it."""
    messages = [USER, {"role": "assistant", "content": "", "tool_calls": calls}]
    got = tool(template, messages=messages)
    before = render(template, got["messages"][:1], prompt=False)
    whole = render(template, got["messages"])
    assert whole.startswith(before), (before, whole)
    return whole[len(before):], got["dialect"]


def the_turn(text, dialect):
    """Cuts the role's header and the end token off."""
    begin, end = {"hermes": ("\n", "<|im_end|>"), "llama3": ("<|end_header_id|>\n\n", "<|eot_id|>"),
                  "mistral": ("", "<EOS>"), "deepseek": ("<｜Assistant｜>", None)}[dialect]
    text = text[text.index(begin) + len(begin):]
    return text[:text.rindex(end)] if end and end in text else text


def check(condition, *what):
    if not condition:
        raise AssertionError(" ".join(map(str, what)))


def round_trip(name, template, dialect):
    calls = [call("get_weather", ARGUMENTS)]
    text, got = written_answer(template, calls)
    check(got == dialect, name, got, "is not", dialect)
    text = the_turn(text, dialect)
    if dialect == "deepseek":  # this template closes the list only after a second call
        text += "<｜tool▁calls▁end｜>"
    for choice in ("required", "auto"):
        result = tool(template, choice=choice, texts=[text])
        check("error" not in result, result)
        if result["accepted"]:
            check(result["accepted"][0], name, choice, "the grammar does not hold", text)
        [[told, arguments]] = result["parsed"][0]["calls"]
        check(told == "get_weather" and json.loads(arguments) == ARGUMENTS, told, arguments)
        check(result["parsed"][0]["content"] == "", result["parsed"])


def grammars(name, template, dialect):
    def wrap(*calls):
        objects = [json.dumps({"name": n, "parameters" if dialect == "llama3" else "arguments": a})
                   for n, a in calls]
        if dialect == "deepseek":
            return "<｜tool▁calls▁begin｜>" + "\n".join(
                f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{n}\n```json\n{json.dumps(a)}\n```<｜tool▁call▁end｜>"
                for n, a in calls) + "<｜tool▁calls▁end｜>"
        if dialect in ("mistral", "granite"):
            return {"mistral": "[TOOL_CALLS]", "granite": "<|tool_call|>"}[dialect] + "[" + ", ".join(objects) + "]"
        if dialect == "llama3":
            return objects[0]
        return "\n".join(f"<tool_call>\n{o}\n</tool_call>" for o in objects)
    good, other = wrap(("get_weather", {"place": "x"})), wrap(("clock", {}))
    two = wrap(("get_weather", {"place": "x", "days": 9}), ("clock", {}))
    bad = [wrap(("get_weather", {"days": 1})), wrap(("get_weather", {"place": "x", "days": 10})),
           wrap(("clock", {"a": 1})), wrap(("unknown", {})), "text", good[:-1], good + "x"]
    accepted = tool(template, choice="required", texts=[good, other, two] + bad)["accepted"]
    check(accepted == [True, True, True] + [False] * len(bad), name, accepted)
    accepted = tool(template, choice="required", name="clock", parallel=False, texts=[good, other])["accepted"]
    check(accepted == [False, True], name, accepted)
    if dialect == "llama3":
        check(tool(template, choice="auto", texts=["x"])["accepted"] == [], "Llama 3 needs none")
    else:
        texts = ["", "Just text, {\"name\": 1} <tool", "Text first. " + good, good]
        check(tool(template, choice="auto", texts=texts)["accepted"] == [True] * 4, name)
        check(not any(tool(template, choice="auto", texts=[bad[0], bad[3], good[:-1]])["accepted"]), name)
    # With a format, what is no call is that.
    form = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    accepted = tool(template, choice="auto", format=form, texts=[good, '{"a": 1}', "text"])["accepted"]
    check(accepted == [True, True, False], name, accepted)


def described(name, template):
    conversation = [USER, {"role": "assistant", "content": "", "tool_calls": [call("clock", {})]},
                    {"role": "tool", "content": "12:00", "tool_call_id": "abcdef123"}]
    messages = tool(template, messages=conversation)["messages"]
    text = render(template, messages, tools=None, prompt=True)
    for part in ("get_weather", "<tool_response>\n12:00", '{"name": "clock", "arguments": {}}', USER["content"]):
        check(part in text, name, "has no", part, "in", text)


def main():
    files = sorted(glob.glob(os.path.join(FOLDER, "*.jinja")))
    if not files or not os.path.exists(TOOL):
        print("no fixtures, or no tool_calls_tool")
        sys.exit(77)
    for path in files:
        name = os.path.basename(path)[:-len(".jinja")]
        with open(path, encoding="utf-8") as file:
            template = file.read()
        dialect = tool(template)["dialect"]
        check(dialect == DIALECTS.get(name, dialect), name, "is taken for", dialect)
        grammars(name, template, dialect)
        if dialect == "described":
            described(name, template)
        elif dialect != "granite":  # whose template does not print calls that were made
            round_trip(name, template, dialect)
        print("ok", name, dialect)


main()
