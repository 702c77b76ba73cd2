import pytest

from bpa.domain.conversation import compose
from bpa.domain.journal import Usage
from bpa.domain.specs import AgentSpec
from bpa.errors import Reason, RunEnded
from bpa.node.model_calls import ModelCalls, ModelRefused
from bpa.node.providers import ModelAnswer, ModelCallFailed
from bpa.retry import RetryPolicy

REQUEST = compose(
    {"messages": [{"role": "user", "contents": []}]}, AgentSpec("a", "1", "a", "i"), []
)
ANSWER = ModelAnswer({}, Usage(), "m", "id", "stop")
BUSY = ModelCallFailed("busy", status=529, is_retryable=True)
LOST = ModelCallFailed("lost", is_retryable=True)
WRONG = ModelCallFailed("wrong", status=400)


class Scripted:
    """Answers as a list says; stands for a provider where only our own rules matter."""

    name = "scripted"

    def __init__(self, *script):
        self.script = list(script)
        self.pauses = []
        self.told_lost = []

    async def answer(self, request):
        told = self.script.pop(0)
        if isinstance(told, Exception):
            raise told
        return told

    async def count_tokens(self, request):
        return 5

    async def sleep(self, seconds):
        self.pauses.append(seconds)

    async def lost(self):
        self.told_lost.append(len(self.script))

    def ask(self, provider="p"):
        return self.calls().answer(provider, REQUEST, after_lost=self.lost)

    def calls(self):
        policy = RetryPolicy(base_s=1.0, cap_s=10.0)
        return ModelCalls({"p": self}, policy=policy, sleep=self.sleep, draw=lambda: 0.5)


async def test_one_try_and_three_more_with_growing_pauses():
    model = Scripted(BUSY, LOST, BUSY, ANSWER)
    assert await model.ask() is ANSWER
    assert model.pauses == [0.5, 1.0, 2.0]


async def test_the_provider_says_how_long_to_wait():
    model = Scripted(
        ModelCallFailed("slow", status=429, is_retryable=True, retry_after_s=7.0), ANSWER
    )
    await model.ask()
    assert model.pauses == [7.5]


async def test_each_lost_answer_is_told_once_before_the_next_try():
    model = Scripted(LOST, BUSY, LOST, ANSWER)
    assert await model.ask() is ANSWER
    assert model.told_lost == [3, 1]


async def test_each_try_is_told_after_the_loss_of_the_one_before():
    model, told = Scripted(BUSY, LOST, ANSWER), []

    async def lost():
        told.append("lost")

    await model.calls().answer("p", REQUEST, after_lost=lost, before_try=lambda: told.append("try"))
    assert told == ["try", "try", "lost", "try"]


async def test_a_request_that_was_never_sent_is_not_lost():
    unsent = ModelCallFailed("refused", was_sent=False, is_retryable=True)
    model = Scripted(*[unsent] * 4)
    with pytest.raises(ModelRefused) as caught:
        await model.ask()
    assert caught.value.is_unused
    assert model.told_lost == []


async def test_whoever_is_told_of_a_lost_answer_may_end_the_call():
    class Enough(Scripted):
        async def lost(self):
            raise RunEnded(Reason.BUDGET_EXCEEDED, "enough")

    model = Enough(LOST, ANSWER)
    with pytest.raises(RunEnded, match="enough"):
        await model.ask()
    assert model.script == [ANSWER]


async def test_a_count_that_fails_says_nothing_of_what_was_paid_for():
    class Counting(Scripted):
        count_tokens = Scripted.answer

    with pytest.raises(RunEnded) as caught:
        await Counting(WRONG).calls().count_tokens("p", REQUEST)
    assert type(caught.value) is RunEnded


@pytest.mark.parametrize(
    ("script", "reason", "is_unused"),
    [
        ([BUSY] * 4, Reason.RETRIES_EXHAUSTED, True),
        ([BUSY, LOST, BUSY, BUSY], Reason.RETRIES_EXHAUSTED, True),
        ([BUSY, BUSY, BUSY, LOST], Reason.RETRIES_EXHAUSTED, False),
        ([WRONG], Reason.NON_RETRYABLE_HTTP_STATUS, True),
        ([LOST, WRONG], Reason.NON_RETRYABLE_HTTP_STATUS, True),
        ([ModelCallFailed("odd")], Reason.AGENT_ERROR, False),
    ],
)
async def test_what_cannot_be_mended_ends_the_run_and_says_whether_the_last_was_paid_for(
    script, reason, is_unused
):
    model = Scripted(*script)
    with pytest.raises(ModelRefused) as caught:
        await model.ask()
    assert (caught.value.reason, caught.value.is_unused) == (reason, is_unused)
    assert model.script == []


async def test_an_answer_that_was_cut_off_is_handed_on_with_its_usage():
    cut = ModelCallFailed("cut off", usage=Usage(output_tokens=3))
    with pytest.raises(ModelCallFailed) as caught:
        await Scripted(cut).ask()
    assert caught.value.usage == Usage(output_tokens=3)


async def test_a_provider_that_the_node_does_not_have_is_named():
    with pytest.raises(RunEnded, match="'q'; this node has: p"):
        await Scripted().ask("q")
