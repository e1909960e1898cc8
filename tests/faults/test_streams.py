"""A run whose standard output and error are closed, broken or full."""

import shlex
import subprocess
import sys

from support.fault_runs import flags
from support.faults import EXACT, Ended, Fault
from support.paths import ROOT

HOWS = {
    "a pipe whose reader has gone": "COMMAND 2>&1 | head -1",
    "closed": "COMMAND >&- 2>&-",
    "all closed": "COMMAND <&- >&- 2>&-",
    "a full disk": "COMMAND > /dev/full 2>&1",
    "a pipe without a reader for errors alone": "COMMAND 2> >(true)",
}
FAULTS, SAMPLE = [Fault(name, allowed=(EXACT,)) for name in HOWS], 1


def test_a_run_that_nobody_can_see_is_the_same(fault, data, environment, settle, tmp_path):
    words = [sys.executable, "-m", "electra_jax.pretrain", *flags(tmp_path / "run", data)]
    script = HOWS[fault.name].replace("COMMAND", shlex.join(words)) + "; exit ${PIPESTATUS[0]}"
    shell = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, timeout=400
    )
    settle(fault, tmp_path / "run", Ended(shell.returncode, ""))
