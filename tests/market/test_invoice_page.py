"""An invoice as a page says what the invoice says, to the nano, and nothing in it is anybody's markup."""

from html.parser import HTMLParser
from typing import Any

import pytest

from market.invoice_page import invoice_page
from storage.bills import bill_of, totals_of_lines
from tests.storage.books_examples import example_story

Json = dict[str, Any]


class Text(HTMLParser):
    """The text of a page, what tags it has, and whether anything is fetched or run."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: set[str] = set()
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: str) -> Text:
    found = Text()
    found.feed(page)
    return found


@pytest.fixture
def invoice() -> Json:
    import json

    events = []
    for record in example_story().records:
        body = json.loads(record)
        events += [(body["at_ms"], one) for one in body["events"] if "job-a" in (one.get("job"),) or one.get("lease") in ("lease-000001", "lease-000002")]
    return bill_of(events)


def test_every_amount_of_the_invoice_is_on_the_page(invoice: Json) -> None:
    found = read(invoice_page(invoice))
    text = " ".join(found.words)
    assert "Invoice job-a" in text
    assert "$0.011289791" in text  # billed
    assert "$0.000564489" in text
    assert "$0.00006825" in text
    assert "$0.450000001" in text
    assert "metered, not charged" in text
    assert "final" in text
    assert "draft" not in text
    assert "$5.00" in text
    assert "over" in found.words  # a reason that the table of faults does not know
    killed = [{**line, "end_reason": "worker_killed"} for line in invoice["lines"]]
    assert "the worker process died" in invoice_page(invoice | {"lines": killed})
    assert not found.tags & {"script", "link", "img", "iframe"}
    assert not found.names & {"src", "href", "onload", "style"}


def test_a_job_that_goes_on_has_a_draft(invoice: Json) -> None:
    assert "draft: the job goes on" in invoice_page(invoice | {"state": "running", "escrow_nanos": 7})
    assert "$0.000000007" in invoice_page(invoice | {"state": "running", "escrow_nanos": 7})


def test_a_providers_invoice_has_no_payments(invoice: Json) -> None:
    lines = [line for line in invoice["lines"] if line["provider"] == "p1"]
    names = ("job", "name", "customer", "state", "submitted_at")
    page = invoice_page({**{name: invoice[name] for name in names}, "lines": lines, **totals_of_lines(lines)})
    assert "Payments" not in page
    assert "p2" not in read(page).words


def test_a_name_is_text_whatever_it_looks_like(invoice: Json) -> None:
    evil = "</title><script>alert(1)</script><img src=x onerror=y>"
    lines = [{**invoice["lines"][0], "provider": evil, "gpu": evil, "end_reason": evil}]
    page = invoice_page(invoice | {"name": evil, "customer": evil, "lines": lines}, evil)
    found = read(page)
    assert not found.tags & {"script", "img"}
    assert sum(evil in word for word in found.words) >= 5
