"""The results as an SVG: one panel of bars per metric, a line from minimum to maximum on each bar."""
from xml.sax.saxutils import escape

from tables import number

PANEL_TITLES = {"prefill": "Prefill (tok/s, more is better)", "decode": "Decode (tok/s, more is better)",
                "first_token": "Time to first token (ms, less is better)",
                "start": "Start-up (ms, less is better)", "memory": "Memory (MiB, less is better)"}
AXIS = {"prefill": "%s tokens", "decode": "depth %s", "first_token": "prompt of %s", "start": "%s", "memory": "%s"}
# Distinct also in grey: two blues for ours, warm colours for the others.
COLOURS = ("#0b5cad", "#69a7e0", "#c2571a", "#eea573", "#5b8c3e", "#a6cf8b", "#777777", "#bbbbbb")
WIDTH, PANEL, TOP, BAR_AREA, LEFT, RIGHT = 900, 250, 40, 160, 60, 20


def nice_top(value):
    """The least of 1, 2, 2.5, 5 times a power of ten that is not below."""
    if value <= 0:
        return 1.0
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next(power * step for step in (1, 2, 2.5, 5, 10) if power * step >= value * (1 - 1e-12))


def text(x, y, content, size=11, anchor="middle", extra=""):
    return '<text x="%.1f" y="%.1f" font-size="%d" text-anchor="%s"%s>%s</text>' % (
        x, y, size, anchor, extra, escape(content))


def legend(contenders, y):
    out, x = [], LEFT
    for i, c in enumerate(contenders):
        width = 30 + 6.4 * len(c.label)
        if x + width > WIDTH - RIGHT:
            x, y = LEFT, y + 18
        out.append('<rect x="%.1f" y="%.1f" width="12" height="12" fill="%s"/>' % (
            x, y - 10, COLOURS[i % len(COLOURS)]))
        out.append(text(x + 17, y, c.label, anchor="start"))
        x += width
    return out, y + 14


def bar(x, width, base, scale, summary, colour, title):
    height = summary.median * scale
    out = ['<rect class="bar" x="%.1f" y="%.2f" width="%.1f" height="%.2f" fill="%s"><title>%s</title></rect>' % (
        x, base - height, width, height, colour, escape(title))]
    if summary.high > summary.low:
        middle = x + width / 2
        out.append('<line class="span" x1="%.1f" x2="%.1f" y1="%.2f" y2="%.2f" stroke="#222"/>' % (
            middle, middle, base - summary.low * scale, base - summary.high * scale))
    out.append(text(x + width / 2, base - max(summary.high * scale, height) - 3, number(summary.median), size=8))
    return out


def panel(samples, metric, cells, top):
    out = [text(LEFT, top + 16, PANEL_TITLES[metric], size=13, anchor="start", extra=' font-weight="bold"')]
    base = top + TOP + BAR_AREA
    highest = max((s.high for cell in cells for c in samples.contenders
                   if (s := samples.summary(cell, c.name))), default=0)
    limit = nice_top(highest)
    scale = BAR_AREA / limit
    for i in range(5):
        y = base - BAR_AREA * i / 4
        out.append('<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/>' % (LEFT, WIDTH - RIGHT, y, y))
        out.append(text(LEFT - 5, y + 4, number(limit * i / 4), size=9, anchor="end"))
    group = (WIDTH - LEFT - RIGHT) / len(cells)
    width = min(34.0, group * 0.86 / len(samples.contenders))
    for g, cell in enumerate(cells):
        start = LEFT + group * (g + 0.5) - width * len(samples.contenders) / 2
        for i, c in enumerate(samples.contenders):
            summary = samples.summary(cell, c.name)
            if summary:
                title = "%s, %s: %s %s" % (c.label, cell.title, number(summary.median), cell.unit)
                out += bar(start + i * width, width - 2, base, scale, summary, COLOURS[i % len(COLOURS)], title)
        out.append(text(LEFT + group * (g + 0.5), base + 15, AXIS[metric] % cell.argument))
    return out


def svg(samples, subtitle):
    """The whole drawing for one model."""
    body = [text(LEFT, 26, samples.model, size=16, anchor="start", extra=' font-weight="bold"'),
            text(LEFT, 44, subtitle, size=10, anchor="start")]
    keys, y = legend(samples.contenders, 68)
    body += keys
    for metric in PANEL_TITLES:
        cells = [c for c in samples.cells if c.metric == metric
                 and any(samples.summary(c, n.name) for n in samples.contenders)]
        if cells:
            body += panel(samples, metric, cells, y)
            y += PANEL
    return ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" '
            'font-family="sans-serif">\n<rect width="100%%" height="100%%" fill="#fff"/>\n%s\n</svg>\n' % (
                WIDTH, y + 10, WIDTH, y + 10, "\n".join(body)))
