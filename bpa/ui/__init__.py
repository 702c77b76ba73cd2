"""The admin UI: pages that control serves beside REST, made on the server and kept live by htmx.

A request comes in at ``app`` (routes, and what stands before and behind them), passes ``origin``
(who may send it) and ``session`` (who sent it), and reaches a module of ``pages``, which asks one
of control's services, has a module of ``views`` turn the rows into what is shown, and gives that
to ``rendering``. ``views`` and ``words`` are pure: no clock, no I/O, values in and values out.
``templates`` only lay out what a view holds; ``static`` is one style sheet and one script of ours,
``assets`` serves them, and htmx out of its package, under names that change with their content.

May import control and all that is below it, but no SQL and no store: what a page needs and no
service tells is a service's to learn. Read ``app``, then ``pages/runs``, ``views/runs`` and
``templates/runs.html`` for one page from end to end.
"""
