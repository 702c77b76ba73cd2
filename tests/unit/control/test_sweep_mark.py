"""Whatever the broker buries is read by the sweep after, however low its number is."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import event, given
from hypothesis import strategies as st

from bpa.control.sweep_mark import Mark

ACT = st.tuples(
    st.sampled_from(["arrive", "bury slowly", "bury at once", "complete", "replay"]),
    st.integers(0, 5),
)
ACTS = st.lists(st.one_of(ACT, st.tuples(st.just("sweep"), st.lists(ACT, max_size=4))), max_size=60)


class Broker:
    """A queue, its dead letters, and what a sweep has seen of them."""

    def __init__(self) -> None:
        self.next = 1
        self.waiting: list[int] = []
        self.under_way: list[int] = []
        """Buried, and visible only once the next sweep has read."""
        self.letters: set[int] = set()
        self.seen: set[int] = set()
        self.mark = Mark()

    def act(self, what: str, which: int) -> None:
        if what == "arrive":
            self.waiting.append(self.next)
            self.next += 1
        elif what == "replay" and self.letters:
            self.letters.discard(sorted(self.letters)[which % len(self.letters)])
        elif what != "replay" and self.waiting:
            number = self.waiting.pop(which % len(self.waiting))
            if what == "bury slowly":
                self.under_way.append(number)
            elif what == "bury at once":
                self.letters.add(number)

    def sweep(self, meanwhile: Sequence[tuple[str, int]] = ()) -> int:
        """Read from the mark on, while things happen; return how many letters were read."""
        late = {*self.under_way}
        oldest = min(self.waiting, default=None)
        mark = self.mark.begin(oldest)
        for act in meanwhile:
            self.act(*act)
        read = {number for number in self.letters if number >= mark.new_from}
        self.seen |= read
        missed = self.letters - self.seen
        assert not missed, f"{missed} lie below {mark}"
        self.mark = mark.end(oldest, max(read, default=0))
        self.letters |= late
        self.under_way = [number for number in self.under_way if number not in late]
        return len(read)


@given(ACTS)
def test_a_letter_is_read_by_the_first_sweep_that_could_see_it(acts):
    broker = Broker()
    for what, argument in acts:
        if what == "sweep":
            broker.sweep(argument)
        else:
            broker.act(what, argument)
    event(f"passed some: {broker.mark.new_from > 0}")


def test_what_the_queue_has_passed_is_not_read_again():
    broker = Broker()
    for _ in range(100):
        broker.act("arrive", 0)
    for _ in range(60):
        broker.act("bury at once", 0)
    assert [broker.sweep() for _ in range(4)] == [60, 60, 0, 0]
    broker.act("bury at once", 20)
    assert broker.mark.new_from == 61
    assert broker.sweep() == 1


def test_letters_of_an_empty_queue_are_not_read_for_ever():
    broker = Broker()
    for _ in range(50):
        broker.act("arrive", 0)
        broker.act("bury at once", 0)
    assert [broker.sweep() for _ in range(5)] == [50, 50, 50, 0, 0]


def test_numbers_that_begin_anew_are_read_from_the_first():
    mark = Mark(new_from=500, passed=600, highest=700, checked_to=3)
    assert mark.begin(4) == Mark()
    assert mark.begin(500) == mark.begin(None) == mark
    assert replace(mark, new_from=2).begin(4).end(4, 0).new_from == 4


def test_the_numbers_of_a_partitioned_queue_tell_nothing():
    mark = Mark(new_from=5, passed=6, highest=7)
    assert mark.end((3 << 48) + 1, 9) == mark.end(None, (1 << 48) + 8) == Mark()


def test_checks_go_round():
    mark = Mark(new_from=100)
    assert mark.checked(40).checked_to == 41
    assert mark.checked(40).checked(None) == replace(mark, checked_to=0)
