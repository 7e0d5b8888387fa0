"""The small world of people: a procedural painter, a caption grammar and a writer of SynCPR- and ITCPR-style folders.

`people` holds who and what can be painted, `painter` paints one person, `captions` writes the sentences, and `world`
puts a training set and a test set on disk (`from fafa.synthesis.world import make_world`). Only numpy and Pillow.
"""
