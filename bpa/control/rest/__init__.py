"""REST, resource by resource: what ``bpa.control.http`` puts together.

``services`` is what handlers work with, the ``schemas`` and ``headers`` what they say and take;
``edge``, ``verbs`` and ``bodies`` stand before the handlers (hostile input, paths), ``problems``
behind them (errors); ``openapi``, ``document`` and ``examples`` describe them.
Handlers check the form of a request and call one service; no rule of the domain lives here.
"""
