"""What trials say against each other."""

from benchmarks.headline import headline, place_of, promised, ratios_to_ddp, speed_ratio_to_bare
from benchmarks.trials import Job, Trial
from trainers.options import strategy_options


def trial(
    system: str, loss: float, *, steps: int = 600, sent: float | None = None, step_s: float | None = None
) -> Trial:
    chosen = strategy_options({"name": system, "inner_steps": 30}) if system in ("diloco", "ddp") else {}
    return Trial(
        system=system, job=Job(steps=steps), held_out=loss, curve=[(steps, loss, 0.0)], tokens=1,
        sent_bytes_per_step=sent, step_s=step_s, set=dict(chosen),
    )  # fmt: skip


def test_ratios_are_ours_over_theirs_in_the_same_place():
    ddp, elsewhere = trial("ddp", 2.0, sent=4000.0), trial("ddp", 9.0, steps=60, sent=1.0)
    ours = trial("diloco", 2.1, sent=40.0, step_s=0.2)
    assert place_of(ddp) == place_of(ours) != place_of(elsewhere)
    found = ratios_to_ddp([ours], [ddp, elsewhere, ours])
    assert found == {"loss_ratio_to_ddp": 1.05, "bytes_per_token_ratio_to_ddp": 0.01, "fewer_bytes_than_ddp": 100.0}
    assert speed_ratio_to_bare([ours], [trial("bare", 2.0, step_s=0.1)]) == 0.5
    assert ratios_to_ddp([ours], [ours]) == dict.fromkeys(found)


def test_the_headline_is_the_first_strategy_that_is_no_baseline():
    figures = {"diloco.2.loopback.600.loss_ratio_to_ddp": 1.02, "ddp.2.loopback.600.loss_ratio_to_ddp": 1.0}
    assert headline(figures, [trial("ddp", 2.0), trial("diloco", 2.04)]) == {"loss_ratio_to_ddp": 1.02}
    assert headline(figures, [trial("ddp", 2.0), trial("torch_ddp", 2.0)]) == {}


def test_losses_are_promised_for_runs_of_enough_rounds_only():
    for steps, count in ((600, 1), (570, 0)):
        name = f"diloco.2.loopback.{steps}.loss_ratio_to_ddp"
        targets = promised({name: 1.04}, [trial("diloco", 2.0, steps=steps)])
        assert len(targets) == count
        assert not any(target.ok for target in targets.values())


def test_fewer_bytes_are_promised():
    targets = promised({"diloco.2.loopback.60.fewer_bytes_than_ddp": 118.0}, [trial("diloco", 2.0, steps=60)])
    assert [target.ok for target in targets.values()] == [True]
