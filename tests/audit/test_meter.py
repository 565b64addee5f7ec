from __future__ import annotations

from harden.audit.meter import FALLEN_SHARE, Meter


def heard_by(plan, images):
    heard = []
    return Meter(plan, images, lambda *told: heard.append(told)), heard


def test_later_attacks_are_expected_on_the_images_that_stand():
    meter, heard = heard_by([("first", 3, 1.0), ("second", 10, 1.0)], 100)
    meter.begin(100)
    passes = meter.passes()
    passes.add(100, 100)
    assert heard[-1] == ("first", 200, 300 + 1000)
    meter.end(40)
    meter.begin(40)
    meter.passes().add(40)
    assert heard[-1] == ("second", 240, 200 + 400)


def test_an_attack_on_every_image_spends_less_on_those_that_have_fallen():
    meter, heard = heard_by([("first", 3, 1.0), ("second", 10, 1.0)], 100)
    meter.begin(100)
    meter.passes().add(300)
    meter.end(40)
    meter.begin(100)
    meter.passes().add(10)
    assert heard[-1] == ("second", 310, 300 + round(1000 * (0.4 + FALLEN_SHARE * 0.6)))


def test_an_attack_that_is_done_with_some_images_is_expected_to_spend_as_much_on_the_others():
    meter, heard = heard_by([("search", 1000, 1.0)], 100)
    meter.begin(100)
    passes = meter.passes()
    passes.add(5000)
    passes.settle(25)
    passes.add(100)
    assert heard[-1] == ("search", 5100, 20_000)
    passes.add(20_000)
    assert heard[-1] == ("search", 25_100, 25_100)


def test_what_was_known_already_counts_for_nothing():
    meter, heard = heard_by([("first", 3, 1.0), ("second", 10, 1.0)], 100)
    meter.end(50)
    meter.begin(50)
    meter.passes().add(50)
    assert heard == [("second", 50, 500)]


def test_passes_count_for_what_they_take():
    meter, heard = heard_by([("steps", 4, 1.25), ("search", 100, 1.0)], 10)
    meter.begin(10)
    meter.passes().add(10, 10)
    assert heard[-1] == ("steps", 25, 50 + 1000)
    meter.end(10)
    meter.begin(10)
    meter.passes().add(500)
    assert heard[-1] == ("search", 525, 25 + 1000)
