"""sessions.jsonl: how a run was started, one line for each start. runs/provenance.py writes it."""

from pathlib import Path
from typing import Any

from data_pipelines.json_files import Maybe, read_json_lines

SESSIONS_FILE = "sessions.jsonl"
ADVICE = "Repair the line, or put it back from a copy of the run: resuming reads it."
Session = dict[str, Any]
# Earlier versions recorded less.
FORM = {
    "started": Maybe(str),
    "start_step": Maybe(int),
    "command": Maybe([str]),
    "directory": Maybe(str),
    "devices": Maybe(str),
    "versions": Maybe({str: (str, type(None))}),
    "commit": Maybe((str, type(None))),
    "changed": Maybe(dict),
    "log_every": Maybe(int),
    "num_steps": Maybe([int, int]),  # of the run: before and after that start
}


def read_session_lines(path: Path) -> list[Session]:
    """The sessions of a run, the oldest first; [] without a file, and without lines that a crash left
    incomplete.

    Raises:
      ValueError: a line has values of another form; names file and line.
    """
    return read_json_lines(path, FORM, advice=ADVICE)
