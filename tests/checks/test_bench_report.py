"""The arithmetic, tables and drawing of bench/, on made-up samples; no engine runs."""
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "bench"))

import plot
import process_tree
import tables
from figures import Cell, Contender, Samples, rotation, summary

OURS = Contender("ours", "ours", "Offering")
FAST = Contender("fast", "peer, fast", "peer")
SLOW = Contender("slow", "peer <slow> & \"old\"", "peer")
NONE = Contender("none", "absent", "other")
PREFILL, DECODE, START = Cell("prefill", 512), Cell("decode", 0), Cell("start", "cold")
BANDWIDTH = Cell("bandwidth", "")


def equal(found, expected, what=""):
    assert found == expected, "%s: %r, expected %r" % (what, found, expected)


def close(found, expected, what=""):
    assert abs(found - expected) <= 1e-9 * abs(expected), "%s: %r, expected %r" % (what, found, expected)


def made_up():
    s = Samples("a model", [OURS, FAST, SLOW, NONE])
    for round_, (ours, fast, slow) in enumerate([(200, 100, 10), (300, 50, 20), (100, 200, 30)]):
        s.add(PREFILL, "ours", round_, ours)
        s.add(PREFILL, "fast", round_, fast)
        s.add(PREFILL, "slow", round_, slow)
    for name, value in (("ours", 10.0), ("fast", 40.0), ("slow", 20.0)):
        s.add(START, name, 0, value)
    s.add(DECODE, "ours", 0, 50.0)
    s.add(BANDWIDTH, "ours", 0, 10.0)
    s.bytes_per_token["ours", 0] = 100e6
    s.fail(DECODE, "slow", "it ended | badly")
    return s


def summaries():
    equal(summary([]), None)
    equal(summary([3, 1, 2]).as_json(), {"median": 2, "min": 1, "max": 3, "samples": 3})
    equal(summary([4, 1, 2, 3]).median, 2.5, "an even number")


def ratios():
    s = made_up()
    equal(s.families(), ["Offering", "peer", "other"])
    equal(s.best(PREFILL, "peer"), "fast", "more is better")
    equal(s.best(START, "peer"), "slow", "less is better")
    equal(s.best(PREFILL, "other"), None)
    r = s.ratio(PREFILL, "ours", "fast")
    equal((r.median, r.low, r.high, r.count), (2.0, 0.5, 6.0, 3))
    close(s.ratio(START, "ours", "slow").median, 2.0, "half the time is twice as good")
    equal(s.ratio(DECODE, "ours", "fast"), None, "no sample on one side")
    equal(s.ratio(PREFILL, "ours", None), None)
    s.values[PREFILL, "fast"].pop(2)
    equal(s.ratio(PREFILL, "ours", "fast").count, 2, "rounds that both have")
    close(s.share("ours", 0), 0.5)
    equal(s.share("fast", 0), None)


def orders():
    equal([rotation("abc", i) for i in range(4)], [list("abc"), list("bca"), list("cab"), list("abc")])
    equal(rotation([], 3), [])


def comma_separated():
    s = made_up()
    text = tables.csv_text([s])
    rows = list(csv.reader(io.StringIO(text)))
    equal(tuple(rows[0]), tables.CSV_HEADER)
    equal(len(rows) - 1, 9 + 3 + 1 + 1)
    back = Samples("a model", s.contenders)
    for model, engine, cell, round_, value in tables.load_csv(text):
        equal(model, "a model")
        back.add(cell, engine, round_, value)
    equal(back.values, s.values, "what was written is read")


def markdown():
    s = made_up()
    page = tables.document([("CPU", "a | b")], {"a model": ["a note"]}, [s], {"a model": "ours"})
    lines = page.splitlines()
    row = next(line for line in lines if line.startswith("| prefill"))
    equal(row, "| prefill, 512 tokens | tok/s | 200 (100 to 300) | 100 (50.0 to 200) | 20.0 (10.0 to 30.0) | — | "
               "2.00 × (0.50 to 6.00) | — |")
    row = next(line for line in lines if line.startswith("| decode at depth 0"))
    equal(row, "| decode at depth 0 | tok/s | 50.0 | — | failed | — | — | — |")
    for wanted in ("| CPU | a \\| b |", "- a note", "| 0 | ours | 100 | 5.00 | 50 % |",
                   "- peer <slow> & \"old\", decode at depth 0: it ended | badly"):
        assert wanted in lines, (wanted, page)
    equal([tables.number(v) for v in (12345.6, 99.96, 12.34, 0.123, 0)], ["12,346", "100.0", "12.3", "0.12", "0.00"])
    report = json.loads(json.dumps(tables.as_json([("CPU", "x")], {}, [s], {"a model": "ours"})))
    found = {(r["metric"], r["argument"]): r for r in report["models"][0]["results"]}
    equal(found["prefill", 512]["ratios"], {"peer": {"against": "fast", "ratio": 2.0, "min": 0.5, "max": 6.0}})
    equal(found["decode", 0]["bandwidth_share"], {"ours": 0.5})


def drawing():
    s = made_up()
    root = ET.fromstring(plot.svg(s, "5 < 6 & more"))
    name = "{http://www.w3.org/2000/svg}"
    bars = {b.find(name + "title").text: b for b in root.iter(name + "rect") if b.get("class") == "bar"}
    equal(len(bars), 3 + 3 + 1)
    prefill = sorted((float(b.get("height")), t) for t, b in bars.items() if "prefill" in t)
    assert [t.split(":")[0] for _, t in prefill] == [
        'peer <slow> & "old", prefill, 512 tokens', "peer, fast, prefill, 512 tokens",
        "ours, prefill, 512 tokens"], prefill
    assert abs(prefill[2][0] / prefill[1][0] - 2) < 0.01, ("heights are in proportion", prefill)
    spans = [line for line in root.iter(name + "line") if line.get("class") == "span"]
    equal(len(spans), 3, "a line where there is more than one value")
    ours = bars["ours, prefill, 512 tokens: 200 tok/s"]
    base = float(ours.get("y")) + float(ours.get("height"))
    close(round(base - float(spans[0].get("y2")), 2), round(float(ours.get("height")) * 1.5, 2), "its top is at 300")
    height = float(root.get("height"))
    for element in root.iter(name + "text"):
        assert 0 <= float(element.get("y")) <= height, element.attrib
    equal([plot.nice_top(v) for v in (0, 0.3, 1, 1.1, 2.2, 26, 499, 501)], [1.0, 0.5, 1.0, 2.0, 2.5, 50.0, 500.0, 1000.0])
    ET.fromstring(plot.svg(Samples("nothing", [OURS]), ""))


def llama_bench():
    import engines
    line = json.dumps({"n_threads": 2, "samples_ts": [12.5]})
    equal(engines.bench_rate(line + "\n", 2), 12.5)
    for text, threads, part in (("", 2, "0 tests"), (line + "\n" + line, 2, "2 tests"), (line, 3, "2 threads, not 3")):
        try:
            engines.bench_rate(text, threads)
        except process_tree.BenchError as error:
            assert part in str(error), error
        else:
            raise AssertionError(part)


def processes():
    environment, mark = process_tree.marked_environment({"A": "1"})
    code = "import os, sys, time; print(os.environ['A'], flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        equal(process.stdout.readline(), b"1\n")
        equal(process_tree.marked(mark), [process.pid])
        with process_tree.MemoryWatch(mark) as watch:
            watch.look()
        assert 1 << 20 < watch.last <= watch.peak < 1 << 30, (watch.last, watch.peak)
        equal(watch.last, watch.readings[-1])
        watch.readings = [1, 2, 30, 30, 30, 20, 24, 5]
        equal((watch.late(), watch.last, watch.peak), (20, 5, 30))
        process.stdin.close()
    equal(process_tree.marked(mark), [])
    shell = ["sh", "-c", "echo x; exit 0"]
    assert 0 < process_tree.seconds_to_first_byte(shell, environment) < 60
    # A daemon that keeps stderr open does not hold the measurement up: it lives until the pipe is opened.
    with tempfile.TemporaryDirectory() as directory:
        pipe = os.path.join(directory, "pipe")
        os.mkfifo(pipe)
        daemon = ["sh", "-c", 'cat "$0" > /dev/null & echo x', pipe]
        assert process_tree.seconds_to_first_byte(daemon, environment) > 0
        open(pipe, "w").close()
    for command, part in ((["sh", "-c", "echo bad >&2; exit 3"], "exit code 3"), (["true"], "no output")):
        for call in (process_tree.seconds_to_first_byte, process_tree.run)[:1 if part == "no output" else 2]:
            try:
                call(command, environment)
            except process_tree.BenchError as error:
                assert part in str(error), error
            else:
                raise AssertionError(command)


def options():
    done = subprocess.run([sys.executable, os.path.join(ROOT, "bench", "run.py"), "--help"], capture_output=True,
                          text=True, check=True)
    for wanted in ("--quick", "--only", "--model", "--repeat", "--threads", "--json"):
        assert wanted in done.stdout, (wanted, done.stdout)
    for bad in (["--repeat", "0"], ["--peers", "nobody"], ["--only", "all"], ["--depths", "1,x"]):
        done = subprocess.run([sys.executable, os.path.join(ROOT, "bench", "run.py"), *bad], capture_output=True,
                              text=True, check=False)
        equal(done.returncode, 2, bad)


for test in (summaries, ratios, orders, comma_separated, markdown, drawing, llama_bench, processes, options):
    test()
print("ok")
