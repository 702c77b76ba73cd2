"""The error conditions clients know, each with the status that goes with it in a response."""

NOT_FOUND = "amqp:not-found"
NOT_ALLOWED = "amqp:not-allowed"
NOT_IMPLEMENTED = "amqp:not-implemented"
DECODE_ERROR = "amqp:decode-error"
INTERNAL_ERROR = "amqp:internal-error"
UNAUTHORIZED = "amqp:unauthorized-access"
CONNECTION_FORCED = "amqp:connection:forced"
MESSAGE_SIZE_EXCEEDED = "amqp:link:message-size-exceeded"
MESSAGE_LOCK_LOST = "com.microsoft:message-lock-lost"
ARGUMENT_ERROR = "com.microsoft:argument-error"

LOCK_LOST_TEXT = (
    "The lock supplied is invalid. Either the lock expired, or the message has already been "
    "removed from the queue."
)
