"""What the sandboxes of simulated clusters share: `root` is the cluster's directory."""

import json
import time


class ClusterSandbox:
    """Tells a simulated cluster how its processes behave, and reads what they did."""

    def behave(self, words):
        (self.root / "behaviour").write_text(words)

    def started(self):
        """[rank, restart, arguments, directory, variables] of every process so far, in order."""
        return sorted(
            map(json.loads, (self.root / "started.jsonl").read_text().splitlines()),
            key=lambda row: (row[1], row[0]),
        )

    def wait_for(self, condition, seconds=40):
        deadline = time.monotonic() + seconds  # far more than needed, for a busy machine
        while not condition():
            assert time.monotonic() < deadline, "the condition was not met in time"
            time.sleep(0.01)

    def __enter__(self):
        return self
