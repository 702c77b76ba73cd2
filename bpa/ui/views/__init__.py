"""What each page shows, made out of what services tell. Pure: values in, values out.

``status`` and ``charts`` are shared, ``last_hour`` is part of the overview; every other module
is one page's.
"""
