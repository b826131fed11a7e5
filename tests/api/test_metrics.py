"""The figures of a market that works, and the alerts that stand on them."""

import re
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from market.archive_standing import note_archive_error
from market.homes import Home, write_json
from storage.mirror_places import MirrorPlace, Mirrors
from tests.api.square import USD, FakeProvider, FakeRun, Square, make_offer, make_spec, refusal, until

ROOT = Path(__file__).parents[2]
RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "examples" / "monitoring" / "alerts.yml").read_text())["groups"][0]["rules"]  # fmt: skip
PAGE = (ROOT / "docs" / "OPERATING.md").read_text(encoding="utf-8")
_SELECTOR = re.compile(r"(torg_\w+)(?:\{([^}]*)\})?")
_LABEL = re.compile(r"(\w+)(=~?)\"([^\"]*)\"")
Samples = dict[str, list[tuple[dict[str, str], float]]]


def scrape(square: Square) -> Samples:
    """Every sample by name, as Prometheus reads them."""
    found: Samples = {}
    for family in text_string_to_metric_families(httpx2.get(f"{square.url}/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return next((number for found, number in samples.get(name, []) if found == labels), 0.0)


def test_there_are_thirteen_alerts_and_each_is_explained() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names)) == 13
    assert re.findall(r"^### (\w+)$", PAGE, re.M) == names
    assert {rule["labels"]["severity"] for rule in RULES} == {"page", "ticket"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_what_an_alert_reads_is_in_a_real_scrape(square: Square, rule: dict[str, Any]) -> None:
    samples = scrape(square)
    selectors = _SELECTOR.findall(rule["expr"])
    assert selectors or rule["expr"].startswith("up{"), "only `up` is Prometheus's own"
    for name, condition in selectors:
        assert name in samples, name
        for label, how, wanted in _LABEL.findall(condition):
            values = {labels[label] for labels, _ in samples[name]}
            known = [one for one in values if re.fullmatch(wanted, one)]
            assert known or wanted == "5..", f"{name} has no {label} {how} {wanted}: {values}"


def test_every_figure_that_the_page_names_is_there(square: Square) -> None:
    """Also those that have no sample yet, because nothing was refused or waits."""
    found = {family.name for family in text_string_to_metric_families(httpx2.get(f"{square.url}/metrics").text)}
    named = {name.removesuffix("_total") for name in re.findall(r"`(torg_\w+)`", PAGE)}
    assert named <= found, named - found


def test_the_archive_of_the_journal_is_in_the_figures_and_in_the_status(square: Square, tmp_path: Path) -> None:
    operator = square.local("operator")
    assert operator.status()["archive"] is None
    assert value(scrape(square), "torg_archive_failing") == 0
    home, away = Home(Path(operator.status()["home"])), tmp_path / "away"
    away.touch()  # a file: nothing can be put there
    write_json(home.mirrors_file, Mirrors(archive=MirrorPlace(str(away))).to_json(), mode=0o600)

    def standing() -> dict[str, Any]:
        note_archive_error(home, "it is not mounted")  # the market's own archiver may say something else in between
        return cast(dict[str, Any], operator.status()["archive"])

    def is_failing() -> bool:
        note_archive_error(home, "it is not mounted")
        return value(scrape(square), "torg_archive_failing") == 1

    try:
        until(lambda: standing()["error"], "the status tells what keeps segments from the archive")
        assert (standing()["place"], standing()["archived"]) == (str(away), 0)
        until(is_failing, "the figures tell that something does")
        _, ann = square.newcomer("customer", 10 * USD)
        assert ann.status()["archive"] is None, "operators only"
    finally:
        home.mirrors_file.unlink()
        home.archive_file.unlink(missing_ok=True)
    assert value(scrape(square), "torg_archive_failing") == 0


def test_figures_follow_what_happens(square: Square) -> None:
    region, job = square.name("region"), square.name("job")
    _, ann = square.newcomer("customer", 10 * USD)
    _, host = square.newcomer("provider")
    ann.submit_job(job, make_spec(region, workers__min=1, workers__max=1))
    before = scrape(square)
    assert sum(number for _, number in before["torg_jobs_unmatched"]) >= 1, "it waits for hardware"
    machine = FakeProvider(host, make_offer(square.name("offer"), region))
    try:
        run = FakeRun(square.local("plane"), job)
        workers = run.workers(1)
        for _ in range(12):
            run.read(workers)
            run.report(workers)
        after = scrape(square)
        assert value(after, "torg_rounds") >= value(before, "torg_rounds") + 12
        assert value(after, "torg_rounds_not_durable") >= 12, "none of them is durable yet"
        assert value(after, "torg_leases", state="active") >= 1
        kind = "torg_commands_by_kind_total"
        assert value(after, kind, kind="ReportRound") >= value(before, kind, kind="ReportRound") + 24
        run.checkpoint()
        assert value(scrape(square), "torg_rounds_not_durable") < 12
        refusal(lambda: ann.add_budget(job, id="b-1", add_nanos=100 * USD))
        refused = scrape(square)
        code = "torg_refusals_by_code_total"
        assert value(refused, code, code="insufficient_funds") > value(after, code, code="insufficient_funds")
        for name, expected in (("torg_balance_sum_nanos", 0), ("torg_balanced", 1), ("torg_books_up", 1)):
            assert value(refused, name) == expected
        assert 0 < value(refused, "torg_disk_free_bytes") <= value(refused, "torg_disk_size_bytes")
        with ann._wire.stream(f"/v1/jobs/{job}/events") as stream:
            pieces = stream.iter_text()  # kept: one that is collected closes the stream
            assert next(pieces)
            assert value(scrape(square), "torg_event_streams") >= 1
        text = httpx2.get(f"{square.url}/metrics").text
        assert not [name for name in (job, region, "customer-", "provider-") if name in text], "it names nobody"
    finally:
        machine.close()
        ann.cancel_job(job)
