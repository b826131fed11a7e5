"""What an owner says of its offer, and how much of that others hear."""

from __future__ import annotations

from market.client import Market
from tests.api.square import Json, Square, make_offer, make_spec, refusal


def seen_by(who: Market, offer: str) -> Json:
    return next(one for one in who.offers() if one["id"] == offer)


def test_others_hear_whether_an_offer_is_for_them_and_not_for_whom_it_is_nor_what_its_owner_does(square: Square) -> None:
    owner, region, offer = square.newcomer("provider")[1], square.name("region"), square.name("offer")
    friend_name, friend = square.newcomer("customer")
    stranger = square.newcomer("customer")[1]
    prices = [{"hours": "00:00-24:00", "price_nanos_per_gpu_hour": 7}]
    owner.place_offer(
        make_offer(offer, region, allow=[friend_name], deny=["dora"], max_units_per_customer=1, prices=prices, zone="UTC")
    )
    owner.hold_offer(offer, 1, reason="idle", why="user process 7 game on GPU 0")
    mine, theirs = seen_by(owner, offer), seen_by(stranger, offer)
    assert (mine["allow"], mine["deny"], mine["held"]["why"]) == ([friend_name], ["dora"], "user process 7 game on GPU 0")
    assert (theirs["allow"], theirs["deny"], theirs["held"]["why"], theirs["held"]["gpus"]) == ([], [], "", 1)
    assert [seen_by(one, offer)["for_you"] for one in (friend, stranger)] == [True, False]
    assert theirs["price_nanos_per_gpu_hour"] == 7
    plan = stranger.quote(make_spec(region, workers__min=1, workers__max=1))
    assert (plan["feasible"], plan["reason"]) == (False, "not_for_you")
    assert friend_name not in str(plan)
    assert friend_name not in str(theirs)
    assert seen_by(square.local("operator"), offer)["deny"] == ["dora"]
    wrong = refusal(lambda: owner.place_offer(make_offer(square.name("offer"), region, prices=prices, zone="Mars/Base")))
    assert (wrong.status, wrong.field) == (422, "zone")
