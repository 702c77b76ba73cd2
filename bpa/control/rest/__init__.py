"""REST, resource by resource: what ``bpa.control.http`` puts together.

``services`` is what handlers work with, the ``schemas`` and ``headers`` what they say and take;
``verbs`` and ``bodies`` stand before the handlers (paths, hostile input), ``problems`` behind them
(errors).
Handlers check the form of a request and call one service; no rule of the domain lives here.
"""
