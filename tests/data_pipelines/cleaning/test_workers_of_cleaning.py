"""Processes of a cleaning do not outlive the one that started them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PARENT = """
import os, time
from data_pipelines.cleaning.workers import map_in_order

def process(_):
    return os.getpid()

if __name__ == "__main__":
    results = map_in_order(process, iter(range(4)), 2)
    print(next(results), flush=True)
    time.sleep(20)
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, env=environment, start_new_session=True
    ) as parent:
        assert int(parent.stdout.readline()) != parent.pid
        parent.kill()
        try:
            parent.communicate(timeout=10)  # the workers have the other end of this pipe, too
        finally:
            if parent.stdout and not parent.stdout.closed:
                os.killpg(parent.pid, signal.SIGKILL)
