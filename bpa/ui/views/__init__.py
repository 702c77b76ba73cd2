"""What each page shows, made out of what services tell. Pure: values in, values out.

``status`` and ``charts`` are shared; every other module is one page's.
"""
