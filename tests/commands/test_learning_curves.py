"""`python -m electra_jax.compare --tokens=…`: a comparison at several numbers of tokens."""

import json

import pytest
from matplotlib import colors
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from data_pipelines.json_files import write_json
from electra_jax.comparison import downstream, judging, learning_curves, suites
from electra_jax.comparison.budgets import Budget, parse_budgets, with_budget
from electra_jax.comparison.curve_plots import curves_of, plot_curves
from electra_jax.comparison.downstream import Evaluation
from electra_jax.comparison.judging import Judges
from electra_jax.configuration.flags import load_config
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.finetuning.results import Result
from support.tiny_run import start

RECIPE = ConfigDict(with_assumed_sizes(load_config("configs/debug.py").to_dict()))
RECIPE.train.update(num_steps=1000, batch_size=4)
RECIPE.data.sequence_length = 8
RECIPE.optimizer.warmup_steps = 100


def test_numbers_of_tokens_are_sorted_and_have_seeds():
    assert parse_budgets([], 3) == []
    assert parse_budgets(["10e6", " 2.5E6:5", "1000:1"], 3) == [
        Budget(1000, 1),
        Budget(2_500_000, 5),
        Budget(10_000_000, 3),
    ]
    assert [Budget(tokens, 1).title for tokens in (1000, 2_500_000, 2 * 10**9)] == [
        "0.001 M",
        "2.5 M",
        "2,000 M",
    ]


@pytest.mark.parametrize(
    "word",
    [
        "",
        "0",
        "1e6:0",
        "-1",
        "1e6:",
        "nan",
        "1e99",
        "1e6:5:5",
        "1e6:two",
        "0.1",
        "9" * 400,
        "5:" + "9" * 400,
        "1e6:99999",
    ],
)
def test_a_wrong_number_of_tokens_is_an_error(word):
    with pytest.raises(
        ValueError, match=r"^--tokens: got .*, expected TOKENS or TOKENS:SEEDS, as in --tokens="
    ):
        parse_budgets(["5", word], 3)


def test_the_same_number_twice_is_an_error():
    with pytest.raises(ValueError, match=r"^--tokens: got 1000000 twice"):
        parse_budgets(["1e6", "1000000:4"], 3)


@pytest.mark.parametrize(("tokens", "steps", "warmup"), [(32_000, 1000, 100), (33, 2, 1), (8_000, 250, 25)])
def test_a_shorter_run_has_the_same_share_of_warm_up(tokens, steps, warmup):
    sized = with_budget(RECIPE, tokens)
    assert (sized.train.num_steps, sized.optimizer.warmup_steps) == (steps, warmup)
    assert sized.optimizer.decay_steps == 0 and RECIPE.train.num_steps == 1000


@pytest.fixture()
def fakes(monkeypatch):
    """Pre-training and fine-tuning that only remember what they were asked for."""
    asked = []

    def pretrain_suite(suite, config, workdir, num_seeds, variants):
        asked.append((workdir.name, config.train.num_steps, num_seeds))
        if config.train.num_steps > 500:
            raise FloatingPointError("diverged")
        names = variants or tuple(suite.variants)
        found = [Result(name, seed, {"mlm_loss": 9.0 - seed}) for seed in range(num_seeds) for name in names]
        return found, []

    def evaluate_on_tasks(tasks, workdir, inits, seeds, without):
        assert not without
        asked.append((dict(inits), list(seeds)))
        found = [Result(name, seed, {"cola mcc": seed / 4}) for name in inits for seed in seeds]
        return Evaluation(found, {}, {})

    monkeypatch.setattr(learning_curves, "pretrain_suite", pretrain_suite)
    monkeypatch.setattr(downstream, "evaluate_on_tasks", evaluate_on_tasks)
    return asked


def curves(workdir, budgets, tasks):
    judges, variants = Judges(tasks, (), 0), ("mlm_mask", "electra")
    lines = learning_curves.learning_curves(
        "objectives", RECIPE, budgets, variants, judges, workdir, lambda: None
    )
    return list(lines)


def test_every_point_is_a_run_of_its_own_and_random_weights_are_shared(fakes, tmp_path):
    lines = curves(tmp_path, [Budget(3_200, 2), Budget(6_400, 1)], {"cola": {}})
    assert [one for one in fakes if len(one) == 3] == [("tokens_3200", 100, 2), ("tokens_6400", 200, 1)]
    random = f"random:{tmp_path}/tokens_3200/mlm_mask/seed_0"
    assert [one[0]["random"] for one in fakes if len(one) == 2] == [random, random]
    assert fakes[-1] == (
        {
            "tokens_6400/mlm_mask": f"{tmp_path}/tokens_6400/mlm_mask/seed_{{seed}}",
            "tokens_6400/electra": f"{tmp_path}/tokens_6400/electra/seed_{{seed}}",
            "random": random,
        },
        [0],
    )
    contents = json.loads((tmp_path / "curves.json").read_text())
    assert [(point["tokens"], len(point["results"])) for point in contents["points"]] == [
        (3200, 4),
        (6400, 2),
    ]
    assert contents["points"][1]["results"][1] == {
        "model": "electra",
        "seed": 0,
        "settings": {},
        "metrics": {"mlm_loss": 9.0, "cola mcc": 0.0},
    }
    assert [(one["model"], one["seed"]) for one in contents["random"]] == [("random", 0), ("random", 1)]
    assert lines[7].startswith("| 0.0032 M tokens, mlm_mask | 2 | 8.500 (8.000–9.000) |")
    assert lines[12].startswith("| | seeds | cola mcc | cola mcc, mean difference to random |")
    assert lines[14].startswith("| random | 2 | 0.125 (0.000–0.250) |")
    assert (tmp_path / "curves.png").is_file()


def test_a_run_that_diverges_on_a_task_stops_no_number_of_tokens(fakes, monkeypatch, tmp_path):
    def evaluate_on_tasks(tasks, workdir, inits, seeds, without):
        assert not without
        found = [Result(name, seed, {"cola mcc": 0.5} if seed else {}) for name in inits for seed in seeds]
        return Evaluation(found, {}, {}, (f"task cola: of {len(seeds)} seeds the first diverged",))

    monkeypatch.setattr(downstream, "evaluate_on_tasks", evaluate_on_tasks)
    lines, judges = [], Judges({"cola": {}}, (), 0)
    running = learning_curves.learning_curves(
        "objectives", RECIPE, [Budget(3_200, 3), Budget(6_400, 2)], ("electra",), judges, tmp_path, str
    )
    with pytest.raises(FloatingPointError, match="of 3 seeds the first diverged\ntask cola: of 2 seeds the"):
        for line in running:
            lines.append(line)
    assert lines[-2].startswith("| 0.0064 M tokens, electra | 2 | – (1 of 2 seeds)")
    assert lines[-1] == str(tmp_path / "curves.json")
    contents = json.loads((tmp_path / "curves.json").read_text())
    assert contents["diverged_on_tasks"] == [
        f"task cola: of {seeds} seeds the first diverged" for seeds in (3, 2)
    ]
    assert [len(point["results"]) for point in contents["points"]] == [3, 2]


def test_points_before_a_failure_are_kept(fakes, tmp_path):
    with pytest.raises(FloatingPointError, match="diverged"):
        curves(tmp_path, [Budget(3_200, 1), Budget(3_200_000, 1)], {})
    contents = json.loads((tmp_path / "curves.json").read_text())
    assert [point["tokens"] for point in contents["points"]] == [3200] and contents["random"] == []


def test_another_evaluation_of_a_later_point_is_found_before_any_training(fakes, tmp_path):
    later = tmp_path / "tokens_6400" / "electra" / "seed_0"
    later.mkdir(parents=True)
    evaluation = RECIPE.eval.to_dict() | {"max_batches": 5}
    write_json(later / "config.json", {"config": RECIPE.to_dict() | {"eval": evaluation}})
    (later / "metrics.jsonl").write_text('{"step": 200, "eval/mlm_loss": 6.0}\n')
    message = (
        r"tokens_6400/electra/seed_0 was evaluated by other settings:\n.*max_batches: the run has 5, you"
    )
    with pytest.raises(ValueError, match=message):
        curves(tmp_path, [Budget(3_200, 1), Budget(6_400, 1)], {})
    assert fakes == []


def test_a_curve_has_the_numbers_of_tokens_that_its_variant_has():
    points = {
        Budget(10, 2): [Result("a", 0, {"x": 1.0}), Result("a", 1, {"x": 3.0}), Result("b", 0, {"y": 5.0})],
        Budget(20, 1): [Result("a", 0, {"x": 4.0}), Result("b", 0, {"x": 7.0, "y": 6.0})],
    }
    found = curves_of(points, "x")
    assert {name: curve.tokens for name, curve in found.items()} == {"a": [10, 20], "b": [20]}
    del points[Budget(20, 1)][1].metrics["y"]
    assert curves_of(points, "y")["b"].tokens == [10]
    assert [tuple(one) for one in found["a"].summaries] == [(2.0, 1.0, 3.0, 2), (4.0, 4.0, 4.0, 1)]


def test_the_legend_names_the_curves_of_all_panels(monkeypatch, tmp_path):
    def keep(figure, path, **_):
        drawn.append(figure)

    def color_of(line):
        return colors.to_hex(line.get_color())

    drawn = []
    monkeypatch.setattr(Figure, "savefig", keep)
    results = [
        Result("rtd", 0, {"loss": 3.0, "auc": 0.9}),
        Result("mlm", 0, {"loss": 2.0}),  # leaves a gap in the panel of the AUC
        Result("other rtd", 0, {"loss": 3.1, "auc": 0.8}),
        Result("task", 0, {"f1": 0.5, "mcc": 0.4}),  # not in the first panel
    ]
    plot_curves({Budget(10, 1): results}, [Result("random", 0, {"f1": 0.3})], "rtd", tmp_path / "curves.png")
    [figure] = drawn
    legend = figure.axes[0].get_legend()
    named = dict(zip([text.get_text() for text in legend.get_texts()], legend.get_lines(), strict=True))
    assert [*named] == ["rtd", "mlm", "other rtd", "task", "random"]
    assert len({color_of(line) for line in named.values()}) == len(named)
    shown = [(axes.get_ylabel(), line) for axes in figure.axes for line in axes.lines]
    assert [(metric, line.get_label()) for metric, line in shown] == [
        ("loss", "rtd"),
        ("loss", "mlm"),
        ("loss", "other rtd"),
        ("auc", "rtd"),
        ("auc", "other rtd"),
        ("f1", "task"),
        ("f1", "random"),
        ("mcc", "task"),
    ]
    assert len(figure.axes) == 4  # none is empty
    assert {axes.get_xlabel() for axes in figure.axes} == {"tokens of rtd, equal FLOPs"}
    for _, line in shown:
        assert color_of(line) == color_of(named[line.get_label()])
    assert named["random"].get_linestyle() == "--"


def test_pairs_of_every_number_of_tokens_are_kept(fakes, monkeypatch, tmp_path):
    def add_pair_metrics(results, places, max_pairs, workdir, check):
        assert (list(places), max_pairs) == (["blimp"], 5)
        asked.append([f"{workdir.name}/{result.model}" for result in results])
        return [one._replace(metrics=one.metrics | {"pairs x": 0.75}) for one in results], ["a note"]

    asked = []
    monkeypatch.setattr(judging, "add_pair_metrics", add_pair_metrics)
    judges, budgets = Judges({}, ["blimp"], 5), [Budget(3_200, 1), Budget(6_400, 1)]
    lines = list(
        learning_curves.learning_curves(
            "objectives", RECIPE, budgets, ["electra"], judges, tmp_path, lambda: None
        )
    )
    assert asked == [["tokens_3200/electra"], ["tokens_6400/electra"]]
    points = json.loads((tmp_path / "curves.json").read_text())["points"]
    assert all(one["metrics"]["pairs x"] == 0.75 for point in points for one in point["results"])
    assert lines.count("a note") == 1


def test_curves_say_how_long_each_variant_was_trained(fakes, tmp_path):
    lines = curves(tmp_path, [Budget(3_200, 1), Budget(6_400, 1)], {})
    points = json.loads((tmp_path / "curves.json").read_text())["points"]
    assert lines[0].endswith("equal FLOPs, tokens of deberta_v3")
    for point, steps in zip(points, (100, 200), strict=True):
        assert point["tokens"] == steps * 4 * 8  # of deberta_v3, which is not trained
        assert [*point["lengths"]] == ["electra", "mlm_mask"]
        assert all(one["tokens"] == one["num_steps"] * 4 * 8 for one in point["lengths"].values())
        longer = point["lengths"]["mlm_mask"]["num_steps"]
        assert longer > 1.2 * steps
        [line] = [line for line in lines if line.startswith(f"tokens_{point['tokens']}/mlm_mask: ")]
        assert f": {longer} steps, 0.0 M tokens a run, " in line


@pytest.mark.parametrize(
    ("speed", "num_datasets", "hours"),
    [
        (None, 1, {}),
        (50.0, 0, {}),
        # Of 8 tokens in a row 6 are real, and the speed counts only these.
        (50.0, 1, {"hours": 100 * 4 * 6 / 50 / 3600}),
    ],
)
def test_hours_need_the_speed_and_the_tokens_without_padding(
    speed, num_datasets, hours, monkeypatch, tmp_path
):
    monkeypatch.setattr(suites, "measure_backbone", lambda *_: {"mlm_loss": 1.0})
    (tmp_path / "config.json").write_text(json.dumps({"config": RECIPE.to_dict()}))
    train = {"rows": 50, "documents": 9, "tokens": 300}
    read = {"fingerprint": "f", "sources": {"train": ["a"]}, "splits": {"train": train}}
    (tmp_path / "datasets.json").write_text(json.dumps([read] * num_datasets))
    summary = {"steps": 100, "tokens_per_second": speed}
    assert suites.measure_objective(tmp_path, summary) == {"mlm_loss": 1.0} | hours


@pytest.mark.slow
def test_curves_by_command_and_again(data, environment, tmp_path):
    choices = {
        "module": "electra_jax.compare",
        "config": "configs/debug.py",
        "optimizer__warmup_steps": 10,
        "arguments": (
            "--suite=objectives",
            "--variants=mlm_mask",
            "--tokens=4096,2048:1",
            "--seeds=1",
        ),
    }
    outcome = start(tmp_path, data, environment, **choices)
    assert outcome.returncode == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert lines[-1] == str(tmp_path / "curves.json")
    points = json.loads((tmp_path / "curves.json").read_text())["points"]
    assert [point["tokens"] for point in points] == [2048, 4096]
    for point in points:
        (metrics,) = (result["metrics"] for result in point["results"])
        assert set(metrics) == {"mlm_loss", "hours"} and metrics["hours"] > 0
    steps = {
        path.parts[-4]: json.loads(path.read_text())["steps"]
        for path in tmp_path.glob("tokens_*/mlm_mask/seed_0/summary.json")
    }
    # More than 4 and 8: a step of MLM alone costs fewer FLOPs than one of the first variant.
    assert 4 < steps["tokens_2048"] < steps["tokens_4096"] > 8
    again = start(tmp_path, data, environment, **choices)
    assert again.stdout == outcome.stdout and again.stderr.count("the run is complete") == 2
