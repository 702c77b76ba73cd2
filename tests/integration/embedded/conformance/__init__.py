"""What Service Bus promises of a queue, one small case for each rule, over real clients.

``sdk`` drives azure-servicebus, blocking and async alike, through one set of cases; ``peer`` is a
bare AMQP client for what the SDKs never send; ``node`` plays the core cases over npm's clients. The
rules are those of Microsoft's documentation, and each case is named after the one it checks.
"""
