"""Real trainer children: they train, and every way in which customer code can fail or attack ends in a clear word."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from trainers.child_process import ChildFailed, JobPackage, NotFiniteNumbers, TrainerChild
from trainers.job_code import ImportFailed, find_workload
from trainers.sandbox import isolation_level

SOURCE = Path(__file__).with_name("customers_model.py").read_bytes()
BYTES = {"kind": "builtin", "name": "byte_lm"}
CUSTOMER = {"kind": "file", "digest": "", "class_name": "Customer", "filename": "customers_model.py"}
MEMORY = 512 << 20
READY_S = 120

needs_bubblewrap = pytest.mark.skipif(isolation_level() != "sandbox", reason="bubblewrap does not run here")
every_isolation = pytest.mark.parametrize("isolation", [pytest.param("sandbox", marks=needs_bubblewrap), "process"])


@pytest.fixture
def spawn(tmp_path):
    """Start children that end with the test."""
    children = []

    def start(isolation="process", shares=None):
        scratch = tmp_path / f"scratch-{len(children)}"
        (scratch / "data").mkdir(parents=True)
        made = {"threads": 1, "memory_limit_bytes": MEMORY, "shares": shares or {}, "isolation": isolation}
        children.append(TrainerChild.spawn(scratch=scratch, **made))
        children[-1].scratch = scratch
        return children[-1]

    yield start
    for child in children:
        child.kill()


def job(workload, **options):
    return {"workload": workload, "options": options, "seed": 3, "steps": 40, "data": {"kind": "none"}}


def loaded_customer(spawn, isolation="process", **options):
    child = spawn(isolation)
    child.wait_ready(READY_S)
    return child, child.load(JobPackage(job(CUSTOMER, **options), SOURCE, None), 60).initial


def train(child, parameters, *, first_step=0, steps=4, evaluate=False, timeout_s=60.0):
    round = first_step // steps + 1
    return child.train(
        parameters, round=round, first_step=first_step, steps=steps, worker=0, evaluate=evaluate, timeout_s=timeout_s
    )


def test_byte_lm_trains_and_gives_the_same_bits_in_every_isolation(spawn, tmp_path):
    """Two children side by side, one of them sandboxed where possible, its data a share: equal to the last bit."""
    text = b"".join(b"line %d of a text that repeats itself\n" % n for n in range(2000))
    share = tmp_path / "text"
    share.mkdir()
    (share / "a.txt").write_bytes(text)
    ours, theirs = spawn("process"), spawn(isolation_level(), shares={"text": share})
    (ours.scratch / "data" / "a.txt").write_bytes(text)
    outcomes = []
    for child, folder in ((ours, str(ours.scratch / "data")), (theirs, "share:text")):
        child.wait_ready(READY_S)
        assert child.seccomp
        loaded = child.load(JobPackage(job(BYTES, size="100k", context=32, batch=4), None, folder), 60)
        assert sum(tensor.size for tensor in loaded.tensors) == loaded.initial.size
        first = train(child, loaded.initial, steps=10, evaluate=True)
        second = train(child, first.parameters, first_step=10, steps=10)
        assert first.held_out_loss == pytest.approx(np.log(256), abs=0.5)
        assert second.losses[-1] < first.losses[0] - 0.5
        assert second.tokens == 10 * 4 * 32
        assert child.evaluate(second.parameters) < first.held_out_loss
        assert child.rss_bytes() > 1 << 20
        outcomes.append((loaded.initial.tobytes(), first.losses, second.parameters.tobytes()))
    assert outcomes[0] == outcomes[1]


@every_isolation
def test_customer_code_cannot_start_processes_reach_the_network_or_see_the_environment(spawn, tmp_path, isolation):
    key = tmp_path / "key"
    key.write_text("secret")
    key.chmod(0o600)
    child, parameters = loaded_customer(spawn, isolation, do="attack", key=str(key), parent_pid=os.getpid())
    trained = train(child, parameters, steps=1)
    assert np.isfinite(trained.parameters).all()
    child.kill()
    said = dict(line.split(": ", 1) for line in child.read_log() if ": " in line)
    refused = ["fork", "subprocess", "exec", "tcp", "unix", "unshare", "memory_file"]
    if os.uname().machine == "x86_64":
        refused.append("raw_fork")
    if isolation == "sandbox":
        refused += ["key", "write_system", "parents_memory", "kill_parent"]
    assert {name: said[name].split()[0] for name in refused} == dict.fromkeys(refused, "refused")
    assert said["start_thread"] == "DONE a thread"
    fixed = {"HOME", "LANG", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PATH", "PYTHONHASHSEED",
             "PYTHONPATH", "TMPDIR", "PWD", "LC_CTYPE", "CUDA_VISIBLE_DEVICES", "GLIBC_TUNABLES"}  # fmt: skip
    assert {
        name for name in said["environment"].split(",") if not name.startswith(("TORCH", "KMP", "MALLOC_"))
    } <= fixed
    assert said["scratch"] == "['data']"


FAILURES = [
    ("raise_error", "exception", "RuntimeError: my own mistake"),
    ("measure_too_much", "exception", "ValueError: metrics() gave 17 figures; 16 are the most"),
    ("die_quietly", "died", "exited with status 7 while training round 1"),
]
"""Further ones, with their jobs: tests/bad_input/test_customers_code.py. Each costs the import of torch."""


@pytest.mark.parametrize(("do", "kind", "words"), FAILURES, ids=[do for do, _, _ in FAILURES])
def test_a_failing_workload_is_named_and_its_child_ended(spawn, do, kind, words):
    child, parameters = loaded_customer(spawn, do=do)
    with pytest.raises(ChildFailed) as failed:
        child.evaluate(train(child, parameters).parameters)
    assert failed.value.kind == kind
    assert words in failed.value.message
    if do == "raise_error":
        assert 'customers_model.py", line' in failed.value.traceback
        assert 'raise RuntimeError("my own mistake")' in failed.value.traceback
    assert "making the model" in child.read_log()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
    with pytest.raises(ChildFailed, match="died"):
        train(child, parameters)


def test_numbers_that_are_not_finite_cost_the_call_and_the_child_serves_on(spawn):
    child, parameters = loaded_customer(spawn, do="make_nan_at_first")
    inner = child.export_inner().content()
    assert child.evaluate(parameters) is None, "a held-out loss that is not finite is none"
    with pytest.raises(NotFiniteNumbers, match="the loss is nan at step 0"):
        train(child, parameters)
    child.import_inner(inner)
    assert child.evaluate(train(child, parameters).parameters) is not None


BAD_FILES = {
    "does not import": (b"import numpy\nimport no_such_thing\n", "No module named 'no_such_thing'"),
    "is no python": (b"def broken(:\n", "invalid syntax"),
    "has no workload": (b"x = 1\n", "it defines none"),
    "has another": (SOURCE.replace(b"class Customer", b"class Other"), "no Workload named Customer; it defines Other"),
}


@pytest.mark.parametrize("bad", BAD_FILES)
def test_a_file_that_is_no_workload(bad):
    source, words = BAD_FILES[bad]
    with pytest.raises(ImportFailed, match=words):
        find_workload(CUSTOMER, source)


def test_silence_is_a_hang_whether_the_code_runs_an_event_loop_or_the_process_is_frozen(spawn):
    looping, frozen = spawn(), spawn()
    for child in (looping, frozen):
        child.wait_ready(READY_S)
    parameters = looping.load(JobPackage(job(CUSTOMER, do="serve_for_ever"), SOURCE, None), 60).initial
    frozen.load(JobPackage(job(CUSTOMER), SOURCE, None), 60)
    os.kill(frozen.pid, signal.SIGSTOP)
    for child in (looping, frozen):
        with pytest.raises(ChildFailed) as failed:
            train(child, parameters, timeout_s=0.5)
        assert failed.value.kind == "hang"
        assert "training round 1" in failed.value.message


@every_isolation
def test_a_killed_child_is_reported_at_once_with_its_signal(spawn, isolation):
    child, parameters = loaded_customer(spawn, isolation, do="hang")
    threading.Timer(0.2, os.kill, (child.pid, signal.SIGKILL)).start()
    with pytest.raises(ChildFailed) as failed:
        train(child, parameters, timeout_s=120)
    assert failed.value.kind == "died"
    assert "killed by signal 9" in failed.value.message


def test_kill_from_another_thread_ends_a_call_in_progress(spawn):
    child, parameters = loaded_customer(spawn, do="hang")
    threading.Timer(0.2, child.kill).start()
    with pytest.raises(ChildFailed, match="died"):
        train(child, parameters, timeout_s=120)
