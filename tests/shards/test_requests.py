"""What targets count, and how it is added up over targets, incarnations and shards."""

from __future__ import annotations

import pytest

from clockworker import DurationStats
from clockworker.executor._histogram_cy import Histogram
from clockworker.shards.protocol._request_readings import MAX_ROUTES, OTHER, Requests, RouteReading
from clockworker.shards.worker._requests import RequestBook


class Fake:
    """A target."""

    def __init__(self, queue: str, route: str) -> None:
        self.queue = queue
        self.route = route
        self.statuses = [0] * 6
        self.refused = self.running = self.waiting = self.websockets = 0
        self.seconds = Histogram()

    def count(self, status: int, ns: int = 0) -> None:
        self.statuses[status // 100] += 1
        if ns:
            self.seconds.record(ns)


def book_of(*targets: Fake) -> RequestBook:
    book = RequestBook()
    book.add(targets)
    return book


def test_each_figure_is_in_its_place() -> None:
    target = Fake("fast", "/reports/*")
    target.statuses = [1, 2, 3, 4, 5, 6]
    target.refused, target.running, target.waiting, target.websockets = 7, 8, 9, 10
    target.seconds.record(11)
    [(queue, route, reading)] = book_of(target).read().rows()
    assert (queue, route) == ("fast", "/reports/*")
    assert reading.statuses == (1, 2, 3, 4, 5, 6)
    assert (reading.refused, reading.running, reading.waiting, reading.websockets) == (7, 8, 9, 10)
    assert reading.time == DurationStats.of(target.seconds)


def test_targets_of_one_queue_and_route_are_one() -> None:
    """Of two rules with the same path; of servers of two addresses."""
    get, post, other = Fake("q", "/a"), Fake("q", "/a"), Fake("r", "/a")
    book = book_of(get, post)
    book.add([other])
    get.count(200, 5)
    post.count(201, 6)
    post.count(404)
    other.count(200)
    requests = book.read()
    assert requests.get("q", "/a").statuses == (0, 0, 2, 0, 1, 0)
    assert requests.get("q", "/a").time.count == 2
    assert requests.get("r", "/a").statuses == (0, 0, 1, 0, 0, 0)


def test_what_stands_still_is_read_as_the_same_object() -> None:
    one, other = Fake("q", "/a"), Fake("q", "/b")
    book = book_of(one, other)
    before = book.read()
    assert book.read() is before
    for change in ("refused", "running", "waiting", "websockets"):
        setattr(one, change, 1)
        after = book.read()
        assert after is not before
        assert after.get("q", "/b") is before.get("q", "/b")
        before = after
    one.count(0)
    assert book.read() is not before


def test_routes_beyond_the_first_are_others_of_their_queue() -> None:
    targets = [Fake(f"q{number % 2}", f"/{number}") for number in range(MAX_ROUTES + 10)] + [Fake("q0", OTHER)]
    for target in targets:
        target.count(200)
    requests = book_of(*targets).read()
    named = [row for row in requests.rows() if row[1] != OTHER]
    assert len(named) == MAX_ROUTES
    assert (requests.get("q0", OTHER).status_2, requests.get("q1", OTHER).status_2) == (6, 5)


def test_others_of_very_many_queues_are_in_the_first_of_them() -> None:
    requests = Requests.of((f"q{number}", OTHER, RouteReading(status_2=1)) for number in range(MAX_ROUTES + 10))
    assert len([*requests.rows()]) == MAX_ROUTES
    assert requests.get("q0", OTHER).status_2 == 11


@pytest.mark.parametrize(("name", "cut"), [("/" + "a" * 200, "/" + "a" * 127), ("/" + "ü" * 100, "/" + "ü" * 63)])
def test_a_long_route_is_cut_between_characters(name: str, cut: str) -> None:
    [(_, route, _)] = book_of(Fake("q", name)).read().rows()
    assert route == cut


def of(**routes: int) -> Requests:
    return Requests({"q": {name: RouteReading(status_2=count, running=count) for name, count in routes.items()}})


def test_what_an_earlier_incarnation_counted_stays() -> None:
    after = of(a=3, b=1).then(of(a=5, c=7))
    assert {name: (row.status_2, row.running) for _, name, row in after.rows()} == {
        "a": (8, 5),
        "c": (7, 7),
        "b": (1, 0),
    }
    assert Requests().then(of(a=1)) == of(a=1)
    assert of(a=1).then(Requests()).get("q", "a") == RouteReading(status_2=1)


def test_routes_that_versions_of_an_application_leave_behind_do_not_become_ever_more() -> None:
    """And what is counted never goes back, in all."""
    books, before = Requests(), 0
    for version in range(10):
        books = books.then(of(**{f"v{version}_{number}": 1 for number in range(30)}))
        count = sum(row.status_2 for _, _, row in books.rows())
        assert count == before + 30
        before = count
        assert len([row for row in books.rows() if row[1] != OTHER]) <= MAX_ROUTES
    assert books.get("q", "v9_0").status_2 == 1, "the newest have their names"


def test_what_has_become_another_is_no_new_request() -> None:
    before = of(**{f"old{number}": 5 for number in range(MAX_ROUTES)})
    now = before.then(of(new=2))
    lately = now.since(before)
    assert lately.get("q", "new").status_2 == 2
    assert sum(row.status_2 for _, _, row in lately.rows()) == 2


def test_shards_are_added_up_with_all_their_names() -> None:
    many = [of(**{f"v{version}_{number}": 1 for number in range(50)}) for version in range(2)]
    total = Requests.total(many)
    assert len([*total.rows()]) == 100
    assert Requests.total([of(a=1), of(a=2, b=3)]).get("q", "a").status_2 == 3
    assert Requests.total([]) == Requests()
