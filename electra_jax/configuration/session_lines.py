"""sessions.jsonl: how a run was started, one line for each start. runs/provenance.py writes it."""

from pathlib import Path
from typing import Any

from data_pipelines.json_files import Maybe, read_json_lines

SESSIONS_FILE = "sessions.jsonl"
ADVICE = "Repair the line, or remove it: nothing but the report of the run and its model card lacks it then."
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
    "num_steps": Maybe([int]),
}


def read_session_lines(path: Path) -> list[Session]:
    """The sessions of a run, the oldest first; [] without a file, and without lines that a crash left
    incomplete.

    Raises:
      ValueError: a line has values of another form; names file and line.
    """
    sessions = read_json_lines(path, FORM, advice=ADVICE)
    for session in sessions:
        if len(session.get("num_steps", (0, 0))) != 2:
            raise ValueError(
                f"{path}: got {session['num_steps']} as the num_steps of a line, expected the numbers of "
                f"steps before and after that start. {ADVICE}"
            )
    return sessions
