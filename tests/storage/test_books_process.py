"""The books process answers what is journaled, survives kill -9 and the loss of its file, and lets nobody else in."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from market.homes import Home
from storage.journal import Journal, segments
from tests.storage.books_examples import Story, example_story, payload, transfer

OPERATOR = {"member": "root", "role": "operator"}
ANN = {"member": "ann", "role": "customer"}


class Process:
    """A real books process on a home of its own."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.token_file = home.run / "books.token"
        self.start()

    def start(self) -> None:
        self.home.books_file.unlink(missing_ok=True)
        self.log = (self.home.root / "books.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "market.api.books_process", "--home", str(self.home.root),
             "--port-file", str(self.home.books_file), "--token-file", str(self.token_file)],
            stdout=self.log, stderr=self.log,
        )  # fmt: skip
        while not self.home.books_file.exists():
            assert self.process.poll() is None, (self.home.root / "books.log").read_text()
            time.sleep(0.02)
        self.port = json.loads(self.home.books_file.read_text())["port"]

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        assert self.process.wait() == -signal.SIGKILL
        self.log.close()

    def end(self) -> int:
        self.process.terminate()
        code = self.process.wait(timeout=60)
        self.log.close()
        return code

    def ask(self, name: str, tenant: dict[str, str] = OPERATOR, min_records: int = 0, **params: Any) -> httpx2.Response:
        body = {"name": name, "params": params, "tenant": tenant, "min_records": min_records}
        token = self.token_file.read_text()
        return httpx2.post(
            f"http://127.0.0.1:{self.port}/query", json=body, headers={"Authorization": f"Bearer {token}"}, timeout=60
        )


@pytest.fixture
def story() -> Story:
    return example_story()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make_folders()
    return home


@pytest.fixture
def journal(home: Home, story: Story) -> Iterator[Journal]:
    with Journal.open(home.journal) as journal:
        journal.append(story.records)
        yield journal


@pytest.fixture
def process(home: Home, journal: Journal) -> Iterator[Process]:
    process = Process(home)
    yield process
    if process.process.poll() is None:
        process.kill()


def test_an_answer_holds_the_record_that_was_just_written(process: Process, journal: Journal) -> None:
    for number in range(5):
        journal.append([payload(9, [transfer(f"new{number}", "deposit", "world", "wallet:new", 7)])])
        found = process.ask(
            "sql", min_records=journal.records, sql="SELECT count(*) FROM transfers WHERE id LIKE 'new%'"
        )
        assert found.json()["rows"] == [[number + 1]]
    behind = process.ask("billing", min_records=journal.records + 1)
    assert (behind.status_code, behind.json()["code"]) == (503, "books_behind")


def test_every_question_is_answered(process: Process, journal: Journal, story: Story) -> None:
    records = journal.records
    lines = process.ask("billing", ANN, records, by="job,day", since="2026-11-01", until=None).json()["items"]
    assert [line["day"] for line in lines] == ["2026-11-23", "2026-11-24"]
    assert sum(line["charged_nanos"] for line in lines) == sum(story.charged.values())
    assert process.ask("invoice", ANN, records, job="job-a").json()["billed_nanos"] == sum(story.charged.values())
    assert process.ask("equal", min_records=records).json()["equal"] is True
    verified = process.ask("verify", min_records=records).json()
    assert verified["ok"] is verified["balanced"] is verified["projection_ok"] is True
    assert (verified["records"], verified["head"], verified["first_bad"]) == (records, journal.head, None)
    assert process.ask("rebuild").json() == {"records": records}
    status = process.ask("status").json()
    assert (status["records"], status["pid"], status["failure"]) == (records, process.process.pid, None)


@pytest.mark.parametrize(
    ("name", "tenant", "params", "expected"),
    [
        ("weather", OPERATOR, {}, (422, "query_unknown", None)),
        ("invoice", ANN, {"job": "job-b"}, (404, "job_unknown", "job")),
        ("billing", ANN, {"by": "colour"}, (422, "by_unknown", "by")),
        ("billing", ANN, {"since": "soon"}, (422, "not_an_instant", "since")),
        ("sql", ANN, {"sql": "DROP TABLE jobs"}, (422, "sql_not_a_select", "sql")),
        ("verify", ANN, {}, (403, "operators_only", None)),
        ("rebuild", ANN, {}, (403, "operators_only", None)),
    ],
)
def test_refusals_are_problem_documents(home: Home, shared: Process, name, tenant, params, expected) -> None:
    answer = shared.ask(name, tenant, **params)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["field"]) == expected
    assert problem["message"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Process]:
    home = Home(tmp_path_factory.mktemp("shared") / "home")
    home.make_folders()
    with Journal.open(home.journal) as journal:
        records = example_story().records
        journal.append(records)
    process = Process(home)
    assert process.ask("billing", min_records=len(records)).status_code == 200
    yield process
    assert process.end() == 0
    assert not (home.books / "books.duckdb.wal").exists()


def test_nobody_without_the_secret_is_answered(shared: Process) -> None:
    url = f"http://127.0.0.1:{shared.port}/query"
    body = {"name": "status", "tenant": OPERATOR}
    assert httpx2.post(url, json=body).status_code == 401
    assert httpx2.post(url, json=body, headers={"Authorization": "Bearer guess"}).status_code == 401
    assert shared.token_file.stat().st_mode & 0o777 == 0o600
    assert len(shared.token_file.read_text()) == 64


def test_kill_9_and_a_lost_or_garbled_file_are_survived(process: Process, journal: Journal) -> None:
    expected = process.ask("billing", min_records=journal.records).json()
    database = process.home.books_database

    def garble() -> None:
        database.write_bytes(os.urandom(30_000))

    for harm in (lambda: None, database.unlink, garble):
        process.kill()
        harm()
        journal.append([payload(9, [transfer(f"d-{journal.records}", "deposit", "world", "wallet:z", 1)])])
        process.start()
        assert process.ask("billing", min_records=journal.records).json() == expected
        assert process.ask("equal").json()["equal"] is True


def test_a_file_that_is_deleted_under_the_process_is_made_again(process: Process, journal: Journal) -> None:
    assert process.ask("billing", min_records=journal.records).status_code == 200
    process.home.books_database.unlink()
    journal.append([payload(9, [transfer("late", "deposit", "world", "wallet:z", 1)])])
    found = process.ask("sql", min_records=journal.records, sql="SELECT id FROM transfers WHERE id = 'late'")
    assert found.json()["rows"] == [["late"]]
    assert process.home.books_database.exists()


def test_a_damaged_journal_is_reported_and_old_answers_remain(process: Process, journal: Journal, story: Story) -> None:
    assert process.ask("billing", min_records=journal.records).status_code == 200
    path = segments(process.home.journal)[0]
    with path.open("r+b") as file:  # in place: a file that is empty for a moment is a journal that was rewound
        file.seek(500)
        [byte] = file.read(1)
        file.seek(500)
        file.write(bytes([byte ^ 1]))
    verified = process.ask("verify").json()
    assert verified["ok"] is False
    assert path.name in verified["first_bad"]
    lines = process.ask("billing", by="job").json()["items"]
    assert sum(line["charged_nanos"] for line in lines) == sum(story.charged.values())


def test_a_body_that_is_no_question_is_an_invalid_field(shared: Process) -> None:
    url, headers = f"http://127.0.0.1:{shared.port}/query", {"Authorization": f"Bearer {shared.token_file.read_text()}"}
    for body, field in (({"name": "status", "tenant": {"role": "operator"}}, "tenant.member"), ({"tenant": OPERATOR}, "name")):
        answer = httpx2.post(url, json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "invalid_field", field)
    answer = httpx2.post(url, content=b"{", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_field")
    assert httpx2.get(url, headers=headers).json()["code"] == "wrong_method"


def test_the_process_imports_neither_ray_nor_torch_nor_fastapi() -> None:
    script = "import sys, market.api.books_process; print(sorted({'ray', 'torch', 'duckdb', 'fastapi'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "['duckdb']"
