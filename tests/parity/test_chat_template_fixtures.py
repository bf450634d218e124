"""Every template of the fixtures, with a matrix of conversations, against jinja2: the same text, or
an error on both sides."""
import glob
import itertools
import os
import sys

from support.jinja_oracle import NOW, Comparison, oracle

FOLDER = os.path.join(
    os.environ["OFFERING_SOURCE_DIR"], "..", "shared", "fixtures", "chat_templates"
)

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather \"now\" in <a place> & more, naïve ☂",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "City\nor region"},
                "days": {"type": "integer", "default": 3, "minimum": 0.5},
                "unit": {"type": "string", "enum": ["C", "F"]},
            },
            "required": ["place"],
        },
        "return": {"type": "string"},
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "description": "", "parameters": {}, "strict": True},
}


def call(arguments, id="abcdef123"):
    return {"id": id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


def tool(content, **more):
    return {"role": "tool", "content": content, "name": "get_weather", "tool_call_id": "abcdef123", **more}


AS_OBJECT = call({"place": "Zürich", "days": 2, "deep": {"a": [1, 2.5, None, True]}})
AS_TEXT = call('{"place": "Zürich"}')
CONVERSATIONS = {
    "empty": [],
    "user": [user("Hi")],
    "system": [system("Be brief."), user("Hi")],
    "only system": [system("Be brief.")],
    "turns": [user("Hi"), assistant("Hello!"), user("And you?")],
    "system turns": [system(" You are kind. /no_think"), user("Hi"), assistant("Hello!"), user("Bye")],
    "ends with assistant": [user("Hi"), assistant("Hello!")],
    "two users": [user("a"), user("b")],
    "assistant first": [assistant("Hello!"), user("Hi")],
    "late system": [user("Hi"), system("Be brief."), assistant("ok")],
    "unicode": [system("日本語で"), user("👩‍👩‍👧 naïve\u0301 \u200b עברית"), assistant("ﬁn ß ǅ"), user("\U0001F600")],
    "space": [user("  \n padded \t\n"), assistant("\n\n x \u3000"), user("\u00a0nbsp\u00a0")],
    "markup": [user("<|im_end|> {{ messages }} {% if %} & \"quoted\" 'single' \\n"), assistant("<b>"), user("#}")],
    "blank": [user(""), assistant(""), user("")],
    "thinking": [user("1+1"), assistant("<think>\nsum\n</think>\n\n2"), user("again /think"), assistant("</think>a</think>b")],
    "none content": [user("Hi"), assistant(None)],
    "tool object": [user("Weather?"), assistant("", tool_calls=[AS_OBJECT]), tool("sunny")],
    "tool text": [user("Weather?"), assistant(None, tool_calls=[AS_TEXT]), tool("sunny"), assistant("Sunny."), user("Thanks")],
    "two tools": [system("s"), user("Weather?"), assistant("Looking", tool_calls=[AS_OBJECT, call({}, "zzzzzz999")]), tool("sunny"), tool({"degrees": 21.5}), assistant("Sunny.")],
    "flat call": [user("Weather?"), assistant("", tool_calls=[{"name": "f", "arguments": {"a": 1}}]), tool("x")],
    "short id": [user("Weather?"), assistant(None, tool_calls=[call({}, "1")]), tool("x", tool_call_id="1")],
    "tool json": [user("w"), assistant(None, tool_calls=[AS_TEXT]), tool({"content": {"a": [1, "ü"]}}), user("go on")],
    "tool list": [user("w"), assistant("", tool_calls=[AS_TEXT]), tool([{"type": "text", "text": "t"}])],
    "parts": [user([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])],
    "no content": [{"role": "user"}],
    "no role": [{"content": "x"}],
    "number": [user(5), assistant(1.5)],
    "other role": [user("Hi"), {"role": "ipython", "content": "out"}, {"role": "critic", "content": "bad"}],
}
EXTRAS = [
    {},
    {"enable_thinking": False, "thinking": True, "controls": {"citations": True, "length": "long"},
     "documents": [{"doc_id": 1, "text": "A – document", "title": "T"}, {"doc_id": "two", "text": ""}]},
    {"enable_thinking": True, "date_string": "01 Jan 2025", "tools_in_user_message": False,
     "controls": {"hallucinations": True}, "builtin_tools": ["code_interpreter", "get_weather"],
     "documents": []},
    {"custom_tools": [CLOCK], "available_tools": [CLOCK], "documents": [{"doc_id": 3.0, "text": "x"}]},
]


def main():
    paths = sorted(glob.glob(os.path.join(FOLDER, "*.jinja")))
    if not paths:
        print(f"skipped: no templates in {FOLDER}")
        return 77
    comparison = Comparison()
    for path in paths:
        with open(path, encoding="utf-8", newline="") as file:
            template = file.read()
        rendered = 0
        for messages, tools, prompt, extra in itertools.product(
            CONVERSATIONS.values(), (None, [WEATHER], [WEATHER, CLOCK], []), (False, True), EXTRAS
        ):
            context = {
                "messages": messages,
                "tools": tools,
                "documents": None,
                "add_generation_prompt": prompt,
                "bos_token": "<s>",
                "eos_token": "</s>",
                **extra,
            }
            expected = oracle(template, context)
            chat = {key: context[key] for key in
                    ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token")}
            reply = comparison.ours.ask(
                {"template": template, "chat": {**chat, "extra": extra}, "now": NOW}
            )
            comparison.check(os.path.basename(path), context, reply, expected)
            rendered += expected[0] is not None
        print(f"{os.path.basename(path)}: {rendered} conversations rendered")
        if rendered < 100:
            print("too few: the matrix does not fit this template")
            return 1
    return comparison.finish(at_least=5000)


if __name__ == "__main__":
    sys.exit(main())
