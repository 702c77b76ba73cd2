"""What the platform costs and how quick it is, measured on the installed command.

``python -m tests.bench`` starts ``bpa serve --role all`` on its own data, with one node of 8 slots
and a deployment that may use them all, and prints each figure with its spread; then the same load
with and without durability; then the Service Bus emulator alone, beside RabbitMQ where that is
installed. Timings are read, not tested: none is asserted.
"""
