"""The platform's nouns, as pure values: every store and every edge speaks in these.

Read runs (ids and the table of transitions), specs (what is declared; quantities has its units),
journal (what a run has done), executions (what a node is given, and how it ended) and sandboxes
(what keeps a run in).
"""
