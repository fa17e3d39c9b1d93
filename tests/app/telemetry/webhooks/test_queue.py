from hypothesis import given
from hypothesis import strategies as st

from app.telemetry.webhooks.queue import PAUSES_S, DeliveryQueue, WebhookEvent
from app.twilio.events import CallSid


def event(call: str, name: str) -> WebhookEvent:
    return WebhookEvent(name, CallSid(call), b"{}")


def ids(events: list[WebhookEvent]) -> list[str]:
    return [one.id for one in events]


def test_events_of_a_call_go_one_after_the_other() -> None:
    queue = DeliveryQueue()
    first, second = event("CA1", "a"), event("CA1", "b")
    queue.add(first)
    queue.add(second)
    assert queue.start_due(0.0) == [first]
    assert queue.start_due(0.0) == []
    queue.succeeded(first)
    assert queue.start_due(0.0) == [second]


def test_events_of_several_calls_go_side_by_side_up_to_a_limit() -> None:
    queue = DeliveryQueue(most_posts=2)
    for call in ("CA1", "CA2", "CA3"):
        queue.add(event(call, call))
    assert ids(queue.start_due(0.0)) == ["CA1", "CA2"]
    assert queue.get_timer() is None
    queue.succeeded(event("CA1", "CA1"))
    assert ids(queue.start_due(0.0)) == ["CA3"]


def test_a_failed_event_goes_again_after_growing_pauses_and_is_lost_after_the_last() -> None:
    queue = DeliveryQueue()
    one = event("CA1", "a")
    queue.add(one)
    queue.add(event("CA1", "b"))
    now = 0.0
    for pause_s in PAUSES_S:
        assert ids(queue.start_due(now)) == ["a"]
        assert queue.failed(one, now, again=True)
        assert queue.get_timer() == now + pause_s
        assert queue.start_due(now + pause_s - 0.01) == []
        now += pause_s
    queue.start_due(now)
    assert not queue.failed(one, now, again=True)
    assert queue.lost == 1
    assert ids(queue.start_due(now)) == ["b"]


def test_a_refused_event_is_lost_at_once() -> None:
    queue = DeliveryQueue()
    queue.add(event("CA1", "a"))
    [one] = queue.start_due(0.0)
    assert not queue.failed(one, 0.0, again=False)
    assert (queue.lost, len(queue)) == (1, 0)


def test_a_receiver_may_ask_for_a_longer_pause() -> None:
    queue = DeliveryQueue()
    queue.add(event("CA1", "a"))
    [one] = queue.start_due(0.0)
    queue.failed(one, 0.0, again=True, pause_s=12.0)
    assert queue.get_timer() == 12.0


def test_without_room_the_oldest_event_that_is_not_on_its_way_is_lost() -> None:
    queue = DeliveryQueue(most_events=2)
    queue.add(event("CA1", "a"))
    queue.start_due(0.0)
    queue.add(event("CA1", "b"))
    queue.add(event("CA2", "c"))
    assert queue.lost == 1
    queue.succeeded(event("CA1", "a"))
    assert ids(queue.start_due(0.0)) == ["c"]


@given(st.lists(st.tuples(st.sampled_from("PQR"), st.sampled_from(["add", "ok", "again", "no"])), max_size=80))
def test_every_event_is_delivered_in_order_or_counted_as_lost(moves: list[tuple[str, str]]) -> None:
    queue, added, now = DeliveryQueue(6, 2), 0, 0.0
    posted: dict[str, WebhookEvent] = {}
    delivered: list[WebhookEvent] = []
    for call, move in moves:
        if move == "add":
            added += 1
            queue.add(event(call, f"{added:03}"))
        elif one := posted.pop(call, None):
            if move == "ok":
                queue.succeeded(one)
                delivered.append(one)
            else:
                queue.failed(one, now, again=move == "again")
        now += 40.0
        posted |= {one.call_sid: one for one in queue.start_due(now)}
        assert len(queue) <= 6
        assert added == len(delivered) + queue.lost + len(queue)
    for call in "PQR":
        of_call = [one.id for one in delivered if one.call_sid == call]
        assert of_call == sorted(of_call)
