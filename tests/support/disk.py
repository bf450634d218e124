"""How much of the disk lies below a directory, now and at most while something runs."""
import os
import threading


def disk_bytes(directory):
    sizes = {}  # a file with two names lies there once
    for top, _, names in os.walk(directory):
        for name in names:
            try:
                entry = os.lstat(os.path.join(top, name))
                sizes[entry.st_ino] = entry.st_blocks * 512
            except FileNotFoundError:
                pass
    return sum(sizes.values())


class Watch:
    """`with Watch(directory) as watch:` looks again and again; watch.most is the most there was."""

    def __init__(self, directory, interval=0.2):
        self.directory, self.interval, self.most = directory, interval, 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        while not self.done.wait(self.interval):
            self.most = max(self.most, disk_bytes(self.directory))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *unused):
        self.done.set()
        self.thread.join()
