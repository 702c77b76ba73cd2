"""The pages, one module each: handlers that ask services, and answer with a view of what they say.

A handler reads its request, calls services, hands what they return to a view and that to a
template. Whatever changes something is a POST that answers 303 with the way to a page, so that a
reload repeats nothing; a page that is asked for by htmx is its living part alone.
"""
