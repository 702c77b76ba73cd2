"""The demonstration's own account: what was expected, what was seen, and whether they agree.

Pure but for ``documents``, which reads the files under ``demo/``. Read ``documents``, then
``seen`` (what the queue, control and the target said), ``account`` (what does not agree) and
``summary`` (what is shown). The command ``bpa demo`` does all the talking.
"""
