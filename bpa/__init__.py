"""Business process agents: messages on a queue become finished business actions.

Read the packages in the order in which a message meets them: ``connectors`` (receive),
``control`` (ingest, settlement, the API), ``scheduler`` (plan), ``node`` (lease, think,
http.out), and again ``control`` (complete). ``documents`` reads invoices, ``embedded`` holds the
servers of the local default, ``roles`` shows each process's start-up from top to bottom.
"""

__version__ = "0.1.0"
