"""Every alarm is raised by rows of the failure that it names, once, and not by rows of healthy runs; the same
after a resumption. Real runs with failures are in tests/commands/test_health.py."""

import contextlib

import pytest

from configs import debug
from electra_jax.objectives.registry import ROWS
from electra_jax.training.alarms import ALARMS, NAMES, advice, table
from electra_jax.training.events import EventLog, read_events
from electra_jax.training.health import KIND, REPORTED, HealthMonitor, describe_alarms
from electra_jax.training.run_facts import make_facts
from electra_jax.training.writers import MetricWriters
from support.healthy_rows import HEALTHY, read_healthy
from support.paths import ROOT

NUM_STEPS, EVERY = 4_000, 50  # blocks of 200 steps; late is step 1,000; the warm-up ends at step 100
# A row of a run that learns: nothing is raised by any number of them.
TRAINING = {
    "loss": 6.0,
    "mlm_loss": 4.5,
    "rtd_loss": 0.38,
    "rtd_auc": 0.6,
    "rtd_accuracy": 0.88,
    "rtd_recall": 0.1,
    "replaced_rate": 0.13,
    "generator_entropy": 4.5,
    "learning_rate": 1e-3,
    "data_wait_share": 0.01,
    "data_wait_seconds": 0.1,
}
EVALUATION = {
    "mlm_loss": 4.5,
    "rtd_loss": 0.38,
    "rtd_auc": 0.6,
    "rtd_recall": 0.1,
    "rtd_accuracy": 0.88,
    "replaced_rate": 0.13,
    "generator_entropy": 4.5,
    "unigram_cross_entropy": 5.85,
    "embedding_cosine": 0.9,
    "embedding_norm_ratio": 1.0,
}
# Alarm → (values of training rows, of evaluations, of the configuration) while something is wrong.
FAILURES = {
    "majority_class": ({"rtd_recall": 0.0, "rtd_accuracy": 0.87}, {}, {}),
    "auc_stuck": ({"rtd_auc": 0.51}, {}, {}),
    "generator_strong": ({"replaced_rate": 0.04}, {}, {}),
    "generator_weak": ({"mlm_loss": 5.8}, {"rtd_auc": 0.98, "mlm_loss": 5.83}, {}),
    "generator_entropy_collapse": ({}, {"generator_entropy": 0.8}, {}),
    "embeddings_apart": ({}, {"embedding_cosine": 0.2}, {"model.embedding_sharing": "gdes"}),
    "data_repeating": ({"mlm_loss": 3.0}, {"mlm_loss": 4.8}, {}),
    "held_out_rising": ({}, {"mlm_loss": 4.8}, {}),
    "data_wait": ({"data_wait_share": 0.4, "data_wait_seconds": 4.0}, {}, {}),
    "unigram_plateau": ({"mlm_loss": 5.82}, {"mlm_loss": 5.84}, {}),
    "zero_learning_rate": ({"learning_rate": 1e-10}, {}, {}),
    "replaced_rate_drift": ({"replaced_rate": 0.146}, {}, {}),
}
# Alarms that a failure raises beside the one that it is about: the loss also rises from 4.5, the rate jumps.
BESIDE = {
    "generator_weak": {"unigram_plateau", "held_out_rising"},
    "unigram_plateau": {"held_out_rising"},
    "generator_strong": {"replaced_rate_drift"},
}


def make_config(argument="", **changes):
    config = debug.get_config(argument)
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict({"train.num_steps": NUM_STEPS} | changes)
    return config.to_dict()


def passes(step):
    return step / 400  # 10 at the end


def run_rows(training, evaluation, bad=range(1_500, 2_700)):
    """Rows of a run with these values while its step is in `bad`."""
    rows = []
    for step in range(EVERY, NUM_STEPS + 1, EVERY):
        is_bad = step in bad
        # The AUC rises slowly while all is well.
        auc = {} if is_bad else {"rtd_auc": TRAINING["rtd_auc"] + step / 1e5}
        rows.append({"step": step, **TRAINING, **auc, **(training if is_bad else {})})
        if step % 200 == 0:
            values = EVALUATION | (evaluation if is_bad else {})
            rows.append({"step": step, **{f"eval/{name}": value for name, value in values.items()}})
    return rows


@pytest.fixture
def make_run(tmp_path):
    """(configuration, name of the directory) → a run that has just started."""
    with contextlib.ExitStack() as stack:
        yield lambda config, name="run": stack.enter_context(contextlib.closing(Run(tmp_path / name, config)))


class Run:
    """A run directory whose rows are written one by one, as MetricWriters does."""

    def __init__(self, path, config):
        path.mkdir(exist_ok=True)
        self.path, self.rows, self.facts = path, [], make_facts(config, passes=passes)
        self.events = None
        self.start()

    def close(self):
        if self.events is not None:
            self.events.close()

    def start(self, step=0):
        """Start, or resume at `step`."""
        self.close()
        self.rows = [row for row in self.rows if row["step"] <= step]
        self.events = EventLog(self.path, start_step=step)
        reported = {
            tuple(event[key] for key in REPORTED) for event in read_events(self.path) if event["kind"] == KIND
        }
        self.monitor = HealthMonitor(self.facts, self.events, self.rows, reported)
        return self

    def write(self, rows):
        for row in rows:
            self.rows.append(row)
            self.monitor.observe(row)
        return self.alarms()

    def alarms(self):
        return [(event["step"], event["name"]) for event in read_events(self.path)]


@pytest.mark.parametrize("name", NAMES)
def test_an_alarm_is_raised_once_by_its_failure(name, make_run):
    training, evaluation, settings = FAILURES[name]
    # Three passes do not repeat the data; a rising loss is data_repeating only beyond them.
    limit = {} if name == "data_repeating" else {"health.max_passes": 100.0}
    run = make_run(make_config(**settings, **limit))
    raised = run.write(run_rows(training, evaluation))
    assert [one for _, one in raised].count(name) == 1
    assert {one for _, one in raised} <= {name} | BESIDE.get(name, set())
    step = next(at for at, one in raised if one == name)
    assert 1_500 < step <= 2_700
    event = next(event for event in read_events(run.path) if event["name"] == name)
    assert event["message"].startswith(f"ALARM {name}: ") and "config." in event["advice"]
    assert "{" not in event["advice"]


def test_a_run_that_learns_raises_nothing(make_run):
    assert make_run(make_config()).write(run_rows({}, {}, bad=())) == []


def test_an_alarm_is_raised_again_only_after_its_condition_has_cleared_for_a_while(make_run):
    wait, _, _ = FAILURES["data_wait"]
    # Clear for one block of 200 steps; then for six.
    twice = [*range(250, 1_001), *range(1_250, 1_801), *range(3_050, 4_001)]
    run = make_run(make_config())
    raised = run.write(run_rows(wait, {}, bad=twice))
    assert raised == [(600, "data_wait"), (3_400, "data_wait")]
    assert describe_alarms(read_events(run.path)) == "alarms: data_wait at step 600, 3400"


@pytest.mark.parametrize("stop", [1_000, 1_650, 2_000, 2_050, 3_000])
@pytest.mark.parametrize("name", ["auc_stuck", "data_repeating", "replaced_rate_drift"])
def test_a_resumed_run_raises_the_same_alarms(name, stop, make_run):
    training, evaluation, _ = FAILURES[name]
    rows = run_rows(training, evaluation)
    expected = make_run(make_config(), "whole").write(rows)
    resumed = make_run(make_config(), "resumed")
    # Some steps beyond the checkpoint were done, too.
    resumed.write(row for row in rows if row["step"] <= stop + 300)
    resumed.start(stop)
    assert resumed.write(row for row in rows if row["step"] > stop) == expected


def test_an_alarm_that_a_crash_lost_is_made_up_for(make_run):
    rows = run_rows(*FAILURES["generator_entropy_collapse"][:2])
    run = make_run(make_config())
    ((step, name),) = run.write(rows)
    kept = [row for row in rows if row["step"] <= step]
    (run.path / "events.jsonl").unlink()  # the row was written, its event was not
    run.rows = kept
    run.start(step)
    assert run.alarms() == [(step, name)]
    run.start(step)
    assert run.alarms() == [(step, name)]


def test_writers_hand_over_the_rows_that_they_write(tmp_path):
    observed = []
    for start in (0, 4):
        with MetricWriters(tmp_path, progress=False, total_steps=8, start_step=start) as writers:
            writers.observe = observed.append
            for step in range(start, 7, 2):
                writers.write(step, {"loss": float("nan") if step == 2 else 1.0})
    # Step 4 was written before the resumption, step 6 was lost.
    assert [row["step"] for row in observed] == [0, 2, 4, 6, 6]
    assert observed[1] == {"step": 2, "loss": None}


def test_silenced_alarms_are_not_raised(make_run):
    run = make_run(make_config(**{"health.silenced": ("data_wait",)}))
    assert run.write(run_rows(FAILURES["data_wait"][0], {})) == []


def test_thresholds_are_those_of_the_configuration(make_run):
    run = make_run(make_config(**{"health.max_data_wait": 0.5}))
    assert run.write(run_rows(FAILURES["data_wait"][0], {})) == []


@pytest.mark.parametrize("begins", [1_400, 1_500])  # at the end of a block, and within one
def test_a_new_stage_may_have_another_replaced_rate(begins, make_run):
    config = make_config()
    run = make_run(config)
    run.facts = make_facts(config, stage_starts=(0, begins), passes=passes)
    run.start()
    assert run.write(run_rows({"replaced_rate": 0.17}, {}, bad=range(begins + 1, 4_001))) == []


@pytest.mark.parametrize("warmup, expected", [(0, ["replaced_rate_drift"]), (1_000, [])])
def test_a_stage_that_warms_up_again_may_change_the_replaced_rate(warmup, expected, make_run):
    """The generator becomes worse by a fifth while the rate of the second schedule rises, and recovers."""
    config = make_config()
    again = config | {"optimizer": config["optimizer"] | {"warmup_steps": warmup}}
    run = make_run(config)
    run.facts = make_facts(
        config,
        stage_starts=(0, 1_000, 1_600),  # the third has the schedule of the second
        stage_configs=[config, again, again],
        schedule_starts=(0, 1_000, 1_000),
        passes=passes,
    )
    run.start()
    rows = run_rows({}, {}, bad=())
    rates = {
        step: 0.13 * (1 + 0.2 * max(0, 1 - abs(step - 1_600) / 400)) for step in range(EVERY, 4_001, EVERY)
    }
    rows = [row | ({"replaced_rate": rates[row["step"]]} if "replaced_rate" in row else {}) for row in rows]
    assert [name for _, name in run.write(rows)] == expected


@pytest.mark.parametrize("early, expected", [(0, ["replaced_rate_drift"]), (500, [])])
def test_the_rate_of_a_short_run_may_be_noisy(early, expected, make_run):
    run = make_run(make_config(**{"train.num_steps": 400, "health.early_steps": early}))
    rows = [{"step": step, "replaced_rate": 0.1 + 0.02 * (step == 300)} for step in range(20, 401, 20)]
    assert [name for _, name in run.write(rows)] == expected


def test_a_new_stage_may_have_another_held_out_loss(make_run):
    config, (_, evaluation, _) = make_config(), FAILURES["held_out_rising"]
    run = make_run(config)
    # Evaluated at step 1,400 on the rows of the stage that begins then.
    run.facts = make_facts(config, stage_starts=(0, 1_400), passes=passes)
    run.start()
    assert run.write(run_rows({}, evaluation, bad=range(1_400, 4_001))) == []
    other = make_run(config, "one_stage").write(run_rows({}, evaluation, bad=range(1_400, 4_001)))
    assert [name for _, name in other] == ["held_out_rising"]


def test_each_task_of_mcl_has_its_alarms(make_run):
    config = debug.get_config("model=mcl")
    config.train.num_steps = NUM_STEPS
    run = make_run(config.to_dict())
    others = {"std_auc": 0.5, "swapped_rate": 0.12, "std_recall": 0.1, "std_accuracy": 0.9}
    run.write([row | (others if "loss" in row else {}) for row in run_rows({}, {}, bad=())])
    (event,) = read_events(run.path)
    assert (event["name"], event["task"]) == ("auc_stuck", "std") and "std_auc=0.500" in event["message"]
    assert describe_alarms([event]) == f"alarms: auc_stuck (std) at step {event['step']}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_alarms_follow_from_the_row_of_an_objective(row, make_run):
    """No alarm is about a loss that the objective does not minimise, or a task that it does not have."""
    config = make_config(**{"train.num_steps": NUM_STEPS})
    config["objective"] = config["objective"] | dict(row.settings) | {"name": row.name}
    run = make_run(config)
    detections = {metrics.detection.name for metrics in row.metrics if metrics.detection}
    assert {detection.name for detection in run.facts.detections} == detections
    run.write(run_rows(*FAILURES["unigram_plateau"][:2]))
    assert ("unigram_plateau" in {name for _, name in run.alarms()}) == row.minimizes_mlm
    if row.name == "electra_15":  # its rate is of the masked tokens
        assert run.facts.drawn == ({"rtd": 1.0},)


def test_a_fixed_generator_is_never_too_strong(make_run):
    config = make_config(**{"objective.generator": "unigram"})
    run = make_run(config)
    assert run.facts.drawn == ({},)
    assert run.write(run_rows({"replaced_rate": 0.01}, {})) == []


@pytest.mark.parametrize("objective", ["fast_electra", "two_stage"])
@pytest.mark.parametrize(
    ("name", "training"), [("data_repeating", {"rtd_loss": 0.2}), ("held_out_rising", {})]
)
def test_a_discriminator_beside_a_finished_generator_is_judged_by_its_own_loss(
    objective, name, training, make_run
):
    run = make_run(make_config(argument=f"objective={objective}"))
    assert {one for _, one in run.write(run_rows(training, {"rtd_loss": 0.5}))} == {name}
    other = make_run(make_config(argument=f"objective={objective}"), "other")
    assert other.write(run_rows({}, {"mlm_loss": 4.8})) == []  # nothing learns to predict tokens


def test_the_loss_of_detection_is_not_judged_while_a_generator_learns(make_run):
    assert make_run(make_config()).write(run_rows({}, {"rtd_loss": 0.5})) == []


@pytest.mark.parametrize("name", ["generator_strong", "generator_weak", "generator_entropy_collapse"])
def test_a_finished_generator_is_not_judged(name, make_run):
    training, evaluation, _ = FAILURES[name]
    config = make_config(argument="objective=fast_electra")
    raised = {one for _, one in make_run(config).write(run_rows(training, evaluation))}
    assert not raised & {"generator_strong", "generator_weak", "generator_entropy_collapse"}


@pytest.mark.parametrize(
    "changes",
    [
        {"argument": "objective=fast_electra"},
        {"argument": "objective=two_stage"},
        {"objective.generator": "unigram"},
    ],
)
def test_no_alarm_advises_another_shape_for_a_generator_that_does_not_learn(changes, make_run):
    run = make_run(make_config(**changes))
    run.write(run_rows({"rtd_auc": 0.51}, {}))
    (event,) = [event for event in read_events(run.path) if event["name"] == "auc_stuck"]
    assert "model.generator" not in event["advice"] and "disc_weight" in event["advice"]


def test_no_alarm_advises_a_weight_that_the_objective_does_not_read(make_run):
    run = make_run(make_config(argument="objective=all_tokens_mlm"))
    run.write(run_rows({"rtd_auc": 0.51}, {}))
    (event,) = [event for event in read_events(run.path) if event["name"] == "auc_stuck"]
    assert "disc_weight" not in event["advice"] and "learning_rate" in event["advice"]


def test_a_finished_generator_of_a_first_stage_is_too_strong_but_no_smaller_one_is_advised(make_run):
    run = make_run(make_config(argument="objective=two_stage"))
    run.write(run_rows(FAILURES["generator_strong"][0], {}))
    (event,) = [event for event in read_events(run.path) if event["name"] == "generator_strong"]
    assert "model.generator" not in event["advice"] and "temperature" in event["advice"]
    run = make_run(make_config(argument="objective=two_stage"), "weak")
    raised = run.write(run_rows(*FAILURES["generator_weak"][:2]))  # and what is raised beside it
    assert raised == []


def test_a_stage_with_more_masks_draws_more_tokens():
    config = make_config()
    stages = [config, config | {"objective": config["objective"] | {"mask_prob": 0.3}}]
    facts = make_facts(config, stage_starts=(0, 10), stage_configs=stages, passes=passes)
    assert [facts.drawn_at(step)["rtd"] for step in (0, 1, 10, 11)] == [0.15, 0.15, 0.15, 0.3]
    assert [facts.settings_at(step)["objective.mask_prob"] for step in (0, 10, 11)] == [0.15, 0.15, 0.3]


def test_there_are_rows_of_a_healthy_run():
    assert {("electra", "0"), ("electra", "1"), ("deberta_v3", "0")} <= set(HEALTHY)


@pytest.mark.parametrize("model, seed", HEALTHY)
def test_healthy_runs_of_the_debug_recipes_raise_nothing(model, seed, tmp_path):
    """Rows of real runs at their normal length (support/healthy_rows.py)."""
    config, rows = read_healthy(model, seed)
    facts = facts_of_healthy(config)
    assert rows[-1]["step"] > 2 * facts.late_at(rows[-1]["step"])
    assert judged(tmp_path, facts, rows) == []


@pytest.mark.parametrize("num_steps", [300, 500, 1_000])
@pytest.mark.parametrize("model, seed", HEALTHY)
def test_the_beginnings_of_healthy_runs_raise_nothing_if_they_are_the_whole_run(
    model, seed, num_steps, tmp_path
):
    config, rows = read_healthy(model, seed)
    config["train"]["num_steps"] = num_steps
    rows = [row for row in rows if row["step"] <= num_steps]
    assert judged(tmp_path, facts_of_healthy(config), rows) == []


def facts_of_healthy(config):
    return make_facts(config, passes=lambda step: step * config["train"]["batch_size"] / 65_332)


def judged(directory, facts, rows):
    """The events of a run with these rows."""
    with EventLog(directory, start_step=0) as events:
        monitor = HealthMonitor(facts, events, [])
        for row in rows:
            monitor.observe(row)
    return read_events(directory)


def test_remedies_name_keys_that_exist():
    """In some recipe: a sentence about a key that a recipe lacks is left out."""
    settings = make_facts(make_config(), passes=passes).settings
    for alarm in ALARMS:
        text = advice(alarm, settings)
        assert text and "{" not in text, alarm.name
        assert all(remedy.count("{") == remedy.count("}") for remedy in alarm.remedies)
    without = {key: value for key, value in settings.items() if key != "objective.disc_weight"}
    assert "disc_weight" in advice(ALARMS[0], settings) and "disc_weight" not in advice(ALARMS[0], without)


def test_the_readme_has_the_table_of_alarms():
    readme = (ROOT / "electra_jax/training/README.md").read_text(encoding="utf-8")
    missing = [line for line in table() if line not in readme]
    assert not missing, "put these lines into electra_jax/training/README.md:\n" + "\n".join(missing)
