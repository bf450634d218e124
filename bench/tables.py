"""The results as text: CSV of every sample, a table for people, JSON."""
import csv
import io

from figures import Cell


def number(value):
    """Three figures, never an exponent."""
    if abs(value) >= 100:
        return "{:,.0f}".format(value)
    if abs(value) >= 10:
        return "%.1f" % value
    return "%.2f" % value


def span(summary):
    if summary is None:
        return "—"
    if summary.count == 1:
        return number(summary.median)
    return "%s (%s to %s)" % (number(summary.median), number(summary.low), number(summary.high))


CSV_HEADER = ("model", "engine", "metric", "argument", "unit", "round", "value")


def csv_rows(samples):
    for (cell, contender), rounds in samples.values.items():
        for round_, value in rounds.items():
            yield samples.model, contender, cell.metric, cell.argument, cell.unit, round_, repr(value)


def csv_text(all_samples):
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for samples in all_samples:
        writer.writerows(csv_rows(samples))
    return out.getvalue()


def row(cells):
    return "| " + " | ".join(cells) + " |"


def table(samples, ours):
    """A row per cell, a column per contender, then `ours` against the best of each other family."""
    own_family = next(c.family for c in samples.contenders if c.name == ours)
    others = [f for f in samples.families() if f != own_family]
    lines = [row(["", "unit"] + [c.label for c in samples.contenders] + ["against " + f for f in others]),
             row(["---"] + ["---:"] * (1 + len(samples.contenders) + len(others)))]
    for cell in samples.cells:
        if cell.metric == "bandwidth":
            continue
        values = []
        for c in samples.contenders:
            failed = (cell, c.name) in samples.failures
            values.append("failed" if failed and not samples.summary(cell, c.name)
                          else span(samples.summary(cell, c.name)))
        ratios = []
        for family in others:
            ratio = samples.ratio(cell, ours, samples.best(cell, family))
            ratios.append("—" if ratio is None else "%.2f ×" % ratio.median if ratio.count == 1 else
                          "%.2f × (%.2f to %.2f)" % (ratio.median, ratio.low, ratio.high))
        lines.append(row([cell.title, cell.unit] + values + ratios))
    return "\n".join(lines)


def bandwidth_table(samples):
    """What decode reads per second beside what can be read; "" where it was not measured."""
    cell = next((c for c in samples.cells if c.metric == "bandwidth"), None)
    if cell is None:
        return ""
    bandwidth = next(samples.summary(c, n) for c, n in samples.values if c == cell)
    lines = ["Read bandwidth of memory, measured in each round: %s GB/s." % span(bandwidth), "",
             row(["decode at depth", "engine", "MB a token", "GB/s", "share"]),
             row(["---:", "---", "---:", "---:", "---:"])]
    for contender in samples.contenders:
        for c in samples.cells:
            share = samples.share(contender.name, c.argument) if c.metric == "decode" else None
            if share is None:
                continue
            size = samples.bytes_per_token[contender.name, c.argument]
            rate = samples.summary(c, contender.name).median
            lines.append(row([str(c.argument), contender.label, number(size / 1e6), number(size * rate / 1e9),
                              "%.0f %%" % (share * 100)]))
    return "\n".join(lines)


def failures_text(samples):
    labels = {c.name: c.label for c in samples.contenders}
    return "\n".join("- %s, %s: %s" % (labels[name], cell.title, reason)
                     for (cell, name), reason in samples.failures.items())


def document(header, notes, all_samples, ours):
    """The Markdown page. `header` is pairs, `notes` by model, `ours` the contender by model."""
    parts = ["# Benchmark", "", row(["", ""]), row(["---", "---"])]
    parts += [row([name, str(value).replace("|", "\\|")]) for name, value in header]
    parts += ["", "Median (minimum to maximum) over the rounds. A ratio says how many times better ours is: of the",
              "medians, with the span of the rounds' ratios in brackets; against the better of a peer's",
              "configurations in that row. bench/README.md says how each figure is taken.", ""]
    for samples in all_samples:
        parts += ["## " + samples.model, ""]
        parts += ["- " + note for note in notes.get(samples.model, ())]
        parts += ["", table(samples, ours[samples.model]), ""]
        shares = bandwidth_table(samples)
        if shares:
            parts += [shares, ""]
        if samples.failures:
            parts += ["Not measured:", "", failures_text(samples), ""]
    return "\n".join(parts).rstrip("\n") + "\n"


def as_json(header, notes, all_samples, ours):
    models = []
    for samples in all_samples:
        own_family = next(c.family for c in samples.contenders if c.name == ours[samples.model])
        results = []
        for cell in samples.cells:
            engines = {c.name: s.as_json() for c in samples.contenders
                       if (s := samples.summary(cell, c.name)) is not None}
            ratios = {}
            for family in samples.families():
                best = samples.best(cell, family) if family != own_family else None
                ratio = best and samples.ratio(cell, ours[samples.model], best)
                if ratio:
                    ratios[family] = {"against": best, "ratio": ratio.median, "min": ratio.low, "max": ratio.high}
            entry = {"metric": cell.metric, "argument": cell.argument, "unit": cell.unit, "engines": engines,
                     "ratios": ratios}
            if cell.metric == "decode":
                entry["bandwidth_share"] = {c.name: share for c in samples.contenders
                                            if (share := samples.share(c.name, cell.argument)) is not None}
            results.append(entry)
        models.append({"model": samples.model, "ours": ours[samples.model], "notes": list(notes.get(samples.model, ())),
                       "results": results, "failures": failures_text(samples).splitlines()})
    return {"settings": dict(header), "models": models}


def load_csv(text):
    """[(model, engine, Cell, round, value)] of a CSV that csv_text wrote."""
    rows = []
    for r in csv.DictReader(io.StringIO(text)):
        argument = int(r["argument"]) if r["argument"].isdigit() else r["argument"]
        rows.append((r["model"], r["engine"], Cell(r["metric"], argument), int(r["round"]), float(r["value"])))
    return rows
