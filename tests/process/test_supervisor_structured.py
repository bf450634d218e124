"""Structured output on a real model: grammars and schemas of `run`, formats of the server through
the official client."""
import json
import re

from support import server_process, supervisor_process as process
from support.server_process import CHAT, Server, user
from support.supervisor_process import Session, contains, equal

server_process.require()
try:
    import openai
except ImportError:
    process.skip("the Python package openai is missing (tests/requirements.txt)")

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 18, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["kind", "quick", "old"]}, "minItems": 1,
                 "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
ASK = user("Describe a person. Answer in words, not JSON.")


def check_person(text):
    person = json.loads(text)
    assert list(person) == ["name", "age", "tags"], person
    assert len(person["name"]) <= 20 and 18 <= person["age"] <= 99, person
    assert 1 <= len(person["tags"]) <= 3 and set(person["tags"]) <= {"kind", "quick", "old"}, person


def run_follows_a_grammar(s, _):
    path = s.write("g", 'root ::= item{2,4} "!"\nitem ::= [a-z]{1,5} ","\n')
    for seed in ("1", "2", "3"):
        r = s.json("run", "--prompt", "Hello", "--grammar", path, "--temperature", "1.5", "--seed", seed)
        assert re.fullmatch(r"([a-z]{1,5},){2,4}!", r["text"]), r
        equal(r["finish_reason"], "stop")
    cut = s.run("run", "--prompt", "Hello", "--grammar", path, "--max_tokens", "1")
    contains(cut.stderr, "cut before it matches the whole grammar")


def run_follows_a_schema(s, _):
    path = s.write("schema", json.dumps(PERSON))
    for seed in ("1", "2"):
        r = s.json("run", "--prompt", "Who are you?", "--json_schema", path, "--temperature", "1.2", "--seed", seed)
        check_person(r["text"])
        equal(r["finish_reason"], "stop")


def run_refuses(s, _):
    bad = s.write("bad", 'root ::= "a" | nope')
    contains(s.run("run", "--prompt", "x", "--grammar", bad, code=1).stderr, "rule 'nope' is not defined")
    schema = s.write("bad_schema", '{"contains": {}}')
    contains(s.run("run", "--prompt", "x", "--json_schema", schema, code=1).stderr, "'contains' is not supported")
    contains(s.run("run", "--prompt", "x", "--grammar", bad, "--json_schema", schema, code=2).stderr, "one of")
    contains(s.run("run", "--prompt", "x", "--grammar", bad, "--ignore_eos", code=2).stderr, "ignore_eos")
    contains(s.run("run", "--prompt", "x", "--grammar", s.path("none"), code=1).stderr, "none")


def formats_of_chat(_, client):
    create = client.chat.completions.create
    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    whole = create(model="", messages=ASK, response_format=schema, seed=1, n=3)
    for choice in whole.choices:
        check_person(choice.message.content)
        equal(choice.finish_reason, "stop")
    text = "".join(c.delta.content or "" for chunk in
                   create(model="", messages=ASK, response_format=schema, seed=2, stream=True)
                   for c in chunk.choices)
    check_person(text)
    free = create(model="", messages=user("Give me a small JSON object."), seed=3, max_tokens=300,
                  response_format={"type": "json_object"}, temperature=0).choices[0]
    assert free.finish_reason == "length" or isinstance(json.loads(free.message.content), dict), free
    assert free.message.content.startswith("{"), free
    plain = create(model="", messages=ASK, response_format={"type": "text"}, max_tokens=5)
    assert plain.choices[0].message.content, plain
    logged = create(model="", messages=ASK, response_format=schema, logprobs=True, seed=1)
    equal("".join(t.token for t in logged.choices[0].logprobs.content), logged.choices[0].message.content)


def formats_elsewhere(server, client):
    answer = client.chat.completions.create(model="", messages=ASK, extra_body={
        "grammar": 'root ::= "yes" | "no"'}).choices[0]
    assert answer.message.content in ("yes", "no"), answer
    done = client.completions.create(model="", prompt="1 + 1 =", max_tokens=50,
                                     extra_body={"grammar": "root ::= \" \" [0-9]{3} \".\""})
    assert re.fullmatch(r" \d{3}\.", done.choices[0].text), done
    response = client.responses.create(model="", input="Describe a person.", text={
        "format": {"type": "json_schema", "name": "person", "schema": PERSON}})
    check_person(response.output_text)


def refusals_of_chat(server, _):
    def refused(body, *words):
        error = server.json(CHAT, {"messages": ASK, **body}, status=400)["error"]
        equal(error["type"], "invalid_request_error")
        for word in words:
            contains(error["message"], word)
        return error
    equal(refused({"response_format": {"type": "xml"}}, "xml")["param"], "response_format")
    refused({"response_format": {"type": "json_schema"}}, "schema")
    refused({"response_format": {"type": "json_schema", "json_schema": {"schema": {"uniqueItems": True}}}},
            "'uniqueItems' is not supported")
    equal(refused({"grammar": "root ::= x"}, "line 1", "'x' is not defined")["param"], "grammar")
    refused({"grammar": "root ::= \"x\"", "response_format": {"type": "json_object"}}, "exclude")
    refused({"grammar": "root ::= \"x\"", "ignore_eos": True}, "exclude")
    refused({"response_format": {"type": "json_schema", "json_schema": {"schema": False}}}, "no text at all")


WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a city", "strict": True, "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "maxLength": 12},
                                         "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"], "additionalProperties": False}}}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {
    "type": "object", "properties": {}, "additionalProperties": False}}}
TOOLS = [WEATHER, CLOCK]
RAIN = user("What is the weather in Paris?")


def check_call(call, name=None):
    assert call.type == "function" and call.id.startswith("call_") and len(call.id) > 20, call
    arguments = json.loads(call.function.arguments)
    assert call.function.name in ("get_weather", "clock"), call
    equal(call.function.name, name or call.function.name)
    if call.function.name == "clock":
        equal(arguments, {})
    else:
        assert set(arguments) == {"city", "unit"} and arguments["unit"] in "CF", arguments
        assert len(arguments["city"]) <= 12, arguments


def tools_of_chat(_, client):
    create = client.chat.completions.create
    for seed in (1, 2):
        choice = create(model="", messages=RAIN, tools=TOOLS, tool_choice="required", seed=seed, max_tokens=200,
                        parallel_tool_calls=False).choices[0]
        equal((choice.finish_reason, choice.message.content, len(choice.message.tool_calls)), ("tool_calls", None, 1))
        check_call(choice.message.tool_calls[0])
    named = {"type": "function", "function": {"name": "clock"}}
    choice = create(model="", messages=RAIN, tools=TOOLS, tool_choice=named, n=2).choices[1]
    check_call(choice.message.tool_calls[0], "clock")
    # The same prompt as without tools; its text may differ at a near-tie, since the second is continued from the first.
    none = create(model="", messages=RAIN, tools=TOOLS, tool_choice="none", max_tokens=20, temperature=0)
    plain = create(model="", messages=RAIN, max_tokens=20, temperature=0)
    equal(none.usage.prompt_tokens, plain.usage.prompt_tokens)
    equal(none.choices[0].message.tool_calls, None)
    assert none.choices[0].message.content, none
    auto = create(model="", messages=RAIN, tools=TOOLS, max_tokens=60, temperature=0).choices[0]
    assert auto.message.content or auto.message.tool_calls, auto
    for call in (auto.message.tool_calls or []) if auto.finish_reason != "length" else []:
        check_call(call)
    cut = create(model="", messages=RAIN, tools=TOOLS, tool_choice="required", max_tokens=9).choices[0]
    equal(cut.finish_reason, "length")


def tools_streamed(_, client):
    name, arguments, index, ids, finish = "", "", set(), [], None
    pieces = 0
    for chunk in client.chat.completions.create(model="", messages=RAIN, tools=[WEATHER], tool_choice="required",
                                                parallel_tool_calls=False, seed=3, stream=True):
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            assert not choice.delta.content, choice
            for call in choice.delta.tool_calls or []:
                index.add(call.index)
                ids += [call.id] if call.id else []
                name += call.function.name or ""
                arguments += call.function.arguments or ""
                pieces += 1
    equal((name, index, len(ids), finish), ("get_weather", {0}, 1, "tool_calls"))
    assert pieces > 3, "arguments come as they are written"
    assert set(json.loads(arguments)) == {"city", "unit"}, arguments


def a_conversation_with_tools(_, client):
    create = client.chat.completions.create
    first = create(model="", messages=RAIN, tools=TOOLS, tool_choice="required", seed=1, parallel_tool_calls=False)
    message = first.choices[0].message
    conversation = RAIN + [message.model_dump(exclude_none=True), {
        "role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "It rains cats and dogs."}]
    answer = create(model="", messages=conversation, tools=TOOLS, max_tokens=40, temperature=0).choices[0]
    assert answer.message.content or answer.message.tool_calls, answer
    # A format beside tools: a call, or that.
    both = create(model="", messages=ASK, tools=TOOLS, seed=1, max_tokens=300, response_format={
        "type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}).choices[0]
    if both.finish_reason == "length":
        pass
    elif both.message.tool_calls:
        check_call(both.message.tool_calls[0])
    else:
        check_person(both.message.content)


def tools_of_responses(_, client):
    tool = dict(WEATHER["function"], type="function")
    response = client.responses.create(model="", input="Weather in Rome?", tools=[tool], tool_choice="required",
                                       parallel_tool_calls=False)
    calls = [item for item in response.output if item.type == "function_call"]
    equal((len(calls), calls[0].name), (1, "get_weather"))
    assert set(json.loads(calls[0].arguments)) == {"city", "unit"}, calls


def refusals_of_tools(server, _):
    def refused(body, param, *words):
        error = server.json(CHAT, {"messages": RAIN, **body}, status=400)["error"]
        equal(error["param"], param)
        for word in words:
            contains(error["message"], word)
    refused({"tools": [{"type": "function"}]}, "tools", "tool 0")
    refused({"tools": [WEATHER, WEATHER]}, "tools", "two tools")
    refused({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice", "none, auto, required")
    refused({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "'x'")
    refused({"tools": TOOLS, "grammar": "root ::= \"x\""}, "grammar", "exclude")
    bad = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"contains": {}}}}
    refused({"tools": [bad]}, "tools", "tool 'f'", "'contains' is not supported")
    bad["function"]["strict"] = False  # then its arguments are any object
    server.json(CHAT, {"messages": RAIN, "tools": [bad], "tool_choice": "required", "max_tokens": 4})


def main():
    with Session() as session:
        for test in (run_follows_a_grammar, run_follows_a_schema, run_refuses):
            test(session, None)
            print("ok", test.__name__)
        with Server(session) as server:
            client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
            for test in (formats_of_chat, formats_elsewhere, refusals_of_chat, tools_of_chat, tools_streamed,
                         a_conversation_with_tools, tools_of_responses, refusals_of_tools):
                test(server, client)
                print("ok", test.__name__)


main()
