"""config.objective.denoisers: on the command line, in stages, and values that are refused."""

import pytest

from configs import debug
from electra_jax.configuration.resolve import resolve
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.configuration.stages import make_stages
from electra_jax.huggingface.card import Publication, RunRecord, make_card
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.denoisers import denoisers_of
from electra_jax.training.alarms import ALARMS, advice
from electra_jax.training.run_facts import make_facts
from support.command_lines import read_command_line
from support.tiny import model_section

MIXTURE = ((3, 0.15, 3, "tokens"), (1, 0.5, 8.0, "words"), (1, 0.15, 1, "identifiers"))
OLD = ((3, 0.15, 3, False), (1, 0.5, 8.0, True))  # of earlier versions
FLAG = "--config.objective.denoisers="


def configuration(*stages, **objective):
    config = with_assumed_sizes(debug.get_config().to_dict())
    config["objective"] |= objective
    config["train"]["num_steps"], config["stages"] = 100, stages
    config["optimizer"]["warmup_steps"] = 10
    return config


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize("denoisers", [MIXTURE, OLD], ids=["new", "old"])
def test_the_command_line(denoisers, monkeypatch):
    argv = ["pretrain", "--config=configs/debug.py", "--workdir=runs/mixed", f"{FLAG}{denoisers}"]
    config, _ = read_command_line(argv, monkeypatch)
    assert config["objective"]["denoisers"] == denoisers
    assert resolve(config).values["objective"]["denoisers"] == denoisers


def test_units_of_earlier_versions():
    new = tuple((*numbers, {False: "tokens", True: "words"}[units]) for *numbers, units in OLD)
    assert denoisers_of({"denoisers": OLD}) == denoisers_of({"denoisers": new})


@pytest.mark.parametrize(
    "value",
    [
        (1, 0.15, 3, False),  # one, without the outer brackets
        ((1, 0.15, 3),),
        ((0, 0.15, 3, False),),
        ((1, 1.0, 3, False),),
        ((1, 0.15, 0.5, False),),
        ((1, 0.15, 3, 1),),
        ((2e6, 0.15, 3, False),),
        ((1, 0.15, 10**400, False),),
        ((float("nan"), 0.15, 3, False),),
        (("1", 0.15, 3, False),),
        ("short",),
        ((1, 0.15, 3, "letters"),),
    ],
    ids=[
        "flat",
        "three",
        "weight",
        "share",
        "span",
        "switch",
        "large",
        "huge",
        "nan",
        "text",
        "name",
        "unit",
    ],
)
def test_entries_that_are_no_denoisers(value):
    with pytest.raises(
        ValueError, match=r"config\.objective\.denoisers: got .*, expected \(\) or one or mo"
    ) as one:
        resolve(configuration(denoisers=value))
    example = "((0.5, 0.15, 3, 'tokens'), (0.5, 0.5, 3, 'tokens'))"
    assert f'--config.objective.denoisers="{example}"' in str(one.value)


def test_a_share_of_which_no_position_is_left():
    with pytest.raises(
        ValueError, match=r"denoisers: got \(1, 0\.001, 1, 'tokens'\) for rows of 64, of which 0 po"
    ):
        resolve(configuration(denoisers=((1, 0.15, 1, False), (1, 0.001, 1, False))))


def test_mask_prob_and_masking_are_not_read_beside_them():
    resolve(configuration(denoisers=MIXTURE, mask_prob=0.001, masking="windows"))


def test_stages():
    """Shares that alarms and cards read are those of each stage's mixture."""
    config = configuration((10, {"objective.denoisers": MIXTURE}), (50, {"objective.denoisers": ()}))
    resolve(config)
    stages = make_stages(config)
    assert [stage.config["objective"]["denoisers"] for stage in stages] == [(), MIXTURE, ()]
    encoder = make_pretraining_config(model_section()).discriminator
    record, publication = RunRecord(config, 100, None, None, [], [], None), Publication(None, None, None)
    card = make_card("discriminator", encoder, record, publication, is_exact=True, with_code=False)
    assert "masking 15% then 22% by a mixture of 3 denoisers then 15%, seed" in card
    facts = make_facts(
        config,
        stage_starts=[stage.first_step for stage in stages],
        stage_configs=[stage.config for stage in stages],
        passes=lambda step: 0.0,
    )
    drawn = [facts.drawn_at(step)["rtd"] for step in (10, 11, 51)]
    assert drawn == pytest.approx([0.15, (4 * 0.15 + 0.5) / 5, 0.15])
    advised = ["mask_prob" in advice(ALARMS[0], facts.settings_at(step)) for step in (10, 11, 51)]
    assert advised == [True, False, True]  # only where it has an effect


def test_a_stage_cannot_change_the_share_beside_them():
    masked = {"objective.mask_prob": 0.3}
    with pytest.raises(
        ValueError,
        match=r"from step 10 on: got objective\.mask_prob=0\.3 with denoisers .*, expected one of the two",
    ):
        make_stages(configuration((10, masked), denoisers=MIXTURE))
    make_stages(configuration((10, masked | {"objective.denoisers": ()}), denoisers=MIXTURE))
