"""Movies into MRCZ archives and out of them, without a daemon and without a configuration: `komad mrcz`.

`pack` and `unpack` take one movie, `look` says what is in a file and whether it is whole, `many` does it for a list.
"""
