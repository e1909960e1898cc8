"""`--print_config` and `--help` show every value, where it comes from, and its comment."""

import functools
import re

from flax.traverse_util import flatten_dict

from electra_jax.configuration.recipe_comments import comment_of, read_comments
from electra_jax.configuration.recipes import RECIPES, load_config
from support.commands import run_module


def shown(*words, module="pretrain"):
    """(key → its line's source and its comment, what was printed) of a command that prints its configuration
    and does nothing else."""
    outcome = run_module(f"electra_jax.{module}", *words)
    assert outcome.returncode == 0, outcome.stderr
    line = r"^--config\.([\w.]+)=(.*?) +(recipe|argument|flag)((?:\n    .*)*)$"
    values = {
        key: (value, source, " ".join(comment.split()))
        for key, value, source, comment in re.findall(line, outcome.stdout, re.MULTILINE)
    }
    return values, outcome.stdout


def test_every_value_has_its_source_and_its_comment():
    values, text = shown(
        "--config=configs/electra.py:size=base",
        "--print_config",
        "--config.train.batch_size=64",
        "--config.data.datasets=a,b",
    )
    recipe = load_config("configs/electra.py:size=base").to_dict()
    assert values.keys() == flatten_dict(recipe, sep=".").keys()
    assert values["train.batch_size"] == ("64", "flag", "rows of all devices together")
    assert values["data.datasets"][:2] == ("a,b", "flag")
    assert values["data.datasets"][2].startswith("Directories made by `python -m data_pipelines.corpus`")
    assert values["assumed.sequence_length"][:2] == ("512", "argument")
    assert values["assumed.vocab_size"] == ("30522", "recipe", "BERT's uncased WordPiece")
    assert values["objective.mask_token_prob"] == ("0.85", "recipe", "the code's; the paper's text says 1.0")
    assert values["train.ema_decay"][2].endswith("export, fine-tuning, init_from and soup read it.")
    assert text.count("The two encoders (models/config.py checks the values).") == 1
    assert values["mesh.fsdp"] == ("1", "recipe", "")  # the section has the comment


def test_fine_tuning_shows_its_values():
    values, text = shown(
        "--config=configs/finetune.py:task=squad2,size=base", "--print_config", module="finetune"
    )
    assert values["task.doc_stride"] == ("128", "recipe", "tokens from one window of the context to the next")
    assert values["task.null_threshold"][:2] == ("-2.75", "argument")
    assert "Scale-invariant fine-tuning. vat_lambda is the weight of its penalty; 0: without it." in text


def test_help_shows_all_flags_and_what_can_be_set():
    values, text = shown("--config=configs/debug.py", "--help")
    for flag in (
        "distributed",
        "coordinator",
        "num_processes",
        "workdir",
        "print_config",
        "change_num_steps",
    ):
        assert re.search(rf"^  --(\[no\])?{flag}: ", text, re.MULTILINE)
    assert "The same command again resumes" in text and values["optimizer.warmup_steps"][0] == "100"
    outcome = run_module("electra_jax.pretrain", "--help")
    assert outcome.returncode == 0 and "--help shows all values that can be set" in outcome.stdout


def test_every_command_shows_its_own_flags():
    modules = ("plan", "compare", "evaluate", "doctor", "benchmark", "finetune")
    for module in modules:
        outcome = run_module(f"electra_jax.{module}", "--help")
        assert outcome.returncode == 0 and "\n  --config: Configuration file" in outcome.stdout, outcome
        assert "--[no]distributed" in outcome.stdout or module != "doctor"


def test_printing_needs_a_configuration():
    outcome = run_module("electra_jax.pretrain", "--print_config")
    assert outcome.returncode == 1 and "error: --config is missing" in outcome.stderr


RECIPE = """# of the file

COURSES = {
    "a": 1,  # one
    # above,
    # in two lines
    "b": {"c": 2},
    "d": 3,
}
x = make_recipe(model={"e": 1, "f": 2}, train={  # of train
    "g": (1,
          2),  # last
})
"""


def test_comments_are_read_from_behind_and_above(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    assert read_comments(str(path)) == {
        "a": "one",
        "*.a": "one",
        "b": "above, in two lines",
        "*.b": "above, in two lines",
        "train.g": "last",
    } | {key: "of train" for key in ("train", "*.train", "model", "*.model")}


def test_comments_of_courses_are_found():
    mcl = str(RECIPES / "mcl.py")
    assert comment_of("objective.swap_permutation", mcl, is_pretraining=True).startswith("[E]; or")
    assert comment_of("objective.disc_weight", mcl, is_pretraining=True) == "replaced tokens [E]"


def test_an_evaluation_has_the_comments_of_its_parts():
    comment = functools.partial(comment_of, recipe=str(RECIPES / "evaluate.py"), is_pretraining=False)
    assert comment("pretraining.train.batch_size") == "rows of all devices together"
    assert comment("tasks.sst2.task.doc_stride") == "tokens from one window of the context to the next"
    assert comment("tasks.sst2.train.batch_size") == ""
