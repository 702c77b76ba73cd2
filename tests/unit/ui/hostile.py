"""A text that tries whatever a text can try on who looks at it."""

HOSTILE = (
    "<b-evil onclick=alert(1)>\"'><script>alert(1)</script>{{ 7 * 7 }}{% raw %}javascript:alert(1)"
    "\0\x1b[31m\u202eevil\u2066\u200b\ufeff" + "e" + "\u0301" * 10_000 + "</textarea></title>"
)
