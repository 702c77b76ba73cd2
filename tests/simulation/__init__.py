"""The lease protocol as values: control's rules, time that jumps, a network that loses."""
