import pytest

from tests.processes.faults import KILLED, SLOTS, STOPPED, Fault, line_test, run_fault
from tests.scale import scaled
from workers.messages import Stage

pytestmark = pytest.mark.slow


FAULTS = [(stage, fault) for stage in Stage for fault in (KILLED, STOPPED)]


@pytest.mark.parametrize(("stage", "fault"), FAULTS[: scaled(len(FAULTS), 2)])
async def test_after_a_fault_of_a_worker_calls_go_on_and_the_next_is_served(stage: Stage, fault: Fault) -> None:
    outcomes = await run_fault(line_test(), stage, fault, SLOTS)
    assert outcomes.noticed_s is not None
    assert outcomes.lost == 0
    assert outcomes.left_behind == ""


async def test_a_worker_that_dies_while_it_starts_delays_the_first_call_only() -> None:
    outcomes = await run_fault(line_test(), Stage.STEP, KILLED, 0, at_start=True)
    assert outcomes.noticed_s is not None
    assert outcomes.left_behind == ""
