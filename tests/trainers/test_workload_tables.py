"""The workloads on fixed samples: what they learn, how they draw, and every way in which a table can be wrong."""

import numpy as np
import pytest
import torch

from trainers.child_messages import ChildFailed, checked_metrics
from trainers.loop import InnerLoop
from trainers.metrics import mean_metrics
from trainers.workload import Workload, built_in
from trainers.workloads import BUILT_IN
from trainers.workloads.options import WORKLOADS, OptionError, workload_options
from trainers.workloads.tables import TableError
from trainers.workloads.tabular import Tabular

PEOPLE = "age,job,income,happy\n30,smith,10.5,yes\n40,baker,20.5,no\n50,smith,,yes\n35,tailor,15,no\n45,baker,12,yes\n"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def folder(path, **files):
    for name, text in files.items():
        file = path / f"{name.replace('__', '/')}.csv"
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(text)
    return path


def figures(workload, steps):
    """Held-out loss before and after, and the metrics after."""
    loop = InnerLoop(workload, 1, steps)
    before = loop.evaluate()
    for step in range(0, steps, 20):
        loop.train(step, 20, 0, position=step)
    loop.model.eval()
    with torch.no_grad():
        found = mean_metrics([workload.metrics(loop.model, batch) for batch in workload.held_out()])
    return before, loop.evaluate(), found


LEARNS = [
    ("digits", {"model": "mlp", "reading": "stream"}, "accuracy", 0.75, 1.0),
    ("digits", {"width": 8, "batch": 32}, "accuracy", 0.75, 1.0),
    ("tabular", {"table": "breast_cancer"}, "accuracy", 0.9, 1.0),
    ("tabular", {"table": "iris", "reading": "own"}, "accuracy", 0.85, 1.0),
    ("tabular", {"table": "wine", "batch": 0.25, "depth": 0, "lr": 0.02}, "accuracy", 0.9, 1.0),
    ("tabular", {"table": "diabetes"}, "root_mean_squared_error", 20, 70),
]


@pytest.mark.parametrize(("name", "options", "metric", "low", "high"), LEARNS, ids=[f"{n}-{m}" for n, m, *_ in LEARNS])
def test_built_in_workloads_learn_what_they_are_for(name, options, metric, low, high):
    before, after, found = figures(built_in(name)(options, None, 1), 60)
    assert after < 0.75 * before
    assert list(found) == [metric]
    assert low <= found[metric] <= high


def test_a_fractional_batch_follows_the_samples_here_so_that_contributions_weigh_by_them(tmp_path):
    rows = [f"{n},{n % 2}\n" for n in range(1000)]
    sizes = {}
    for name, count in (("few", 100), ("many", 1000)):
        data = folder(tmp_path / name, rows="x,y\n" + "".join(rows[:count]))
        workload = Tabular({"batch": 0.1, "columns": {"x": {"mean": 500, "deviation": 300}}}, data, 1)
        sizes[name] = workload.tokens(workload.batch(1, 0, 0))
    assert sizes == {"few": 8, "many": 80}


def test_held_out_samples_are_never_drawn_and_all_others_are_within_an_epoch():
    workload = built_in("tabular")({"table": "iris", "reading": "stream", "batch": 40}, None, 1)
    assert workload.streams
    drawn = torch.cat([workload.next_batch(1, 0, 0, index)[0] for index in range(3)])  # 120 rows: an epoch
    as_rows = [tuple(row) for row in drawn.tolist()]
    assert sorted(as_rows) == sorted(tuple(row) for row in workload.train.inputs.tolist())
    held = sum(len(batch[1]) for batch in workload.held_out())
    assert (len(as_rows), held) == (120, 30)


def test_workers_draw_other_samples_and_each_the_same_again():
    for reading in ("random", "own"):
        workload = built_in("digits")({"reading": reading}, None, 1)
        batches = {(s, w): workload.next_batch(1, s, w, 0)[0].numpy().tobytes() for s in (0, 1) for w in (0, 1)}
        assert len(set(batches.values())) == 4
        assert workload.next_batch(1, 1, 1, 77)[0].numpy().tobytes() == batches[1, 1]


def test_workers_may_have_few_labels_only():
    workload = built_in("digits")({"labels_per_worker": 2}, None, 1)
    labels = [set(workload.batch(1, 0, worker)[1].tolist()) for worker in (0, 1, 5)]
    assert labels == [{0, 1}, {2, 3}, {0, 1}]
    with pytest.raises(ValueError, match="labels_per_worker needs reading: random"):
        built_in("digits")({"labels_per_worker": 2, "reading": "stream"}, None, 1)


def test_columns_are_normalised_by_the_training_rows_alone(tmp_path):
    data = folder(tmp_path, train="x,y\n1,a\n3,b\n1,a\n3,b\n", held_out="x,y\n101,b\n")
    workload = Tabular({}, data, 1)
    assert workload.train.inputs.reshape(-1).tolist() == [-1, 1, -1, 1]
    (inputs, targets), *_ = workload.held_out()
    assert (inputs.item(), targets.item()) == (99, 1)


def test_texts_become_categories_and_gaps_the_mean(tmp_path):
    data = folder(tmp_path, a=PEOPLE, held_out__b="age,job,income,happy\n40,welder,,no\n")
    workload = Tabular({"target": "happy"}, data, 1)
    assert [column.categories for column in workload.columns] == [(), ("baker", "smith", "tailor"), ()]
    (inputs, _), *_ = workload.held_out()
    assert inputs.tolist() == [[0, 0, 0, 0, 0]]  # the mean age, a job that nobody has, no income
    assert workload.train.inputs[:, 1:4].sum(dim=1).tolist() == [1] * 5


def test_what_the_job_says_of_columns_makes_one_model_of_different_data(tmp_path):
    told = {"job": ["smith", "baker", "tailor"], "age": {"mean": 40, "deviation": 10}, "happy": ["no", "yes"]}
    shapes = []
    for name, text in (("one", PEOPLE), ("other", "age,job,income,happy\n" + "20,smith,1,yes\n" * 5)):
        workload = Tabular({"target": "happy", "columns": told}, folder(tmp_path / name, rows=text), 1)
        shapes.append([tuple(parameter.shape) for parameter in workload.model().parameters()])
    assert shapes[0] == shapes[1]
    assert workload.train.inputs[0, 0] == -2


def test_the_task_follows_the_target_and_can_be_said(tmp_path):
    text = "x,y\n" + "".join(f"{n},{n % 3}\n" for n in range(30))
    data = folder(tmp_path, rows=text)
    assert Tabular({}, data, 1).task == "classification"
    assert Tabular({"task": "regression"}, data, 1).task == "regression"
    assert Tabular({"columns": {"y": {"mean": 1, "deviation": 1}}}, data, 1).task == "regression"


BAD_TABLES = {
    "no number": ("age,y\n" + "1,a\n" * 19 + "4x,a\n" + "2,b\n" * 5, {}, "line 21, column 'age': '4x' is no finite"),
    "infinite": ("age,y\n1,a\ninf,b\n3,a\n4,b\n", {"columns": {"age": "number"}}, "column 'age': 'inf' is no finite"),
    "long row": ("a,b\n1,2\n1,2,3\n", {}, "rows.csv, line 3: 3 values under 2 names"),
    "no header": ("", {}, "line 1: no header"),
    "delimiter": ("a;b\n1;2\n", {}, "divided by ','"),
    "same name": ("a,a\n1,2\n", {}, "two columns are called 'a'"),
    "no name": ("a,\n1,2\n", {}, "column 2 has no name"),
    "no target": ("a,b\n1,2\n2,3\n", {"target": "c"}, "no column 'c'; they have a, b"),
    "no column": ("a,b\n1,2\n2,3\n", {"columns": {"z": "ignore"}}, "no column 'z'"),
    "nothing left": ("a,b\n1,2\n2,3\n", {"columns": {"a": "ignore"}}, "no column is left"),
    "missing target": ("a,b\n1,x\n2,\n3,x\n4,x\n5,\n", {}, "column 'b': the target is missing"),
    "new class": ("a,b\n" + "1,x\n2,z\n" * 9, {"columns": {"b": ["x", "y"]}}, "'z' is no known class; known: x, y"),
    "texts": ("a,b\n" + "1,x\n2,z\n" * 9, {"task": "regression"}, "column 'b' holds texts"),
    "one row": ("a,b\n1,2\n", {}, "1 rows, too few"),
    "quote": ('a,b\n1,"2\n', {}, "line 2: unexpected end of data"),
    "names": ("id,y\n" + "".join(f"n{n},a\n" for n in range(400)), {}, "different texts, at most 256; columns: {id: ignore}"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_TABLES)
def test_what_is_wrong_with_a_table_is_said_with_its_place(tmp_path, bad):
    text, options, words = BAD_TABLES[bad]
    with pytest.raises(TableError) as refused:
        Tabular(options, folder(tmp_path, rows=text), 1)
    assert words in str(refused.value)


def test_files_that_do_not_fit_together_and_files_that_are_no_text(tmp_path):
    with pytest.raises(TableError, match=r"b\.csv, line 1: other columns than in the file before: c, y"):
        Tabular({}, folder(tmp_path, a="x,y\n1,2\n", b="x,c\n1,2\n"), 1)
    (tmp_path / "a.csv").write_bytes(b"x,y\n\xff,2\n")
    with pytest.raises(TableError, match=r"a\.csv is no UTF-8 text"):
        Tabular({}, tmp_path, 1)
    with pytest.raises(TableError, match=r"no \.csv file"):
        Tabular({}, tmp_path / "nothing", 1)
    with pytest.raises(ValueError, match="needs data"):
        Tabular({}, None, 1)


BAD_OPTIONS = [
    ("digits", {"modle": "cnn"}, "options.modle", "did you mean 'model'"),
    ("digits", {"batch": 1.5}, "options.batch", "a fraction such as 0.05"),
    ("digits", {"batch": True}, "options.batch", "whole number"),
    ("tabular", {"table": "titanic"}, "options.table", "one of breast_cancer"),
    ("tabular", {"columns": {"a": {"mean": 1, "deviation": 0}}}, "options.columns", "a list of all categories"),
    ("tabular", {"lr": float("nan")}, "options.lr", "above 0"),
    ("byte_lm", {"reading": "twice"}, "options.reading", "random, stream, own"),
    ("token_lm", {"vocabulary": 1}, "options.vocabulary", "from 2"),
]


@pytest.mark.parametrize(("name", "options", "field", "words"), BAD_OPTIONS)
def test_bad_options_are_named_with_what_is_allowed(name, options, field, words):
    with pytest.raises(OptionError) as refused:
        workload_options(name, options)
    assert refused.value.field == field
    assert words in refused.value.remedy


def test_every_built_in_has_its_options_and_every_default_is_allowed():
    assert set(WORKLOADS) == set(BUILT_IN)
    for name, table in WORKLOADS.items():
        assert issubclass(built_in(name), Workload)
        defaults = workload_options(name, {})
        assert workload_options(name, {key: value for key, value in defaults.items() if value is not None}) == defaults
        assert all(option.meaning and option.allowed for option in table.values())


def test_a_metric_that_is_no_number_or_comes_under_another_name_is_refused():
    assert mean_metrics([{"a": 1}, {"a": 2.0}]) == {"a": 1.5}
    assert mean_metrics([]) == {}
    with pytest.raises(ValueError, match="'a' = nan"):
        mean_metrics([{"a": float("nan")}])
    with pytest.raises(ValueError, match="for one batch"):
        mean_metrics([{"a": 1.0}, {"b": 1.0}])


@pytest.mark.parametrize(
    ("found", "named"),
    [
        ({f"figure {number}": 0.5 for number in range(17)}, "gave 17 figures; 16 are the most"),
        ({"x" * 41: 0.5}, "'xxx"),
        ({"": 0.5}, "the name ''"),
        ({"two\nlines": 0.5}, r"two\\nlines"),
        ({3: 0.5}, "the name 3"),
        ({"a": True}, "'a' = True"),
        ({"a": "0.5"}, r"use float\(…\)"),
        ({"a": 10**400}, "'a' = 1000"),
        ([0.5], "gave list, no mapping"),
    ],
)
def test_figures_beyond_the_limits_are_refused_in_the_child_and_again_by_its_parent(found, named):
    with pytest.raises(ValueError, match=named):
        mean_metrics([found])
    with pytest.raises(ChildFailed, match=named) as failed:
        checked_metrics(found)
    assert failed.value.kind == "exception"
    assert "metrics()" in failed.value.message


def test_a_workload_without_batches_says_so():
    class Nothing(Workload):
        def model(self):
            return torch.nn.Linear(1, 1)

        def held_out(self):
            return []

        def loss(self, model, batch):
            return torch.zeros(())

    with pytest.raises(TypeError, match="Nothing defines neither batch nor stream_batch"):
        Nothing({}, None, 1).next_batch(1, 0, 0, 0)
    assert not np.any([Nothing({}, None, 1).streams])
