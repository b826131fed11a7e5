"""The Python SDK: a market as an object, over HTTP only.

    with Market("http://127.0.0.1:7070", key) as market:
        market.submit_job("job-0123456789", spec)
        for happening in market.job_events("job-0123456789"):
            print(happening["event"]["type"])

Every method is one route and answers its JSON. Refused and MarketUnreachable are all that they raise, besides
file errors of the caller's own files. Writes carry ids made by the caller, so they are retried without harm; the only
one that is not, making a member (it shows its key once), is tried once.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from market.books_client import PastQuestions
from market.consortium_client import Consortium
from market.consortium_client import items as _items
from market.consortium_client import part as _part
from market.transfers import Transfers
from market.wire import MarketUnreachable, Refused, Wire

__all__ = ["Market", "MarketUnreachable", "Refused"]

Json = dict[str, Any]
Role = Literal["customer", "provider", "operator", "plane"]
OfferAction = Literal["drain", "withdraw", "relist"]
END_OF_STREAM = "end"


class Market(Consortium, PastQuestions):
    """One member's view of one market. Safe to use from several threads; close it or use `with`."""

    def __init__(
        self, url: str, key: str | None = None, *, timeout_s: float = 30.0, patience_s: float = 2.0,
        ca: Path | None = None,
    ) -> None:  # fmt: skip
        self._wire = Wire(url, key, timeout_s=timeout_s, patience_s=patience_s, ca=ca)
        self.blobs = Transfers(self._wire)

    @property
    def url(self) -> str:
        return self._wire.url

    def __enter__(self) -> "Market":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._wire.close()

    # the market itself

    def healthz(self) -> Json:
        """{ok, version, journal_records}; needs no key."""
        return self._wire.json("GET", "/healthz")

    def status(self) -> Json:
        return self._wire.json("GET", "/v1/status")

    def stop_market(self) -> Json:
        """Refuse new work and pause every running job (operator). Answers {jobs_running}."""
        return self._wire.json("POST", "/v1/market/stop", body={})

    def reopen_market(self) -> Json:
        """Jobs that were paused by a stop are pending again (operator)."""
        return self._wire.json("POST", "/v1/market/reopen", body={})

    def set_price_rule(self, rule: str) -> Json:
        """Operators: by which rule seats are priced from the next clearing on (docs/PRICES.md)."""
        return self._wire.json("PUT", "/v1/market/price-rule", body={"rule": rule})

    def set_due_rule(self, patience: int | None, most_ms: int) -> Json:
        """Operators: bids are due when they have waited `patience` times as long as they will take, an hour at least and `most_ms` at
        most; None: never by waiting (docs/CLEARING.md)."""
        return self._wire.json("PUT", "/v1/market/due-rule", body={"patience": patience, "most_ms": most_ms})

    def announce_ray(self, address: str, token_path: str) -> Json:
        """Tell where Ray is (plane)."""
        return self._wire.json("POST", "/v1/market/ray", body={"address": address, "token_path": token_path})

    def ray(self) -> Json:
        """{address, token, versions} (provider, plane); Refused with code ray_starting until it is there."""
        return self._wire.json("GET", "/v1/ray")

    # members

    def members(self) -> list[Json]:
        return _items(self._wire.json("GET", "/v1/members"))

    def add_member(self, member: str, role: Role) -> Json:
        """{member, role, key}: the key is shown this once. Not retried."""
        return self._wire.json("POST", "/v1/members", body={"member": member, "role": role}, repeatable=False)

    def rotate_key(self, member: str, *, grace_ms: int = 3_600_000) -> Json:
        """{member, role, old_until_ms, key}: another key, shown this once (operator). Not retried."""
        body = {"grace_ms": grace_ms}
        return self._wire.json("POST", f"/v1/members/{_part(member)}/rotate", body=body, repeatable=False)

    def revoke_member(self, member: str) -> Json:
        return self._wire.json("POST", f"/v1/members/{_part(member)}/revoke", body={})

    # money

    def deposit(self, id: str, account: str, amount_nanos: int) -> Json:
        """{id, amount_nanos, balance_nanos} (operator)."""
        return self._wire.json(
            "POST", "/v1/deposits", body={"id": id, "account": account, "amount_nanos": amount_nanos}
        )

    def payout(self, id: str, account: str, amount_nanos: int) -> Json:
        """{id, amount_nanos, balance_nanos}: a provider's earnings go out, `balance_nanos` is what is left (operator)."""
        return self._wire.json("POST", "/v1/payouts", body={"id": id, "account": account, "amount_nanos": amount_nanos})

    def balance(self, account: str | None = None) -> Json:
        return self._wire.json("GET", "/v1/balance", params={"account": account})

    def transfers(self, *, account: str | None = None, after: str | None = None, limit: int = 100) -> list[Json]:
        """Newest first; `after` is the id of the last one of the page before."""
        return _items(
            self._wire.json("GET", "/v1/transfers", params={"account": account, "after": after, "limit": limit})
        )

    # offers and leases

    def offers(self) -> list[Json]:
        return _items(self._wire.json("GET", "/v1/offers"))

    def place_offer(self, offer: Mapping[str, Any]) -> Json:
        """`offer`: the fields of an offer with its `id`."""
        return self._wire.json("POST", "/v1/offers", body=dict(offer))

    def change_offer(self, offer: str, action: OfferAction) -> Json:
        return self._wire.json("POST", f"/v1/offers/{_part(offer)}/{action}", body={})

    def set_price(self, offer: str, price_nanos_per_gpu_hour: int) -> Json:
        body = {"price_nanos_per_gpu_hour": price_nanos_per_gpu_hour}
        return self._wire.json("POST", f"/v1/offers/{_part(offer)}/price", body=body)

    def set_lease_times(self, offer: str, **times: Any) -> Json:
        """{id, min_lease_ms, max_lease_ms, maintenance, maintenance_next, version}. What is not named stays: `min_lease_ms` and
        `max_lease_ms` (None: no bound) count for leases to come, `maintenance` is the list of all its windows."""
        return self._wire.json("POST", f"/v1/offers/{_part(offer)}/lease-times", body=times)

    def secrets(self) -> list[Json]:
        """One's own secrets: [{name, set_ms, used_by}]."""
        items: list[Json] = self._wire.json("GET", "/v1/secrets")["items"]
        return items

    def set_secret(self, name: str, value: str) -> Json:
        """{name, set_ms, used_by}; the value is sealed by the market and never shown again."""
        return self._wire.json("PUT", f"/v1/secrets/{_part(name)}", body={"value": value})

    def remove_secret(self, name: str) -> Json:
        """{name, removed}; refused while an open job names it."""
        return self._wire.json("DELETE", f"/v1/secrets/{_part(name)}")

    def rekey_secrets(self) -> Json:
        """Seal everybody's secrets with a new key; {sealed, damaged}. Operators only."""
        return self._wire.json("POST", "/v1/market/secrets/rekey", body={})

    def lease_secrets(self, lease: str, *, epoch: int) -> dict[str, str]:
        """Values by name of what the job of a living lease names; for the provider that has it."""
        found: dict[str, str] = self._wire.json("GET", f"/v1/leases/{_part(lease)}/secrets", params={"epoch": epoch})["secrets"]
        return found

    def hold_offer(
        self, offer: str, gpus: int, *, reason: str = "reclaim", why: str = "", until_ms: int | None = None,
        leases: Sequence[str] = (),
    ) -> Json:  # fmt: skip
        """The owner takes `gpus` units back, 0 releases them; `leases` get notice. {id, state, held}."""
        body = {"gpus": gpus, "reason": reason, "why": why, "until_ms": until_ms, "leases": list(leases)}
        return self._wire.json("POST", f"/v1/offers/{_part(offer)}/hold", body=body)

    def report_measured(self, offer: str, *, seed: int, measured: Mapping[str, float]) -> Json:
        """{id, measured, doubt, strikes}: the answer to the measurement that the market asked for."""
        return self._wire.json("POST", f"/v1/offers/{_part(offer)}/measured", body={"seed": seed, "measured": dict(measured)})

    def leases(self, offer: str, *, wait_s: float = 0, seen: str | int | None = None) -> Json:
        """{version, offer, earned_nanos, leases}; also the offer's heartbeat. Answers at once when version ≠ seen."""
        params = {"offer": offer, "wait_s": wait_s, "seen": seen}
        return self._wire.json("GET", "/v1/leases", params=params, wait_s=wait_s)

    def lease_started(
        self, lease: str, *, epoch: int, worker: str, pid: int, node: str, meter_key: str = "", machine: Json | None = None
    ) -> Json:
        """`meter_key`: the public key (hex) by which this worker signs its meter; `machine`: what it runs on, signed."""
        body: Json = {"epoch": epoch, "worker": worker, "pid": pid, "node": node, "meter_key": meter_key}
        if machine is not None:
            body["machine"] = machine
        return self._wire.json("POST", f"/v1/leases/{_part(lease)}/started", body=body)

    def lease_ended(self, lease: str, *, epoch: int, reason: str, detail: str = "") -> Json:
        body = {"epoch": epoch, "reason": reason, "detail": detail}
        return self._wire.json("POST", f"/v1/leases/{_part(lease)}/ended", body=body)

    # jobs

    def quote(self, spec: Mapping[str, Any]) -> Json:
        """The plan for a job that is not submitted."""
        return self._wire.json("POST", "/v1/quotes", body={"spec": dict(spec)})

    def submit_job(self, id: str, spec: Mapping[str, Any]) -> Json:
        return self._wire.json("POST", "/v1/jobs", body={"id": id, "spec": dict(spec)})

    def jobs(self) -> list[Json]:
        return _items(self._wire.json("GET", "/v1/jobs"))

    def job(self, job: str) -> Json:
        return self._wire.json("GET", f"/v1/jobs/{_part(job)}")

    def cancel_job(self, job: str) -> Json:
        return self._wire.json("POST", f"/v1/jobs/{_part(job)}/cancel", body={})

    def add_budget(self, job: str, *, id: str, add_nanos: int) -> Json:
        return self._wire.json("POST", f"/v1/jobs/{_part(job)}/budget", body={"id": id, "add_nanos": add_nanos})

    def retune_job(
        self, job: str, *, id: str, strategy: str | None = None, options: Mapping[str, Any] | None = None
    ) -> Json:
        """Another strategy, or other options of it, from the next round boundary on; answers the job."""
        body = {"id": id, "strategy": strategy, "options": dict(options or {})}
        return self._wire.json("POST", f"/v1/jobs/{_part(job)}/retune", body=body)

    def explain(self, job: str) -> Json:
        return self._wire.json("GET", f"/v1/jobs/{_part(job)}/explain")

    def rounds(self, job: str) -> list[Json]:
        return _items(self._wire.json("GET", f"/v1/jobs/{_part(job)}/rounds"))

    def checkpoints(self, job: str) -> Json:
        """{items, rounds}: the checkpoints that are kept, and every round that they lead to."""
        return self._wire.json("GET", f"/v1/jobs/{_part(job)}/checkpoints")

    def result(self, job: str, *, round: int | None = None) -> Json:
        """{digest, manifest}: the checkpoint that the job ended with, or one that leads to `round`."""
        params = {} if round is None else {"round": round}
        return self._wire.json("GET", f"/v1/jobs/{_part(job)}/result", params=params)

    def provenance(self, job: str) -> Json:
        """The signed bundle that `torg verify` checks offline."""
        return self._wire.json("GET", f"/v1/jobs/{_part(job)}/provenance")

    def job_logs(
        self, job: str, *, after: int = 0, wait_s: float = 0, tail: int | None = None, since_ms: int | None = None
    ) -> Json:
        """{text, next, over}: what was printed from byte `after` on; ask again with `next` until `over`. The first time
        `tail` (lines) and `since_ms` (since the epoch) say where to begin in what is there.
        """
        params = {"after": after, "wait_s": wait_s, "tail": tail, "since_ms": since_ms}
        return self._wire.json("GET", f"/v1/jobs/{_part(job)}/logs", params=params, wait_s=wait_s)

    def job_events(self, job: str, *, after: int = 0) -> Iterator[Json]:
        """{number, index, at_ms, event} of one job as they become durable, until its final state.

        `number` is the journal record, `index` the event within it. A cut connection is made again without a gap or a
        repetition; MarketUnreachable is raised when the market stays away for longer than the patience.
        """
        last = (after, -1)
        fresh = True
        while True:
            whole = after if fresh else last[0] - 1
            try:
                for name, happening in self._read_events(job, max(whole, 0)):
                    if name == END_OF_STREAM:
                        return
                    place = (int(happening["number"]), int(happening["index"]))
                    if fresh or place > last:
                        last, fresh = place, False
                        yield happening
            except MarketUnreachable:
                self.job(job)  # patient: returns when the market is back, raises when it is not

    def _read_events(self, job: str, after: int) -> Iterator[tuple[str, Json]]:
        with self._wire.stream(f"/v1/jobs/{_part(job)}/events", params={"after": after}) as answer:
            name, data = "message", ""
            for line in _lines(answer.iter_text(), self.url):
                if line.startswith("event:"):
                    name = line[6:].strip()
                elif line.startswith("data:"):
                    data += line[5:].strip()
                elif not line and (data or name != "message"):
                    yield name, json.loads(data) if data else {}
                    name, data = "message", ""

    def open_session(self, job: str, order: Mapping[str, Any]) -> Json:
        """{session, lease, provider}: a session inside the job's command. order: {kind: exec, shell, put or get, …}. Not
        repeated: each is another one, whose frames `trainers.sessions.line` carries.
        """
        return self._wire.json("POST", f"/v1/jobs/{_part(job)}/sessions", body=dict(order), repeatable=False)

    # runs (plane)

    def runs(self, *, wait_s: float = 0, seen: str | int | None = None) -> Json:
        """{version, runs}: the jobs that need a run now."""
        return self._wire.json("GET", "/v1/runs", params={"wait_s": wait_s, "seen": seen}, wait_s=wait_s)

    def directive(self, job: str, *, wait_s: float = 0, seen: str | int | None = None) -> Json:
        """What the market wants of this job's run now."""
        params = {"wait_s": wait_s, "seen": seen}
        return self._wire.json("GET", f"/v1/jobs/{_part(job)}/run", params=params, wait_s=wait_s)

    def report_round(self, report: Mapping[str, Any]) -> Json:
        """{job, round, step, digest, reason, duration_ms, members, lost} → {version}. May also say strategy, tuning,
        attempts, late, warned, and of members sent_bytes, received_bytes, stall_ms."""
        return self._wire.json("POST", "/v1/rounds", body=dict(report))

    def report_readings(
        self,
        job: str,
        *,
        run_pid: int,
        readings: Sequence[Mapping[str, Any]] = (),
        evaluated: Sequence[Mapping[str, Any]] = (),
        lost: Sequence[Mapping[str, Any]] = (),
        logs: Sequence[Mapping[str, Any]] = (),
    ) -> Json:
        body = {"job": job, "run_pid": run_pid, "readings": list(readings), "evaluated": list(evaluated)}
        return self._wire.json("POST", "/v1/readings", body={**body, "lost": list(lost), "logs": list(logs)})

    def report_checkpoint(self, report: Mapping[str, Any]) -> Json:
        """{job, round, step, manifest, bytes, stall_ms, removed} → {version}. May also say kind (base, delta) and
        base_round."""
        return self._wire.json("POST", "/v1/checkpoints", body=dict(report))

    def report_save(self, report: Mapping[str, Any]) -> Json:
        """{job, number, lease, epoch, manifest, bytes} → {version}: what a batch job's command has saved is kept."""
        return self._wire.json("POST", "/v1/saves", body=dict(report))

    def report_attempt(self, report: Mapping[str, Any]) -> Json:
        """{job, number, lease, epoch, kind, code, signal, duration_ms, detail, manifest} → {version}: a try of a batch job's
        command has ended by itself."""
        return self._wire.json("POST", "/v1/attempts", body=dict(report))

    def report_halted(
        self, job: str, *, state: str, reason: str, detail: str = "", round: int, manifest: str | None = None,
        run: int | None = None,
    ) -> Json:  # fmt: skip
        body = {"state": state, "reason": reason, "detail": detail, "round": round, "manifest": manifest, "run": run}
        return self._wire.json("POST", f"/v1/jobs/{_part(job)}/halted", body=body)

    # bytes, for which there is more in `self.blobs`

    def missing_blobs(self, digests: Sequence[str]) -> list[str]:
        """Those that the market does not hold whole."""
        return self.blobs.missing(digests)

    def upload(self, source: Path | bytes) -> str:
        """Bring a file or bytes to the market and answer the digest; what is already there is not sent again."""
        return self.blobs.upload(source)

    def upload_all(self, blobs: Sequence[tuple[str, bytes | memoryview]]) -> list[str]:
        """Send small blobs in one request; the digests of those that have other bytes than these say, which are not kept."""
        return self.blobs.upload_all(blobs)

    def upload_files(self, files: Mapping[str, Path]) -> None:
        """Bring small files to the market, each under the digest that it has, in one request."""
        self.blobs.upload_files(files)

    def download(self, digest: str, target: Path, progress: Callable[[int], None] = lambda _: None) -> None:
        """Fetch a blob into a file; a cut transfer goes on where it was, and the digest is checked. `progress` gets the
        bytes that are there.
        """
        self.blobs.download(digest, target, progress)

    def read_blob(self, digest: str) -> bytes:
        return self.blobs.read(digest)


def _lines(pieces: Iterator[str], url: str) -> Iterator[str]:
    """Whole lines of a stream that may be cut anywhere; a stream that ends without `end` is a cut one."""
    rest = ""
    for piece in pieces:
        rest += piece
        *whole, rest = rest.split("\n")
        yield from (line.rstrip("\r") for line in whole)
    raise MarketUnreachable(url, "the stream was cut")
