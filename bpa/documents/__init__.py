"""Reading invoices: from the bytes of a message to what the model may see and what code knows.

Pure: no I/O, no clock, no asyncio; imports ``bpa.errors`` and nothing else of the platform.

Read in this order: ``values`` (Document, Fields), ``decoding`` (the one door for every message
body), ``json_invoice``, ``ubl`` and ``cii`` (the dialects read by code, over ``json_tree`` and
``xml_tree``), ``summary`` (a structured document reduced to its business fields), ``quotes``
(values taken from prose only if they stand there verbatim, over ``amounts``, ``currencies``,
``dates``), ``answers`` (what the model is asked, and the check of what it says), ``payloads``
(the bytes the target gets), ``schema_checks`` (a JSON Schema that a deployment demands), ``wire``
(storage).

Who decides what: invoice id, total, currency, date and kind are read by code from a structured
document and never taken from a model. The vendor is the document's seller where code read one,
otherwise the model's answer. The route and the confidence are always the model's.
"""
