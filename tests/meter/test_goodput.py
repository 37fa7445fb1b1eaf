from mfu_callback.meter.goodput import PARTS, WallTime


class FakeNow:
    seconds = 1000.0

    def __call__(self):
        return self.seconds


def test_the_parts_sum_to_the_wall_time():
    now = FakeNow()
    wall = WallTime(now)
    now.seconds += 10
    wall.rest_is("setup")
    now.seconds += 3
    wall.rest_is("sanity")
    now.seconds += 40
    wall.add("training", 30)
    wall.add("validation", 8)
    parts = wall.until_now()
    assert tuple(parts) == PARTS
    assert {part: seconds for part, seconds in parts.items() if seconds} == {
        "setup": 10,
        "sanity": 3,
        "training": 30,
        "validation": 8,
        "rest": 2,
    }


def test_clocks_that_differ_a_little_make_no_negative_rest():
    now = FakeNow()
    wall = WallTime(now)
    now.seconds += 1
    wall.add("training", 1.001)
    assert wall.until_now()["rest"] == 0
