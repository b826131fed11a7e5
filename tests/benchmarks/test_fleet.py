"""The fleet of the benchmarks is driven by the product's course, through the product's interface."""

from benchmarks.fleet import FleetTransport
from trainers.actors.transport import Transport


def test_the_fleets_transport_can_all_that_a_course_asks_of_one():
    asked = {name for name, value in vars(Transport).items() if callable(value) and not name.startswith("_")}
    assert asked
    assert asked <= set(dir(FleetTransport))
