from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from app.calls.prompts import Prompts, Refusal
from workers.messages import DropPrompt, PreparePrompt, PromptMessage, PromptReady, PromptRefused


def prompt(key: str) -> PreparePrompt:
    return PreparePrompt(key, f"the text of {key}")


def ready(key: str) -> PromptReady:
    return PromptReady(key, 20, 1_000)


def keys(messages: Sequence[PromptMessage]) -> list[str]:
    return [f"{'-' if isinstance(message, DropPrompt) else '+'}{message.key}" for message in messages]


def started(**wanted: str) -> Prompts:
    """Return prompts that are ready, by persona and key."""
    prompts = Prompts()
    prompts.want({name: prompt(key) for name, key in wanted.items()})
    for message in prompts.on_pipeline_ready():
        prompts.on_answer(ready(message.key))
    return prompts


def test_calls_wait_until_each_prompt_is_ready_or_refused() -> None:
    prompts = Prompts()
    assert keys(prompts.want({"ada": prompt("A"), "bob": prompt("B")})) == [], "there is no pipeline yet"
    assert not prompts.settled
    assert keys(prompts.on_pipeline_ready()) == ["+A", "+B"]
    prompts.on_answer(ready("A"))
    assert (prompts.settled, prompts.key("ada"), prompts.key("bob")) == (False, "A", "")
    prompts.on_answer(PromptRefused("B", "the checkpoint takes no voices"))
    assert prompts.settled
    assert prompts.refusals == [Refusal("bob", "the checkpoint takes no voices", "")]


def test_without_prompts_nothing_is_waited_for() -> None:
    prompts = Prompts()
    assert prompts.on_pipeline_ready() == []
    assert prompts.settled


def test_two_personas_with_one_prompt_have_it_prepared_once() -> None:
    prompts = Prompts()
    prompts.want({"ada": prompt("A"), "bob": prompt("A")})
    assert keys(prompts.on_pipeline_ready()) == ["+A"]
    prompts.on_answer(ready("A"))
    assert (prompts.key("ada"), prompts.key("bob")) == ("A", "A")
    assert keys(prompts.want({"ada": prompt("A")})) == [], "ada still has it"
    assert keys(prompts.want({})) == ["-A"]


def test_the_former_prompt_serves_until_the_new_one_is_ready_and_no_call_waits() -> None:
    prompts = started(ada="A")
    assert keys(prompts.want({"ada": prompt("A2")})) == ["+A2"]
    assert (prompts.key("ada"), prompts.settled) == ("A", True)
    assert keys(prompts.on_answer(ready("A2"))) == ["-A"]
    assert prompts.key("ada") == "A2"


def test_a_new_prompt_that_is_refused_leaves_the_former_one() -> None:
    prompts = started(ada="A")
    prompts.want({"ada": prompt("A2")})
    assert keys(prompts.on_answer(PromptRefused("A2", "too long"))) == []
    assert prompts.refusals == [Refusal("ada", "too long", "A")]
    assert keys(prompts.want({"ada": prompt("A")})) == [], "the edit is undone"
    assert prompts.refusals == []


def test_a_prompt_that_the_engine_can_compute_no_more_is_not_asked_for() -> None:
    """It keeps prompts within a limit of memory, and computes one again when a call begins with it."""
    prompts = started(ada="A")
    assert keys(prompts.on_answer(PromptRefused("A", "no memory"))) == []
    assert prompts.key("ada") == ""


def test_an_edit_that_is_undone_at_once_costs_nothing_but_the_prompt_in_between() -> None:
    prompts = started(ada="A")
    assert keys(prompts.want({"ada": prompt("A2")})) == ["+A2"]
    assert keys(prompts.want({"ada": prompt("A")})) == [], "the engine still computes it"
    assert keys(prompts.on_answer(ready("A2"))) == ["-A2"]
    assert prompts.key("ada") == "A"


def test_a_persona_that_is_deleted_or_loses_its_prompt_has_none() -> None:
    prompts = started(ada="A", bob="B")
    assert keys(prompts.want({"bob": prompt("B")})) == ["-A"]
    assert prompts.key("ada") == ""


def test_after_a_loss_everything_is_prepared_again() -> None:
    prompts = started(ada="A")
    prompts.on_pipeline_lost()
    assert (prompts.settled, prompts.key("ada")) == (False, "")
    assert keys(prompts.want({"ada": prompt("A2")})) == []
    assert keys(prompts.on_pipeline_ready()) == ["+A2"]
    assert prompts.on_answer(ready("A")) == [], "of the pipeline that is gone"
    assert not prompts.settled
    prompts.on_answer(ready("A2"))
    assert prompts.settled


def test_a_prompt_that_no_persona_wants_any_more_can_be_sent_again_for_calls_that_began_with_it() -> None:
    prompts = started(ada="A")
    assert prompts.former("A") is None, "the next pipeline is told of it anyway"
    prompts.want({"ada": prompt("A2")})
    assert prompts.former("A") == prompt("A")
    prompts.on_pipeline_lost()
    assert (prompts.former("A"), prompts.former("A2"), prompts.former("B")) == (prompt("A"), None, None)


def test_a_prompt_that_changes_while_it_is_waited_for_is_waited_for_anew() -> None:
    prompts = Prompts()
    prompts.want({"ada": prompt("A")})
    prompts.on_pipeline_ready()
    assert keys(prompts.want({"ada": prompt("A2")})) == ["+A2"]
    assert keys(prompts.on_answer(ready("A"))) == ["-A"]
    assert not prompts.settled
    prompts.on_answer(ready("A2"))
    assert prompts.settled


NAMES, KEYS = ("ada", "bob"), ("A", "B", "C")
WANTED = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(KEYS))
STEP = st.one_of(WANTED, st.sampled_from(["lost", "ready"]), st.tuples(st.just("answer"), st.booleans()))


@given(st.lists(STEP, max_size=30))
def test_whatever_happens_a_call_begins_with_a_prompt_that_the_engine_has(steps: list[object]) -> None:
    """The engine computes in order, and keeps what it is not told to drop."""
    prompts, kept, computing, is_on = Prompts(), set[str](), list[str](), False

    def sent(messages: Sequence[PromptMessage]) -> None:
        for message in messages:
            if isinstance(message, DropPrompt):
                kept.remove(message.key)
            else:
                assert message.key not in kept
                assert message.key not in computing
                computing.append(message.key)

    for step in steps:
        match step:
            case "lost":
                is_on = False
                kept.clear()
                computing.clear()
                prompts.on_pipeline_lost()
            case "ready" if not is_on:
                is_on = True
                sent(prompts.on_pipeline_ready())
            case ("answer", bool(is_good)) if computing:
                key = computing.pop(0)
                kept.update({key} if is_good else ())
                sent(prompts.on_answer(ready(key) if is_good else PromptRefused(key, "no")))
            case dict():
                sent(prompts.want({name: prompt(key) for name, key in step.items()}))
        assert {prompts.key(name) for name in NAMES} <= {*kept, ""}
        assert not computing or is_on
    assert len(kept) <= len(KEYS)
