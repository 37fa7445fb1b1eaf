from mfu_callback.tools.brackets import Brackets


class Loop:
    def run(self):
        return "ran"


def shouting(function):
    return lambda: function().upper()


def test_a_bracket_is_around_one_object_and_comes_off_without_a_trace():
    loop, other, brackets = Loop(), Loop(), Brackets()
    brackets.put(loop, "run", shouting)
    assert (loop.run(), other.run()) == ("RAN", "ran")
    brackets.remove()
    assert loop.run() == "ran"
    assert vars(loop) == {}


def test_a_method_that_was_replaced_before_is_put_back():
    loop, brackets = Loop(), Brackets()
    loop.run = replaced = lambda: "replaced"
    brackets.put(loop, "run", shouting)
    assert loop.run() == "REPLACED"
    brackets.remove()
    assert loop.run is replaced


def test_a_bracket_can_come_off_by_itself_and_removing_all_later_does_no_harm():
    loop, brackets = Loop(), Brackets()
    take_off = brackets.put(loop, "run", shouting)
    take_off()
    take_off()
    brackets.remove()
    assert vars(loop) == {}


def test_what_someone_else_has_wrapped_meanwhile_is_left_to_them():
    loop, brackets = Loop(), Brackets()
    brackets.put(loop, "run", shouting)
    theirs = loop.run = lambda: "theirs"
    brackets.remove()
    assert loop.run is theirs


def test_other_things_are_undone_with_the_brackets_the_last_first():
    undone, brackets = [], Brackets()
    brackets.call_at_removal(lambda: undone.append("first"))
    brackets.call_at_removal(lambda: undone.append("second"))
    brackets.remove()
    brackets.remove()
    assert undone == ["second", "first"]


def test_brackets_that_come_off_in_the_order_in_which_they_were_put_on_leave_nothing():
    loop, first, second = Loop(), Brackets(), Brackets()
    first.put(loop, "run", shouting)
    second.put(loop, "run", shouting)
    first.remove()
    assert "run" in vars(loop)
    second.remove()
    assert vars(loop) == {}


def test_methods_of_a_class_of_every_kind_come_off_without_a_trace():
    class Owner:
        @staticmethod
        def static():
            return "static"

        @classmethod
        def of_class(cls):
            return "class"

    owner, brackets = Owner(), Brackets()
    for method in ("static", "of_class"):
        brackets.put(owner, method, lambda function: lambda: [function()])
    assert (owner.static(), owner.of_class()) == (["static"], ["class"])
    brackets.remove()
    assert not vars(owner)


def test_no_object_is_asked_for_its_dict_which_would_make_its_attributes_slow():
    asked = []

    class Owner:
        def __getattribute__(self, name):
            asked.append(name)
            return super().__getattribute__(name)

        def work(self):
            return 1

    owner, brackets = Owner(), Brackets()
    undo = brackets.put(owner, "work", lambda function: lambda: 1 + function())
    assert owner.work() == 2
    undo()
    brackets.remove()
    assert owner.work() == 1
    assert "__dict__" not in asked
