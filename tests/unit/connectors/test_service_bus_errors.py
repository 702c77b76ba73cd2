import pytest
from azure.servicebus import exceptions as sb

from bpa.connectors import SettlementLost
from bpa.connectors.service_bus.client import leaves_the_link_up, translated
from bpa.errors import InvalidRequest, NotFound, StartupError, Unavailable

ENTITY = "queue 'invoices'"


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (sb.MessagingEntityNotFoundError(), NotFound),
        (sb.ServiceBusAuthenticationError(), StartupError),
        (sb.ServiceBusAuthorizationError(), StartupError),
        (sb.MessageLockLostError(), SettlementLost),
        (sb.MessageAlreadySettled(), SettlementLost),
        (sb.MessageNotFoundError(), SettlementLost),
        (sb.MessageSizeExceededError(), InvalidRequest),
        (sb.MessagingEntityDisabledError(), Unavailable),
        (sb.ServiceBusServerBusyError(), Unavailable),
        (sb.ServiceBusConnectionError(), Unavailable),
        (sb.OperationTimeoutError(), Unavailable),
        (TimeoutError(), Unavailable),
        (OSError("broken pipe"), Unavailable),
        (ValueError("The handler has already been shutdown."), Unavailable),
        (AttributeError("'NoneType' object has no attribute 'flow'"), Unavailable),
    ],
)
def test_each_error_of_the_sdk_has_one_of_ours_that_names_the_queue(error, ours):
    cause = translated(error, ENTITY)
    assert type(cause) is ours
    assert ENTITY in str(cause)
    assert "\n" not in str(cause)


def test_our_own_errors_pass_unchanged():
    ours = NotFound("queue 'x' does not exist")
    assert translated(ours, ENTITY) is ours


def test_a_busy_broker_does_not_cost_the_locks():
    assert leaves_the_link_up(sb.ServiceBusServerBusyError())
    assert not leaves_the_link_up(sb.ServiceBusConnectionError())
