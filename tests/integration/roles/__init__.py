"""Roles over stores that come late, freeze, restart and go."""
