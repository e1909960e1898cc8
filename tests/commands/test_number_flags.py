"""Numbers of flags: zero, negative, NaN, infinite, huge or none, each is an error that names the flag."""

import re

from electra_jax.__main__ import find_commands
from support.commands import run_module

TASK = "--config=configs/finetune.py:task=trec6"
DEBUG = "--config=configs/debug.py"
HUGE = str(10**30)
CORPUS = "--tokenizer=x --train=x --validation=x --out=x --sequence_length=32 --packing=documents"
IMPORT = "--from=x --kind=huggingface --out=x"
# Command, its other words → flag → wrong values.
LINES = {
    ("finetune", f"{TASK} --workdir=w --init_from=x"): {"seeds": ("0", "-1", "nan", "1.5", "", HUGE)},
    ("evaluate", "--config=configs/evaluate.py --workdir=w"): {
        "seeds": ("0", HUGE),
        "pretrainings": ("0", "-1", "two", HUGE),
    },
    ("compare", f"{DEBUG} --workdir=w"): {
        "seeds": ("0", "-1", HUGE),
        "tokens": ("0", "-1", "nan", "1e6:0", HUGE),
    },
    ("doctor", f"{DEBUG} --workdir=w"): {"timeout": ("0", HUGE), "expect_devices": ("0", "-8")},
    ("benchmark", "--suite=cpu"): {"rounds": ("0", HUGE), "steps": ("-1", HUGE)},
    ("benchmark", "--suite=accelerator --out=x"): {"limit_factor": ("0", "nan", "inf", "-1")},
    ("plan", f"{DEBUG} --device=h100:8"): {
        "hours_between_stops": ("0", "nan", "inf", "-1", "soon"),
        "save_rate": ("0", "nan", "inf"),
        "peak_flops": ("0", "nan", "inf", "-1", "1e300"),
        "memory_gib": ("0", "nan", "1e300"),
        "network_gbps": ("nan", "-1"),
        "dollars_per_hour": ("nan", "-1", "inf"),
        "utilization": ("nan", "2", "0", "0.1,nan", "0.1,0.2,0.3"),
    },
    ("plan", DEBUG): {"device": ("cpu:0", "cpu:-1", f"cpu:{HUGE}", "cpu:x", "h100:0", "v5e:0x4")},
    ("predict", "--model=x --input=x"): {
        "top": ("0", "-1", "nan", HUGE),
        "batch_size": ("0", "1.5", HUGE),
        "step": ("-1", HUGE),
        "seed": ("-1", str(2**32), HUGE),
        "masked_copies": ("0", "8", "all"),
        "width": ("0", "-1", "all", HUGE),
    },
    ("convert export", "--workdir=x --out=x"): {"step": ("-1", "newest", HUGE)},
    ("convert import", IMPORT): {"seed": ("-1", "nan", str(2**32))},
    ("corpus", CORPUS): {
        "sequence_length": ("0", "-1", "2", "nan", HUGE),
        "seed": ("-1", HUGE),
        "num_processes": ("0", "-1", HUGE),
        "min_score": ("nan", "inf", "high"),
        "keep_fraction": ("nan", "-0.1", "1.5"),
        "copies": ("2", "0:1:2,1:2", "low:1,1:2"),
    },
    ("score", "--input=x --positive=x --negative=x --out=x"): {
        "ngrams": ("0", "6", "nan"),
        "max_training_chars": ("0", "-1", HUGE),
        "losses": ("0.5", "=0.5", "loss=nan", "loss=high"),
        "example_share": ("nan", "-0.1", "2"),
    },
    ("corpus", CORPUS.replace("--validation=x ", "")): {"validation_fraction": ("nan", "-0.1", "1.5", "inf")},
    ("tokenizer", "--input=x --out=x --vocab_size=100"): {
        "vocab_size": ("0", "-1", "nan", HUGE),
        "character_coverage": ("nan", "-1", "2", "inf"),
        "max_training_chars": ("0", "-1", HUGE),
    },
    ("tokenizer", "--input=x --out=x --vocab_size=100 --kind=wordpiece"): {
        "min_frequency": ("0", "-1", HUGE)
    },
    ("tokenizer", "--from=x --input=x --out=x"): {"add_words": ("0", "-1", "nan", HUGE)},
}


def placed(words, folder):
    """The words of a line, with paths below `folder`."""
    return [re.sub(r"=([wx])$", rf"={folder}/\1", word) for word in words.split()]


def test_a_wrong_number_is_an_error_that_names_the_flag(tmp_path):
    modules = find_commands()
    cases = [
        (command, words, flag, value)
        for (command, words), flags in LINES.items()
        for flag, values in flags.items()
        for value in values
    ]
    lines = [
        [modules[command.split()[0]], *command.split()[1:], *placed(words, tmp_path), f"--{flag}={value}"]
        for command, words, flag, value in cases
    ]
    wrong = []
    for (command, _, flag, value), words in zip(cases, lines, strict=True):
        outcome = run_module(*words)
        last = outcome.stderr.strip().splitlines()[-1:] or [""]
        if outcome.returncode not in (1, 2) or f"--{flag}" not in last[0] or "Traceback" in outcome.stderr:
            wrong.append((command, flag, value, outcome.returncode, outcome.stderr[-300:]))
    assert wrong == []
    assert list(tmp_path.iterdir()) == []
