"""Samples of a run and what is made of them: medians, spans, ratios. No file, no process."""
import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One thing that is measured: ("prefill", 512), ("start", "cold")."""
    metric: str
    argument: object

    @property
    def unit(self):
        return UNITS[self.metric]

    @property
    def higher_is_better(self):
        return self.metric in ("prefill", "decode", "bandwidth")

    @property
    def title(self):
        return {
            "prefill": "prefill, %s tokens",
            "decode": "decode at depth %s",
            "first_token": "time to first token, prompt of %s",
            "start": "start-up, %s",
            "memory": "memory, %s",
            "bandwidth": "read bandwidth%s",
        }[self.metric] % self.argument


UNITS = {"prefill": "tok/s", "decode": "tok/s", "first_token": "ms", "start": "ms", "memory": "MiB",
         "bandwidth": "GB/s"}


@dataclass(frozen=True)
class Summary:
    median: float
    low: float
    high: float
    count: int

    def as_json(self):
        return {"median": self.median, "min": self.low, "max": self.high, "samples": self.count}


def summary(values):
    """None without values."""
    values = list(values)
    if not values:
        return None
    return Summary(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Contender:
    """One engine in one configuration. `family` is what ratios are taken against: the best of a
    family's configurations counts."""
    name: str
    label: str
    family: str


class Samples:
    """Every sample of one model: values by cell, contender and round."""

    def __init__(self, model, contenders):
        self.model = model
        self.contenders = list(contenders)
        self.cells = []
        self.values = {}
        self.failures = {}  # (cell, contender's name) -> why
        self.bytes_per_token = {}  # (contender's name, depth) -> bytes that a decode step reads

    def add(self, cell, contender, round_, value):
        if cell not in self.cells:
            self.cells.append(cell)
        self.values.setdefault((cell, contender), {})[round_] = value

    def fail(self, cell, contender, reason):
        if cell not in self.cells:
            self.cells.append(cell)
        self.failures[cell, contender] = reason

    def summary(self, cell, contender):
        return summary(self.values.get((cell, contender), {}).values())

    def families(self):
        """In the order of the contenders."""
        return list(dict.fromkeys(c.family for c in self.contenders))

    def best(self, cell, family):
        """Name of the family's best contender in this cell, by median; None where none has one."""
        found = [(self.summary(cell, c.name).median, c.name) for c in self.contenders
                 if c.family == family and self.summary(cell, c.name)]
        if not found:
            return None
        return (max if cell.higher_is_better else min)(found)[1]

    def ratio(self, cell, ours, theirs):
        """How many times better `ours` is: of the medians, with the span of the rounds' ratios. None
        where one of them has no sample."""
        a, b = self.values.get((cell, ours)), self.values.get((cell, theirs))
        if not a or not b:
            return None
        def better(x, y):
            return x / y if cell.higher_is_better else y / x
        paired = [better(a[r], b[r]) for r in a if r in b]
        medians = better(statistics.median(a.values()), statistics.median(b.values()))
        return Summary(medians, min(paired, default=medians), max(paired, default=medians), len(paired))

    def share(self, contender, depth):
        """Part of the measured read bandwidth that decode reaches; None where not measured."""
        bandwidth = next((self.summary(c, n) for c, n in self.values if c.metric == "bandwidth"), None)
        rate = self.summary(Cell("decode", depth), contender)
        size = self.bytes_per_token.get((contender, depth))
        if not bandwidth or not rate or not size:
            return None
        return size * rate.median / (bandwidth.median * 1e9)


def rotation(items, round_):
    """The order of a round: each begins with another one, so that nobody always follows the same."""
    items = list(items)
    start = round_ % len(items) if items else 0
    return items[start:] + items[:start]
