"""A model stub that speaks the Anthropic Messages API: rules that read, no model behind them.

Read in this order: ``server`` (the edge), ``protocol`` (what is accepted), ``answers`` (what is
said), then how a document is read: ``documents``, ``structured``, ``prose``, ``facts``,
``routes``; ``events`` and ``tokens`` write and weigh an answer, ``rules`` and ``ledger`` serve
the control endpoints. It imports the foundation and its neighbours ``web`` and ``script`` alone.
"""

from bpa.embedded.anthropic.server import AnthropicStub, StubOptions

__all__ = ["AnthropicStub", "StubOptions"]
