"""summary.json and the picture of a finished run."""

import json
import os
import time

from electra_jax.runs.summary import summarize_run

DAY = 86_400 * 10**9  # nanoseconds


def write_rows(workdir, num_steps):
    rows = [{"step": step, "mlm_loss": 1.0, "tokens_per_second": 1.0} for step in range(1, num_steps + 1)]
    rows.append({"step": num_steps, "eval/mlm_loss": 2.0})
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_picture_is_that_of_the_rows_whatever_the_clock_was(tmp_path):
    """A picture that was drawn while the clock was ahead is no newer than rows written since."""
    write_rows(tmp_path, 3)
    summarize_run(tmp_path)
    picture = tmp_path / "plots" / "curves.png"
    for shift in (DAY, -DAY, 3650 * DAY):
        drawn = picture.stat().st_ino, picture.stat().st_ctime_ns
        summarize_run(tmp_path)
        assert (picture.stat().st_ino, picture.stat().st_ctime_ns) == drawn  # not drawn again
        os.utime(picture, ns=(time.time_ns() + shift,) * 2)
        write_rows(tmp_path, 5)
        before = picture.read_bytes()
        summarize_run(tmp_path)
        assert picture.read_bytes() != before or shift != DAY
        assert picture.stat().st_mtime_ns == (tmp_path / "metrics.jsonl").stat().st_mtime_ns
