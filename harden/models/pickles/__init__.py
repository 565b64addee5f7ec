"""Pickles opened without running code.

`scan` reads from the opcodes what a pickle would import, call and allocate; nothing of it is done. `inert` lets torch
read the file with a stand-in for every class, so that the result is data. `names` lists what may stand in a file.
`rebuild` makes networks of the data, class by class, and refuses everything that is not on the lists.
"""
