"""Documents as the market answers them."""

from typing import Any


def offer(id: str = "offer-0000000001", **changed: Any) -> dict[str, Any]:
    """An offer of one core."""
    return {
        "id": id, "provider": "aurora", "gpu": "cpu", "gpus": 1, "gpus_free": 1, "vram_gib": 0, "region": "eu",
        "reliability": 0.99, "usd_per_gpu_hour": 0.3, "price_nanos_per_gpu_hour": 300_000_000, "interruptible": False,
        "isolation": "process", "measured": {"matmul_gflops": 40.0}, "state": "open",
    } | changed  # fmt: skip


def job(id: str = "job-1f2e3d4c5b", **changed: Any) -> dict[str, Any]:
    """A job in the middle of its life."""
    return {
        "id": id, "name": "tiny-gpt", "state": "running", "reason": None, "rounds_committed": 3, "rounds_planned": 14,
        "loss_first": 4.2, "loss_last": 3.1, "workers": [{"id": "lease-000001", "provider": "aurora", "pid": 4711, "state": "active"}],
        "run_pid": 4712, "budget_nanos": 5_000_000_000, "escrow_nanos": 4_990_000_000, "billed_nanos": 10_000_000,
    } | changed  # fmt: skip


def bill(**changed: Any) -> dict[str, Any]:
    """One line of billing."""
    return {
        "job": "job-1f2e3d4c5b", "provider": "aurora", "gpu": "cpu", "period_start": "2026-11-22T10:00:00.000Z",
        "period_end": "2026-11-22T10:01:00.000Z", "gpu_ms": 60_000, "trained_ms": 50_000, "rounds": 14,
        "unit_price_nanos_per_gpu_hour": 300_000_000, "charged_nanos": 5_000_000, "refunded_nanos": 0,
    } | changed  # fmt: skip


def granted(lease: str, provider: str, price_nanos: int = 300_000_000, replaces: str | None = None) -> dict[str, Any]:
    return {"type": "lease_granted", "lease": lease, "epoch": 1, "slot": 0, "job": "job-1f2e3d4c5b", "customer": "customer",
            "offer": f"offer-{provider}", "provider": provider, "gpu": "cpu", "gpus": 1,
            "price_nanos_per_gpu_hour": price_nanos, "replaces": replaces}  # fmt: skip


def committed(
    round: int,
    *leases: str,
    lost: tuple[str, ...] = (),
    loss: float = 3.0,
    manner: dict[str, Any] | None = None,
    **more: int,
) -> dict[str, Any]:
    members = [{"lease": lease, "epoch": 1, "slot": 0, "provider": "p", "loss": loss, "steps": 20, "tokens": 1000,
                "leased_ms": 1000, "trained_ms": 900, "bytes": 10, "contribution": "0" * 64} | more for lease in leases]  # fmt: skip
    return {"type": "round_committed", "job": "job-1f2e3d4c5b", "round": round, "step": round * 20, "digest": "0" * 64,
            "reason": "all members", "duration_ms": 2000, "members": members,
            "lost": [{"lease": lease, "epoch": 1, "reason": "gone"} for lease in lost]} | (manner or {})  # fmt: skip


def ended(lease: str, fault: str) -> dict[str, Any]:
    return {"type": "lease_ended", "lease": lease, "epoch": 1, "job": "job-1f2e3d4c5b", "reason": "silent", "fault": fault,
            "metered_ms": 3000, "charged_ms": 2000, "detail": "no reading for 3 s"}  # fmt: skip


def state(name: str, detail: str = "") -> dict[str, Any]:
    return {"type": "job_state", "job": "job-1f2e3d4c5b", "state": name, "reason": name, "detail": detail}
